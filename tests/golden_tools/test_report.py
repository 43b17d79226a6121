"""The HTML report: complete in itself, safe with hostile names, and alive in a real browser where there is one."""

import html.parser
import json
import re

import numpy as np
import pytest

from tinyldm.golden import Golden, GoldenWriter
from tinyldm.golden.compare import compare
from tinyldm.golden.report_html import report, write_report

HOSTILE = "0000/unet/</script><script>alert(1)</script>"


def write(path, scale):
    rng = np.random.default_rng(0)
    with GoldenWriter(path, {"settings": {"prompt": ["<b>"]}}) as writer:
        for step in range(3):
            for name in ("conv_in", "mid_block.resnets.0", "conv_out"):
                x = rng.standard_normal((1, 4, 5, 6))
                writer.add(f"{step:04d}/unet/{name}", x * (scale if step else 1))
            writer.add(f"{step:04d}/latents", rng.standard_normal((1, 4, 5, 6)))
        writer.add(HOSTILE, np.ones(3))
        writer.add("picture", np.full((1, 3, 8, 8), 7, np.uint8))
        writer.add("0002/unet/inf", np.array([1.0, np.inf if scale != 1 else 2.0]))
    return Golden(path)


@pytest.fixture
def page(tmp_path):
    golden, candidate = write(tmp_path / "g", 1), write(tmp_path / "c", 1.5)
    with golden, candidate:
        yield report(compare(golden, candidate), golden, candidate)


