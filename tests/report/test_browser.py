"""The report in a browser: points named, series hidden, axes changed, nobody's script run, everybody can read it."""

import numpy as np
import pytest

from elmnet.report.figures.style import axis
from elmnet.report.page import Figure, Passage, Section, Table, render

pytest.importorskip("matplotlib", reason="needs matplotlib (extra `report`)")
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def growth():
    ax = axis(None)
    x = np.array([1, 10, 100, 1000])
    ax.plot(x, 2 * x, label="twice")
    ax.plot(x, 5000 / x, "--", label=EVIL)
    ax.set(xlabel="steps, T", ylabel="size (bytes)")
    ax.legend()
    return ax


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A page with every kind of content, named by somebody who means harm."""
    figure = Figure("growth", EVIL, f"How it grows. {EVIL}", growth)
    table = Table(EVIL, ("name", EVIL), [("1", EVIL)])
    passage = Passage("Shaded by surprise.", [(0, EVIL), (4, "x")])
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(render(EVIL, [Section(EVIL, [EVIL], [table], [passage], [figure])]), encoding="utf-8")
    return path


def test_names_are_text_and_nothing_else(visit, file):
    page = visit(file)
    assert page.title() == EVIL
    assert page.inner_text("h1") == EVIL
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2  # the figure's data, the page's own


def test_hovering_a_point_tells_its_values(visit, file):
    page = visit(file)
    tip = page.locator(".tip")
    assert not tip.is_visible()
    area = page.locator("[id='f1-p0']").bounding_box()
    x0, x1, _, y0, y1, _ = page.evaluate("JSON.parse(document.querySelector('figure script').textContent).views[''][0]")
    x, y = area["width"] * (100 - x0) / (x1 - x0), area["height"] * (1 - (200 - y0) / (y1 - y0))
    page.mouse.move(area["x"] + x + 2, area["y"] + y + 2)
    assert tip.inner_text().split("\n") == ["twice", "steps, T: 100", "size (bytes): 200"]
    page.mouse.move(5, 5)
    assert not tip.is_visible()


def test_the_keyboard_reads_points_one_by_one(visit, file):
    page = visit(file)
    page.locator(".plot").focus()
    told = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
        told.append(page.locator(".tip").inner_text().split("\n")[:2])
    expected = [("twice", 1), ("twice", 10), (EVIL, 10), (EVIL, 1)]
    assert told == [[name, f"steps, T: {x}"] for name, x in expected]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Escape")
    assert not page.locator(".tip").is_visible()


def test_a_series_can_be_hidden_and_is_then_told_no_more(visit, file):
    page = visit(file)
    button = page.get_by_role("button", name="twice")
    line = page.locator("[id^='f1-s0.0.']").first
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert not line.is_visible()
    page.locator(".plot").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".tip").inner_text().startswith(EVIL)
    button.click()
    assert line.is_visible()


def test_axes_change_to_logarithmic_and_back_and_points_follow(visit, file):
    page = visit(file)
    first = page.inner_html(".drawing")
    page.get_by_role("button", name="twice").click()
    page.get_by_role("button", name="logarithmic x").click()
    assert page.inner_html(".drawing") != first
    assert not page.locator("[id^='f1-s0.0.']").first.is_visible()  # what was hidden stays hidden
    page.get_by_role("button", name="twice").click()
    page.locator(".plot").focus()
    rings = []
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        rings.append(page.locator(".ring").bounding_box()["x"])
    assert np.diff(rings) == pytest.approx([np.diff(rings).mean()] * 3, abs=1.0)  # decades lie evenly
    page.get_by_role("button", name="logarithmic x").click()
    assert page.inner_html(".drawing") == first


def test_without_scripts_the_page_is_complete(visit, file):
    page = visit(file, java_script_enabled=False)
    assert page.locator("svg").count() == 1
    assert page.locator("button").count() == 0
    assert page.locator("figcaption").is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_everybody_can_read_it(visit, file, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page = visit(file, width)
    result = axe.Axe().run(page)
    assert result.violations_count == 0, result.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_paper_shows_no_buttons(visit, file):
    page = visit(file)
    page.emulate_media(media="print")
    assert page.locator("svg").is_visible()
    assert not page.locator(".controls").is_visible()
