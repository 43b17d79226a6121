"""The picture of the page in `docs/serve.md`: `python docs/serve_screenshot.py` (needs the extras `web`, `browser`).

A server of the embedded checkpoint is started on a free port, and a person's way is taken on its page in a headless
Chromium: four pictures of a prompt, one of them begun from, a part of it painted over.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

FILE = Path(__file__).parent / "serve.png"


def main(file: Path = FILE, scheme: Any = "light") -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder, opened("serve", "-o", folder, scheme=scheme) as (page, _):
        page.get_by_label("Prompt", exact=True).fill("red apple")
        page.get_by_label("Seed").fill("5")
        page.get_by_label("Pictures").fill("4")
        page.keyboard.press("Control+Enter")
        page.locator("#status", has_text="done").wait_for()
        page.get_by_role("button", name="Begin from").first.click()
        mask = page.locator("#mask")
        mask.scroll_into_view_if_needed()
        box = mask.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.35 * box["width"], box["y"] + 0.2 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.15 * box["height"], steps=9)
        page.mouse.up()
        page.mouse.move(0, 0)
        save(page, file)


@contextlib.contextmanager
def opened(*words: str, scheme: Any) -> Iterator[tuple[Any, str]]:
    """A page of a `tinyldm` command in a headless Chromium, and its address."""
    command = [sys.executable, "-m", "tinyldm", *words, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found is not None
            page = browser.new_page(viewport={"width": 1120, "height": 1000}, color_scheme=scheme)
            page.goto(found[0])
            yield page, found[0]
        finally:
            browser.close()
            server.terminate()


def save(page: Any, file: Path) -> None:
    """Write how a page looks, in few colours."""
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    shot.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:2]))
