"""A browser for the tests of pages."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def browser():
    """The system's Chromium, without a screen."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra `dev`)")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as session:
        opened = session.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Opens a file or an address; the test fails if the page complains."""
    pages, complaints = [], []

    def go(place: Path | str, width: int = 1280, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(place.as_uri() if isinstance(place, Path) else place)
        pages.append(page)
        return page

    yield go
    for page in pages:
        page.close()
    assert complaints == []