class Tags(html.parser.HTMLParser):
    """The tags of a page, and that each is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.sources = [], {}, []

    def handle_starttag(self, tag, attributes):
        self.seen[tag] = self.seen.get(tag, 0) + 1
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "input", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen[tag] = self.seen.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    assert len(tags.sources) >= 9
    assert "http" not in page
    assert tags.seen["script"] == 1
    assert tags.seen["circle"] == 15
    assert tags.seen["rect"] == 14
    assert "alert(1)</script>" not in page
    assert "<b>" not in page


def test_the_rows_are_json(page):
    (rows,) = re.findall(r"^const rows = (.*);$", page, flags=re.MULTILINE)
    rows = json.loads(rows.replace("<\\/", "</"))
    assert len(rows) == 15
    assert HOSTILE in {row[0] for row in rows}
    statuses = [row[1] for row in rows]
    assert (statuses.count("ok"), statuses.count("failed") + statuses.count("inherited")) == (8, 7)


def test_it_is_written_whole(tmp_path):
    with write(tmp_path / "g", 1) as golden, write(tmp_path / "c", 1) as candidate:
        write_report(tmp_path / "r.html", compare(golden, candidate), golden, candidate)
    assert "within tolerance" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "g", "r.html"]


@pytest.mark.parametrize("count", [3, 3000])
def test_a_run_of_many_steps_is_drawn_too(tmp_path, count, monkeypatch):
    monkeypatch.setattr("tinyldm.golden.report_html.MAX_CELLS", 200)
    files = []
    for name, last in (("g", 0.0), ("c", 1.0)):
        with GoldenWriter(tmp_path / name) as writer:
            for step in range(count):
                writer.add(f"{step:04d}/unet/conv_in", np.array([1.0, last * (step == count - 1)]))
        files.append(Golden(tmp_path / name))
    shown = report(compare(*files), *files)
    assert shown.count("<rect") == min(count, 200)
    # The last column has the step that is wrong, whichever steps it stands for.
    assert f'<rect data-i="{count - 1}"' in shown
    for file in files:
        file.close()


@pytest.fixture
def opened(browser, page, tmp_path):
    """The page, opened with no network; it must neither fail nor ask for anything."""
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    context = browser.new_context(viewport={"width": 800, "height": 900}, offline=True)
    shown, complaints = context.new_page(), []
    shown.on("pageerror", lambda error: complaints.append(str(error)))
    shown.on("console", lambda message: complaints.append(message.text))
    shown.on("dialog", lambda dialog: complaints.append(dialog.message))
    shown.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    shown.goto(file.as_uri())
    yield shown
    context.close()
    assert complaints == []


def names(shown):
    return shown.locator("#tensors tbody td:first-child").all_text_contents()


def test_the_table_filters_in_a_browser(opened):
    assert len(names(opened)) == 15
    opened.get_by_role("searchbox").fill("MID_BLOCK inherited")
    assert len(names(opened)) == 2
    assert all("mid_block" in name for name in names(opened))
    assert opened.locator("#count").text_content() == "2 of 15"
    opened.get_by_role("searchbox").fill("")
    opened.get_by_role("checkbox").check()
    assert len(names(opened)) == 7


def test_the_table_sorts_in_a_browser(opened):
    head = opened.locator("#tensors th")
    head.nth(0).click()
    assert names(opened) == sorted(names(opened))
    assert head.nth(0).get_attribute("aria-sort") == "ascending"
    head.nth(4).click()  # the largest relative errors first
    errors = [float(text) for text in opened.locator("#tensors tbody td:nth-child(5)").all_text_contents() if text]
    assert errors == sorted(errors, reverse=True)
    assert head.nth(0).get_attribute("aria-sort") is None
    head.nth(4).focus()
    opened.keyboard.press("Enter")
    errors = [float(text) for text in opened.locator("#tensors tbody td:nth-child(5)").all_text_contents() if text]
    assert errors == sorted(errors)


def test_a_click_on_a_point_or_a_cell_shows_the_tensor(opened):
    first = opened.locator("#tensors tr.first td").first
    assert first.text_content() == "0001/unet/conv_in"
    opened.get_by_role("searchbox").fill("nothing at all")
    assert names(opened) == []
    for chart in ("#depth", "#heat"):
        opened.locator(f"{chart} [data-i='9']").click()
        assert opened.locator("#tensors tr.chosen td").first.text_content() == "0002/unet/mid_block.resnets.0"
        assert opened.locator("#tensors tr.chosen").is_visible()
    opened.locator("#heat [data-i='9']").hover()
    assert opened.locator("#tip").text_content().startswith("0002/unet/mid_block.resnets.0: ")


def test_the_page_fits_and_its_pictures_are_pictures(opened):
    assert opened.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert opened.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert opened.locator("img").count() >= 9
    # Golden and candidate of the first failure differ, and so their pictures do.
    images = opened.locator(".thumbs").first.locator("img")
    assert len({images.nth(i).get_attribute("src") for i in range(3)}) == 3


def test_it_is_readable_on_a_telephone(browser, page, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    shown = browser.new_page(viewport={"width": 420, "height": 800})
    shown.goto(file.as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    heights = "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
    assert min(shown.evaluate(heights)) >= 9
    inside = """marks => marks.every(m => {
      const mark = m.getBoundingClientRect(), box = m.closest('.scroll, .wide').getBoundingClientRect();
      return mark.left >= box.left && mark.right <= Math.min(box.right, innerWidth);
    })"""
    # The first that is wrong is in view, in both charts, and all that is known of it in the table.
    assert shown.eval_on_selector_all("[data-i='4']", inside)
    assert shown.eval_on_selector_all("#tensors tr.first td:not(:empty)", inside)
    assert shown.eval_on_selector_all(".thumbs:first-child img", "i => new Set(i.map(x => x.y)).size === 1")
    shown.locator("#tensors th", has_text="max rel").click()
    assert shown.locator("#tensors th", has_text="max rel").get_attribute("aria-sort") == "descending"
    shown.close()


def test_a_long_table_shows_a_part_around_what_was_asked_for(browser, page, tmp_path):
    (rows,) = re.findall(r"^const rows = (.*);$", page, flags=re.MULTILINE)
    many = [[f"0000/unet/m{i}", "ok", *json.loads(rows)[0][2:]] for i in range(5000)]
    many[4321][1] = "failed"
    page = page.replace(rows, json.dumps(many)).replace(
        'const first = "0001/unet/conv_in"', f'const first = "{many[4321][0]}"'
    )
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    shown = browser.new_page()
    shown.goto(file.as_uri())
    assert len(names(shown)) == 1000
    assert shown.locator("#count").text_content() == "5000 of 5000, 3822 to 4821 shown"
    shown.get_by_role("searchbox").fill("failed")
    assert names(shown) == ["0000/unet/m4321"]
    shown.close()
