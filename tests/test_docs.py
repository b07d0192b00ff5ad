"""The documentation builds without warnings, its code runs, its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from elmnet.sweep.recipe import Recipe

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.py"))


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text()], ids=lambda page: page.stem)
def test_code_runs(page, registries):
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        exec(compile(block, page.name, "exec"), names)


def test_recipes_expand_and_all_that_come_with_the_package_are_named(text_file, tmp_path):
    page = (DOCS / "clusters.md").read_text()
    (block,) = re.findall(r"```yaml\n(name: .*?)```", page, re.S)
    (tmp_path / "mine.yaml").write_text(block.replace("/data/enwik8.xz", str(text_file)))
    found = Recipe.read(tmp_path / "mine.yaml").expand()
    assert len(found) == 9 + 2 + 20
    for file in (ROOT / "src" / "elmnet" / "sweep" / "recipes").glob("*.yaml"):
        published = file.stem.removesuffix("-small")
        assert f"`{file.stem}`" in page or f"`{published}`" in page, file.stem


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith("http"):
            script = Path(target).with_suffix(".py")  # a notebook's page is written when the site is built
            assert (page.parent / target).exists() or (page.parent / script) in NOTEBOOKS, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_sections_lead_somewhere(page):
    for file, section in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text()):
        if not file.startswith("http"):
            text = (page.parent / file if file else page).read_text()
            headings = re.findall(r"^#+ (.*)$", text, re.M)
            assert section in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, (
                section
            )


def test_every_command_that_is_named_exists():
    from elmnet.cli import _COMMANDS, _DATA, _SWEEPS

    known = {*_COMMANDS, "data", "sweep"}
    for page in (p for p in PAGES if p.stem != "LOG"):
        for name, rest in re.findall(r"`?\belmnet ([a-z]+)(?: ([a-z-]+))?", "\n".join(_code(page.read_text()))):
            assert name in known, f"{page.name}: elmnet {name}"
            if name in ("data", "sweep") and rest:
                assert rest in (_DATA if name == "data" else _SWEEPS), f"{page.name}: elmnet {name} {rest}"


def _code(text):
    """Code blocks, indented blocks and inline code."""
    yield from re.findall(r"```sh\n(.*?)```", text, re.S)
    yield from re.findall(r"^    (elmnet .*)$", text, re.M)
    yield from re.findall(r"`(elmnet [^`]*)`", text)


def test_every_figure_can_be_drawn_anew(monkeypatch):
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra `report`)")
    monkeypatch.syspath_prepend(DOCS)
    import draw

    committed = {path.stem for path in (DOCS / "figures").glob("*.svg")}
    assert committed == set(draw.FIGURES)
    assert "<svg" in draw.draw("functions")


def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("sphinx", reason="needs Sphinx (extra `docs`)")
    pytest.importorskip("jupytext", reason="needs Jupytext (extra `docs`)")
    for page in (DOCS / "notebooks").glob("*.md"):
        page.unlink()  # so that the notebooks run
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "theory.html").read_text()
    assert "SNR-redundancy" in page
    assert "ELMLayer" in (tmp_path / "api.html").read_text()
    assert "of 16 dimensions" in (tmp_path / "notebooks" / "inside.html").read_text()
    assert "near-optimal: d_m" in (tmp_path / "notebooks" / "budget.html").read_text()
    assert len(list((tmp_path / "_images").glob("inside-*.svg"))) >= 4
