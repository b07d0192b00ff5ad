"""Reports: self-contained, escaped, complete; what a sweep's pictures show."""

import json
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import conftest
import pytest
import yaml
from conftest import simulated

from elmnet.cli import main
from elmnet.errors import ConfigError, RunError
from elmnet.report import interactive, of_runs
from elmnet.report.build import report
from elmnet.report.figures import curves
from elmnet.report.of_theory import theory
from elmnet.report.page import Figure, Section, Table, digest, render
from elmnet.train.config import compose
from elmnet.train.journal import read_metrics

pytest.importorskip("matplotlib", reason="needs matplotlib (extra `report`)")
pytest.importorskip("duckdb", reason="needs DuckDB (extra `sweep`)")

SETTINGS = {
    "options.chunk": 10,
    "options.streams": 4,
    "options.final_test_streams": 32,
    "options.final_valid_streams": 32,
    "training.eval_every": 10,
    "training.log_every": 5,
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, text_file):
    """A small sweep over d_m and N, one trial failed."""
    place = tmp_path_factory.mktemp("sweep")
    base = {"branches": 4, "synapses": 3}
    groups = [
        {"grid": {**base, "memory": [2, 3, 4, 5], "units": 8}, "seeds": [0, 1], "steps": 10},
        {"grid": {**base, "memory": 3, "units": [4, 8, 16, 32]}, "steps": 10},
        {"grid": {**base, "memory": 3, "units": 5, "training.learning_rate": 1e30}, "steps": 40},
    ]
    document = {"name": "<b>bold</b>", "task": "enwik8", "data": str(text_file), "preset": "tiny", "set": SETTINGS}
    (place / "recipe.yaml").write_text(yaml.safe_dump({**document, "trials": groups}))
    with pytest.raises(SystemExit, match="1"):
        main(["sweep", "run", str(place / "recipe.yaml"), "--out", str(place / "sweep"), "--workers", "1"])
    return place / "sweep"


def test_what_d_m_is_worth_in_a_sweep(sweep, capsys):
    code, out, _ = conftest.run(capsys, "compare", str(sweep), "--by", "d_m", "--against", "3")
    assert code == 0
    words = out.replace("\n", " ")
    assert re.search(r"\b3 +5 ", words), "3: two seeds of 8 units, and three other sizes"
    assert all(re.search(rf"\b{d_m} +2 +\d\.\d{{4}} +2 ", words) for d_m in (2, 4, 5)), "two runs each, in two pairs"
    assert "pairs share seed, model.layers.0.units" in out
    assert "1 left out: trials/" in out


