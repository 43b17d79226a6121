"""Make the figures, tables and numbers of the book: `python docs/figures/make.py`, or those of some chapters by name.

Each script here whose name is a chapter's has a function `make(folder)`, which writes into docs/figures/made/ (or where
`--to` says). All of them together take a few minutes on a processor.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
HELPERS = ("make", "drawing", "collect_pictures", "mixture", "small_network", "roofline")
CHAPTERS = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in HELPERS)


def make(chapter: str, folder: Path) -> float:
    """Make what a chapter shows; the seconds that it took."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    began = time.perf_counter()
    folder.mkdir(exist_ok=True)
    importlib.import_module(chapter).make(folder)
    return time.perf_counter() - began


def main() -> None:
    """Read the command line, make what it names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="*", choices=[*CHAPTERS, []], metavar="CHAPTER", help=", ".join(CHAPTERS))
    parser.add_argument("--to", type=Path, default=HERE / "made", help="the folder to write to")
    arguments = parser.parse_args()
    for chapter in arguments.chapters or CHAPTERS:
        print(f"{chapter}: {make(chapter, arguments.to):.0f} s", flush=True)


if __name__ == "__main__":
    main()
