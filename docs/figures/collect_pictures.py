"""Collect the real pictures that the figures measure with: 96 of those that the embedded checkpoint was trained on.

    apt-get install fonts-noto-color-emoji unicode-data
    python docs/figures/collect_pictures.py

Every fourteenth of the training set (the bitmaps of Google's Noto Color Emoji, Apache-2.0), in one PNG, and their names
in a text file. Both are part of the repository, so that the figures need neither package.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
COLUMNS, COUNT, EVERY = 16, 96, 14
SIDE = 64


def pictures() -> tuple[np.ndarray, list[str]]:
    """The pictures `(96, 64, 64, 3)` as bytes, and their names."""
    sheet = np.asarray(Image.open(HERE / "pictures.png"))
    cut = sheet.reshape(-1, SIDE, COLUMNS, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
    return cut, (HERE / "pictures.txt").read_text(encoding="utf-8").splitlines()


def main() -> None:
    """Draw them."""
    sys.path.insert(0, str(HERE.parents[1] / "weights" / "emoji"))
    import data

    chosen = data.read_emoji()[::EVERY][:COUNT]
    drawn = data.draw(chosen)  # (96, 64, 64, 3)
    sheet = drawn.reshape(-1, COLUMNS, SIDE, SIDE, 3).swapaxes(1, 2).reshape(-1, COLUMNS * SIDE, 3)
    Image.fromarray(sheet).save(HERE / "pictures.png", optimize=True)
    (HERE / "pictures.txt").write_text("".join(f"{item.name}\n" for item in chosen), encoding="utf-8")


if __name__ == "__main__":
    main()
