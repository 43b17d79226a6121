"""The HTML report: complete in itself, safe with hostile names, and alive in a real browser where there is one."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from tinyldm.golden import Golden, GoldenWriter
from tinyldm.golden.compare import compare
from tinyldm.golden.report_html import report, write_report

HOSTILE = "0000/unet/</script><script>alert(1)</script>"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


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


SCRIPT = """<script>
const names = () => [...document.querySelectorAll("#tensors tbody tr")].map(r => r.cells[0].textContent);
const out = {all: names().length};
filter.value = "MID_BLOCK inherited"; filter.oninput(); out.filtered = names();
filter.value = ""; filter.oninput();
document.querySelector("#failures").click(); out.failures = names().length;
document.querySelector("#failures").click();
document.querySelectorAll("#tensors th")[3].click(); out.byError = names()[1];
document.querySelectorAll("#tensors th")[0].click(); out.byName = names();
out.count = document.querySelector("#count").textContent;
out.pictures = [...document.images].filter(i => i.complete && i.naturalWidth > 0).length === document.images.length;
out.wide = document.documentElement.scrollWidth <= document.documentElement.clientWidth;
const pre = document.createElement("pre");
pre.id = "out";
pre.textContent = JSON.stringify(out);
document.body.append(pre);
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed to open the page in")
def test_the_table_sorts_and_filters_in_a_browser(page, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", SCRIPT), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--virtual-time-budget=2000", "--window-size=800,900", "--dump-dom", file.as_uri()]
    shown = subprocess.run([BROWSER, *options], capture_output=True, text=True, timeout=120, check=True).stdout
    (text,) = re.findall(r'<pre id="out">(.*?)</pre>', shown, flags=re.DOTALL)
    out = json.loads(html.unescape(text))
    assert out["all"] == 15
    assert len(out["filtered"]) == 2
    assert all("mid_block" in name for name in out["filtered"])
    assert out["failures"] == 7
    assert out["byName"] == sorted(out["byName"])
    assert out["count"] == "15 of 15"
    assert out["pictures"]
    assert out["wide"]
