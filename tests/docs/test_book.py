"""The book builds without a warning, its links lead somewhere, it reads in a browser, its figures are the scripts'."""

from __future__ import annotations

import html.parser
import importlib.util
import json
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
MADE = ROOT / "docs" / "figures" / "made"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDED = ("sphinx", "myst_parser", "pydata_sphinx_theme", "sphinx_copybutton", "latex2mathml", "matplotlib")
SAMPLE = ["layers", "one_file", "performance", "whole_way"]  # of the figures, those that are made anew here

pytestmark = pytest.mark.extra


@pytest.fixture(scope="module")
def needed() -> None:
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        pytest.skip(f'{", ".join(missing)} not installed (pip install ".[docs]")')


@pytest.fixture(scope="module")
def site(needed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book as HTML, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(folder / "doctrees")]
    done = subprocess.run([*build, ROOT / "docs", folder / "html"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture
def browser(site: Path) -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason='Playwright is not installed (pip install ".[browser]")'
    )
    if BROWSER is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


class Links(html.parser.HTMLParser):
    """What a page links to and shows, and what in it can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names |= {value for key, value in attrs if key in ("id", "name") and value}
        if tag in ("a", "img", "script", "link"):
            self.links += [value for key in ("href", "src") if (value := given.get(key))]


def test_no_link_is_dead_and_nothing_comes_from_elsewhere(site: Path) -> None:
    pages = {page: Links(page) for page in site.rglob("*.html") if "_static" not in page.parts}
    assert len(pages) > 20
    dead, elsewhere = [], []
    for page, found in pages.items():
        for link in found.links:
            url = urllib.parse.urlsplit(link)
            target = (page.parent / urllib.parse.unquote(url.path)).resolve() if url.path else page
            if url.scheme or url.netloc:
                elsewhere += [link] if link.endswith((".js", ".css")) else []
            elif not target.exists() or (url.fragment and target in pages and url.fragment not in pages[target].names):
                dead.append(f"{page.relative_to(site)}: {link}")
    assert not dead
    assert not elsewhere


CLIPPED = """() => [...document.querySelectorAll('p, h1, h2, h3, li, img, table, pre, div.math')]
    .filter(e => e.closest('main') && !e.parentElement.closest('table, pre, div.math'))  // these scroll by themselves
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
    .concat([...document.querySelectorAll('div.math > math')]  // what sticks out on the left can't be scrolled to
        .filter(e => e.getBoundingClientRect().left < e.parentElement.getBoundingClientRect().left - 1))
    .map(e => e.outerHTML.slice(0, 90))"""
AS_WRITTEN = r"""() => {
    const text = document.querySelector('main').cloneNode(true)
    text.querySelectorAll('pre').forEach(e => e.remove())
    const numbers = text.textContent.match(/\{\{/)  // in `code` too, where MyST leaves them
    text.querySelectorAll('code').forEach(e => e.remove())
    return numbers || text.textContent.match(/\$\$|\\frac|\\sqrt/)
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_in_a_browser_and_on_a_phone(site: Path, browser: Any, scheme: str) -> None:
    page, asked = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme), []
    page.on("request", lambda request: asked.append(request.url))
    pages = [*sorted((site / "book").glob("*.html")), *sorted((site / "contributing").glob("*.html"))]
    for path in (*pages, site / "index.html", site / "api" / "ops.html"):
        page.goto(path.as_uri())
        name = path.relative_to(site).as_posix()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
        assert page.evaluate(CLIPPED) == [], name
        broken = "() => [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
        assert page.evaluate(broken) == [], name
        flat = "() => [...document.querySelectorAll('math')].filter(m => m.getBoundingClientRect().height < 4).length"
        assert page.evaluate(flat) == 0, name
        assert not page.evaluate(AS_WRITTEN), f"{name}: an equation or a number is left as it is written"
    assert all(url.startswith("file:") for url in asked)


def test_equations_are_drawn(site: Path, browser: Any) -> None:
    """A fraction stands higher than its line, and a root has its letters below the bar."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.goto((site / "book" / "whole-way.html").as_uri())
    fraction = page.locator("div.math mfrac").first
    numerator, denominator = (fraction.locator(f"xpath=./*[{k}]").bounding_box() for k in (1, 2))
    assert numerator["y"] + numerator["height"] <= denominator["y"] + 2
    assert page.locator("math").count() > 20


def test_the_search_finds_a_word(site: Path, browser: Any) -> None:
    page = browser.new_page()
    page.goto((site / "search.html").as_uri() + "?q=tokenizer")
    page.locator("#search-results li a", has_text="whole way").first.wait_for(timeout=20_000)


@pytest.mark.parametrize("chapter", SAMPLE)
def test_figures_and_numbers_are_those_of_the_scripts(needed: None, chapter: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "docs" / "figures" / "make.py", chapter, "--to", tmp_path], check=True)
    made = sorted(tmp_path.iterdir())
    assert {path.name for path in made} == {
        p.name for p in MADE.iterdir() if p.name.split("-")[0].split(".")[0] == chapter
    }
    for path in made:
        stored = MADE / path.name
        if path.suffix == ".json":
            assert close(json.loads(path.read_text()), json.loads(stored.read_text())), path.name
        elif path.suffix == ".png":
            one, other = (np.asarray(Image.open(p).convert("RGBA"), float) for p in (path, stored))
            assert abs(one.shape[0] - other.shape[0]) <= 4, path.name
            if one.shape == other.shape:
                assert np.abs(one - other).mean() < 2, path.name
        elif path.suffix == ".md":
            assert path.read_text() == stored.read_text()


def close(one: Any, other: Any) -> bool:
    """Whether two sets of numbers are those of one script on two machines."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[k], other[k]) for k in one if not k.startswith("seconds"))
    if isinstance(one, int | float):
        return abs(one - other) <= 0.02 * max(abs(one), abs(other))
    return bool(one == other)
