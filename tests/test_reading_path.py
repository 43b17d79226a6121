"""The page on the way of a picture says what the script sees today."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_what_the_script_prints() -> None:
    """In a process of its own, where nothing is warm; `python docs/reading_path.py --write` writes it anew."""
    command = [sys.executable, str(DOCS / "reading_path.py")]
    found = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=True).stdout
    page = (DOCS / "the-way-of-a-picture.md").read_text(encoding="utf-8")
    assert found.strip() == page.strip(), "run `python docs/reading_path.py --write`"


def test_the_way_does_not_grow() -> None:
    """A reader has to walk it: who makes it longer says why here."""
    page = (DOCS / "the-way-of-a-picture.md").read_text(encoding="utf-8")
    found = [tuple(map(int, counts)) for counts in re.findall(r"^## .*: (\d+) files, (\d+) functions$", page, re.M)]
    for (files, functions), (most_files, most_functions) in zip(found, (PICTURE, LOADING), strict=True):
        assert files <= most_files
        assert functions <= most_functions


# Files and functions from the prompt to the picture, and before that from the folder to the model.
PICTURE, LOADING = (27, 140), (18, 116)
