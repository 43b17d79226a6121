"""What the scripts of the figures share: how a plot and a sheet of pictures look, and how numbers are written down.

Lines and letters are of colours that can be read on white and on black, and the ground is transparent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#808080"
BLUE, ORANGE, GREEN, RED, PURPLE = COLOURS = "#4a8fd9", "#dd8028", "#3a9d63", "#d9534f", "#9a6fd0"

plt.rcParams.update(
    {
        "savefig.transparent": True,
        "figure.dpi": 100,
        "savefig.bbox": "tight",
        "font.size": 10,
        "svg.hashsalt": "tinyldm",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "axes.prop_cycle": mpl.cycler(color=COLOURS),
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
        "grid.color": INK,
    }
)


def plots(columns: int = 1, rows: int = 1, width: float = 7.0, height: float = 3.0, **more: Any) -> tuple[Figure, Any]:
    """A figure with plots side by side, in inches."""
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **more)


def save(figure: Figure, path: Path) -> None:
    """Write a figure, SVG or PNG by its name, without the date: the same figure is the same file."""
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
    plt.close(figure)


def show(ax: Axes, picture: np.ndarray, title: str = "", **more: Any) -> None:
    """A picture `(H, W, 3)` or a map `(H, W)` as pixels, with nothing around it."""
    ax.imshow(picture, interpolation="nearest", **more)
    ax.set_title(title, fontsize=9)
    ax.set_axis_off()


def sheet(path: Path, rows: Sequence[tuple[str, Sequence[Any]]], titles: Sequence[str] = (), side: float = 1.0) -> None:
    """Rows of pictures of one size, each row under its name, columns under their titles; `side` in inches."""
    columns = max(len(pictures) for _, pictures in rows)
    figure, axes = plots(columns, len(rows), side * columns, side * 1.16 * len(rows), squeeze=False)
    for r, (name, pictures) in enumerate(rows):
        for c in range(columns):
            axes[r, c].set_axis_off()
            if c < len(pictures):
                limits = {"cmap": "viridis"} if np.ndim(pictures[c]) == 2 else {}
                title = titles[c] if r == 0 and c < len(titles) else ""
                show(axes[r, c], np.asarray(pictures[c]), title, **limits)
        axes[r, 0].text(
            -0.06, 0.5, name, transform=axes[r, 0].transAxes, rotation=90, va="center", ha="right", fontsize=9
        )
    save(figure, path)


def write_numbers(path: Path, numbers: Mapping[str, Any]) -> None:
    """The numbers that a chapter says, as it says them: `{{ stem.name }}` there."""
    path.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_table(path: Path, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table for a chapter to include."""
    lines = [head, ["---"] * len(head), *rows]
    path.write_text("".join(f"| {' | '.join(map(str, line))} |\n" for line in lines), encoding="utf-8")