class Outline(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "br", "img", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass


def outline(text):
    parser = Outline()
    parser.feed(text)
    return parser.tags


def test_a_report_of_everything(capsys, sweep, tmp_path):
    run = next(path.parent for path in sweep.glob("trials/*/result.json"))
    out, pictures = tmp_path / "report.html", tmp_path / "figures"
    arguments = ["report", "published:enwik8", str(sweep), str(run), "--out", str(out), "--figures", str(pictures)]
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    page = out.read_text()
    assert len(page) < 5_000_000
    tags = outline(page)
    assert not [t for t, _ in tags if t in ("link", "iframe", "img", "object")]  # nothing from elsewhere
    assert not [a for t, a in tags if t == "script" and "src" in a]
    assert not re.findall(r"(?:src|href)=[\"']https?:", re.sub(r"xmlns[^>]*", "", page))
    headings = re.findall(r"<h2[^>]*>([^<]*)", page)
    assert headings[0].startswith("What limits these networks: published:enwik8")
    assert "&lt;b&gt;bold&lt;/b&gt;" in headings[1]
    assert "<b>" not in page
    assert headings[-2:] == [f"Run {run.name}", f"Inside {run.name}"]
    shown = re.sub(r"<template.*?</template>", "", page, flags=re.S)
    roles = [attributes.get("aria-label") for tag, attributes in tags if attributes.get("role") == "img"]
    assert len(roles) == shown.count("<svg") == len(list(pictures.glob("*.svg"))) == len(list(pictures.glob("*.png")))
    assert all(len(words) > 30 for words in roles)
    assert "DivergedError" in page
    assert "How to spend the next budget" in page


def test_the_next_budget_buys_as_many_synapses_as_the_runs_say_they_are_worth():
    def wired(runs):
        (table,) = (table for table in theory(runs).tables if table.title == "How to spend the next budget")
        return [tuple(row[table.columns.index(name)] for name in ("d_tree", "d_s")) for row in table.rows]

    assert wired(simulated([1e5], [15])) == [("50", "15")] * 3
    synapses = [int(d_s) for _, d_s in wired(simulated([1e5, 1e6], [4, 15, 40]))]
    assert 4 < synapses[0] < synapses[1] < synapses[2] <= 80


def test_ids_are_unique_and_links_lead_somewhere(sweep):
    page = render("two", report(["published:enwik8", str(sweep)]))
    shown = re.sub(r"<template.*?</template>", "", page, flags=re.S)
    headings, ids = (re.findall(rf"<{tag} [^>]*\bid=\"([^\"]+)\"", shown) for tag in ("h2", r"\w+"))
    links = re.findall(r"href=\"#(s\d+)\"", page)
    assert len(ids) == len(set(ids)) > len(headings)
    assert links == headings != []


def line(name):
    from elmnet.report.figures.style import axis

    ax = axis(None)
    ax.plot([1, 10, 100], [3, 2, 1], label=name)
    return ax


def test_names_from_outside_are_escaped():
    words = '<script>alert("x")</script> $\\frac{1}$'
    page = render(words, [Section(words, [words], [Table(words, (words,), [(words,)])])])
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;") >= 6


def test_a_name_cannot_end_the_data_of_a_figure():
    name = "</script><script>alert(1)</script>"
    page = render("page", [Section("one", figures=[Figure("f", name, name, lambda: line(name))])])
    assert page.count("</script>") == 2  # the figure's data, the page's script
    assert "<script>alert" not in page
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert json.loads(data)["axes"][0]["series"][0]["name"] == name


def test_the_policy_lets_the_own_script_run_and_no_other():
    page = render("page", [])
    (script,) = re.findall(r"<script>(.*)</script>", page, re.S)
    assert f"script-src 'sha256-{digest(script)}'\"" in page


def test_a_name_with_a_formula_in_it_is_drawn(sweep, tmp_path):
    from dataclasses import replace

    from elmnet.report import figures
    from elmnet.theory import fit, published

    runs = replace(published("enwik8"), source="runs/$\\frac{oops$")
    known = fit(runs, draws=0)
    assert "oops" in figures.svg(lambda: figures.budget_curve(known))


def test_an_unfinished_run_and_one_with_a_torn_last_line(sweep, tmp_path):
    run = next(path.parent for path in sweep.glob("trials/*/result.json"))
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "result.json").unlink()
    with (copy / "metrics.jsonl").open("ab") as file:
        file.write(b'{"event": "train", "st')
    lines = read_metrics(copy / "metrics.jsonl")
    assert len(lines) == len((run / "metrics.jsonl").read_text().splitlines())
    page = render("run", report([str(copy)]))
    assert "not finished: no final scores" in page
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml").write_text("config: [")
    *_, last = report([str(tmp_path)], inside=False)  # of several, the others are reported
    assert last.title == "Left out" and "config.yaml: damaged" in last.tables[0].rows[0][1]
    with pytest.raises(RunError, match="damaged"):
        report([str(tmp_path / "broken")])


def test_a_look_inside_says_what_is_missing_and_goes_on(sweep, tmp_path, text_file):
    run = next(path.parent for path in sweep.glob("trials/*/result.json"))
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace(str(text_file), "/nowhere/words.txt"))
    inside = report([str(copy)])[1]
    assert "Its data are not at hand" in inside.words[0]
    assert [figure.name for figure in inside.figures] == ["degrees", "readout"]
    (copy / "best" / "model.safetensors").write_bytes(b"")
    assert report([str(copy)])[1].words[0].startswith("No look inside: ")
    assert len(report([str(copy)], inside=False)) == 1


def test_surprise_shades_every_character_of_the_sample(sweep):
    run = next(path.parent for path in sweep.glob("trials/*/result.json"))
    (passage,) = report([str(run)])[1].passages
    text = "".join(piece for _, piece in passage.pieces)
    assert len(text) > 50
    assert "neuron" in text
    assert {level for level, _ in passage.pieces} <= set(range(5))


