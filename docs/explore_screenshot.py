"""The picture of the page in `docs/explore.md`: `python docs/explore_screenshot.py` (extras `web`, `browser`).

The laboratory of the embedded checkpoint in a headless Chromium: where the words of a prompt look.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from serve_screenshot import opened, save

FILE = Path(__file__).parent / "explore.png"
WHERE = "explore?prompt=red+fox+and+blue+whale&guidance_scale=4&step=6&word=1#words"


def main(file: Path = FILE, scheme: Any = "light") -> None:
    """Write the picture."""
    with opened("explore", scheme=scheme) as (page, address):
        page.goto(address + WHERE)
        page.locator("#words-over .map").wait_for()
        page.locator("#status", has_text="done").wait_for()
        save(page, file)


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:2]))
