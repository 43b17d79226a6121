"""Make the golden of Canny edges with OpenCV: `pip install opencv-python-headless`, then `python make_canny.py`.

Stored are the pictures, 8-bit, and where OpenCV's `Canny` sees edges for each pair of thresholds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from golden.provenance import save_golden  # noqa: E402

THRESHOLDS = [(100, 200), (50, 150), (0, 0), (0, 100), (99.5, 300.7), (400, 900), (255, 255)]


def pictures() -> dict[str, np.ndarray]:
    """Drawings, noise, smooth noise, plateaus with equal neighbours, and the narrowest."""
    rng = np.random.default_rng(0)
    emoji = Image.open(HERE.parents[1] / "docs" / "samples.png").convert("RGB")
    noise = rng.integers(0, 256, (40, 56, 3)).astype(np.uint8)
    return {
        "drawn": np.asarray(emoji)[:64, :128],
        "noise": noise,
        "smooth": cv2.GaussianBlur(noise, (7, 7), 0),
        "plateaus": (rng.integers(0, 3, (33, 47, 3)) * 100).astype(np.uint8),
        "blocks": np.kron(rng.integers(0, 256, (6, 7, 1)), np.ones((5, 5, 3))).astype(np.uint8),
        "grey": rng.integers(0, 256, (21, 1)).astype(np.uint8) * np.ones((1, 30), np.uint8),
        "row": rng.integers(0, 256, (1, 50, 3)).astype(np.uint8),
        "column": rng.integers(0, 256, (50, 1, 3)).astype(np.uint8),
    }


def main() -> None:
    """Write the golden."""
    drawn = pictures()
    edges = {
        f"{name} {low} {high}": cv2.Canny(np.ascontiguousarray(picture), low, high)
        for name, picture in drawn.items()
        for low, high in THRESHOLDS
    }
    path = save_golden("pipelines/canny", drawn | edges, ("opencv-python-headless", "numpy"), thresholds=THRESHOLDS)
    print(f"{path.name}: {len(edges)} pictures, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