def test_learning_curves_show_the_metrics(sweep):
    run = next(path.parent for path in sweep.glob("trials/*/result.json"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    ax = curves.learning_curve(lines)
    training, validation = ax.lines
    assert training.get_ydata().tolist() == [one["cross_entropy"] for one in lines if one["event"] == "train"]
    assert validation.get_ydata().tolist() == [one["nats"] for one in lines if one["event"] == "valid"]


def test_many_long_curves_are_drawn_with_fewer_points():
    """A page of 500 runs has room for them; whatever is drawn begins and ends where the run did."""
    lines = [{"event": "valid", "step": step, "bpc": 2 + 1 / (step + 1)} for step in range(300)]
    ax = curves.learning_curves([(3, lines)] * 200, "bpc")
    assert 9_000 < sum(len(line.get_xdata()) for line in ax.lines) <= 10_000
    assert {(line.get_xdata()[0], line.get_xdata()[-1], line.get_marker()) for line in ax.lines} == {(0, 299, "")}
    few = curves.learning_curves([(3, lines), (5, lines[:7])], "bpc")
    assert [(len(line.get_xdata()), line.get_marker()) for line in few.lines] == [(300, "."), (7, ".")]


def test_seeds_without_a_number_are_not_the_best():
    shape = {"state": "done", "data": "text", "N": 5, "d_m": 2}
    scores = {"a": (float("nan"), float("nan")), "b": (2.0, 2.1), "c": (1.0, 1.2, float("nan"))}
    rows = [{**shape, "configuration": name, "valid_bpc": bpc} for name, group in scores.items() for bpc in group]
    found = curves.seeds(rows, "valid_bpc").values()
    assert [[row["valid_bpc"] for row in group] for group in found] == [[2.0, 2.1], [1.0, 1.2]]


def test_places_of_many_configurations_are_named_in_a_line_and_have_no_other_scale():
    shape = {"state": "done", "data": "text", "d_m": 2}
    rows = [{**shape, "configuration": i, "N": i, "valid_bpc": i + s / 9} for i in range(1, 13) for s in (0, 1)]
    for count, name in ((12, "N 1, d_m 2"), (8, "N 1\nd_m 2")):
        ax = curves.seed_spread(rows[: 2 * count], "valid_bpc")
        assert ax.get_xticklabels()[0].get_text() == name
        assert "x" not in interactive._switches(ax)


def test_a_legend_of_many_budgets_hides_no_curve():
    shape = {"d_tree": 4, "d_s": 3, "steps": 10, "setting": "a", "data": "text", "valid_bpc_se": 0.1}
    rows = [{**shape, "d_m": m, "hidden": 10_000 * 2**i, "valid_bpc": m} for i in range(5) for m in (3, 4, 5)]
    for kept, low in ((rows, True), (rows[:12], False)):
        ax = curves.budget_curves(kept, "valid_bpc")
        ax.figure.canvas.draw()
        assert (ax.get_legend().get_window_extent().y1 < ax.get_window_extent().y0) == low


def test_budgets_nearly_spent_are_one_curve():
    shape = {"d_tree": 4, "d_s": 3, "steps": 10, "setting": "a", "data": "text", "valid_bpc": 2.0}
    rows = [{**shape, "d_m": d_m, "hidden": hidden} for d_m, hidden in ((2, 119_925), (3, 119_791), (28, 105_583))]
    rows += [{**shape, "d_m": d_m, "hidden": 29_500} for d_m in (2, 3)]
    rows += [{**shape, "d_m": 5, "hidden": 118_000, "setting": "b"}]  # of another learning rate, say
    rows += [{**shape, "d_m": 8, "hidden": 118_000, "data": "another text"}]
    ((key, group),) = curves.budgets(rows, "valid_bpc").items()
    assert key == (120_000, 4, 3, 10, "a", "text")
    assert [row["d_m"] for row in group] == [2, 3, 28]


def test_what_is_no_source():
    with pytest.raises(
        ConfigError, match="nowhere: neither a run, nor a directory of some, nor a sweep, nor published"
    ):
        report(["nowhere"])


def test_settings_that_decide_nothing_are_not_told_but_where_a_run_was_trained_is():
    config = compose("enwik8")
    other = config.replace(threads=2, preset="small", device="cuda", training=config.training.replace(keep=5))
    runs = [SimpleNamespace(config=one) for one in (config, other)]
    assert of_runs._differing(runs) == {"device": ["cpu", "cuda"]}


def test_runs_stand_side_by_side(sweep, tmp_path):
    """A directory of runs: a row each, the settings that differ and no others, a curve each."""
    trials = [path.parent for path in sorted(sweep.glob("trials/*/result.json"))][:3]
    for trial in trials:
        (tmp_path / "runs" / trial.name).parent.mkdir(exist_ok=True)
        shutil.copytree(trial, tmp_path / "runs" / trial.name)
    sections = report([str(tmp_path / "runs")], inside=False)
    assert [section.title for section in sections] == ["Side by side", *(f"Run {trial.name}" for trial in trials)]
    (table,), (figure,) = sections[0].tables, sections[0].figures
    configs = [yaml.safe_load((trial / "config.yaml").read_text())["config"] for trial in trials]
    hidden = [config["model"]["layers"][0] for config in configs]
    own = {
        "units": [layer["units"] for layer in hidden],
        "memory": [layer["neuron"]["memory"] for layer in hidden],
        "seed": [config["seed"] for config in configs],
    }
    differing = {name: list(map(str, values)) for name, values in own.items() if len(set(values)) > 1}
    assert set(table.columns) >= {"run", "P", "valid bpc", "test bpc", *differing}
    assert set(table.columns[1 : table.columns.index("P")]) == set(differing)
    for name, values in differing.items():
        assert [row[table.columns.index(name)] for row in table.rows] == values
    results = [json.loads((trial / "result.json").read_text()) for trial in trials]
    assert [row[table.columns.index("test bpc")] for row in table.rows] == [f"{r['test']['bpc']:.4f}" for r in results]
    assert [line.get_label() for line in figure.draw().lines] == [trial.name for trial in trials]
    (alone,) = report([str(trials[0])], inside=False)
    assert alone.title == f"Run {trials[0].name}"
    with pytest.raises(ConfigError, match="neither a run, nor a directory of some"):
        report([str(tmp_path)])
