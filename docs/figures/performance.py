"""What is counted in chapter 11: work and traffic of the operators, register tiles, blocks, scores, Amdahl's law."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from drawing import COLOURS, INK, plots, save, write_numbers, write_table
from roofline import PASSES, PRODUCTS, Call, unet_calls

import tinyldm
from tinyldm.architectures import random_model
from tinyldm.kernels.attention import BLOCK_KEYS
from tinyldm.kernels.matmul import BLOCK_COLUMNS, BLOCK_ROWS
from tinyldm.kernels.simd import TARGETS

GROUPS = {
    "convolutions": ("conv2d",),
    "linear layers": ("linear",),
    "attention": ("attention",),
    "norms and activations": PASSES,
}


def models() -> list[tuple[str, list[Call]]]:
    """The calls of a step of two UNets."""
    embedded = tinyldm.load(backend="reference")
    return [
        ("the embedded checkpoint", unet_calls(embedded, 16)),
        ("Stable Diffusion 1.5", unet_calls(random_model("sd15", embedded.runtime), 64)),
    ]


def operators(folder: Path, found: list[tuple[str, list[Call]]]) -> dict[str, str]:
    """How much each kind of operator computes and moves."""
    rows, numbers = [], {}
    for name, calls in found:
        work = sum(call.multiply_adds for call in calls if call.operator in PRODUCTS)
        for kind, names in GROUPS.items():
            some = [call for call in calls if call.operator in names]
            products, moved = (sum(getattr(call, what) for call in some) for what in ("multiply_adds", "bytes"))
            share = f"{100 * products / work:.1f}" if kind != "norms and activations" else "–"
            million = f"{products / 1e6:,.1f}" if share != "–" else "–"
            rows.append((name, kind, len(some), million, share, f"{moved / 1e6:,.1f}", f"{2 * products / moved:.3g}"))
            numbers[f"{kind.split()[0]}_{'small' if name == found[0][0] else 'large'}"] = rows[-1][-1]
            name = ""
    head = ("UNet", "operators", "calls", "million multiply-adds", "% of them", "MB moved", "FLOP per byte")
    write_table(folder / "performance-operators.md", head, rows)
    return numbers


def tiles(folder: Path) -> None:
    """The register tiles of each kind of vectors."""
    rows = []
    for target in TARGETS.values():
        r, v = target.tile_rows, target.tile_vectors
        rows.append(
            (f"`{target.name}`", target.width, f"{r} × {v}", r * v + v + 1, r * v, r + v, f"{r * v / (r + v):.2f}")
        )
    head = (
        "vectors",
        "numbers in one",
        "tile, R × V",
        "registers",
        "multiply-adds",
        "loads",
        "multiply-adds for a load",
    )
    write_table(folder / "performance-tiles.md", head, rows)


def scores(folder: Path) -> dict[str, str]:
    """The memory of all scores of an attention of 8 heads, and of those that a thread has at a time."""
    side = np.array([8, 16, 32, 64, 128])
    whole, block = 8 * side**4 * 4, BLOCK_KEYS * TARGETS["avx2"].tile_columns * 4
    figure, ax = plots(width=5.6, height=2.8)
    ax.loglog(side, whole, "o-", label="all scores of 8 heads")
    ax.loglog(side, np.full(len(side), block), "o-", label="those of one thread at a time")
    ax.set_xticks(side, [f"{n}×{n}" for n in side])
    ax.minorticks_off()
    ax.set_xlabel("latent")
    ax.set_ylabel("bytes")
    ax.legend(fontsize=8)
    save(figure, folder / "performance-scores.svg")
    return {"scores": f"{whole[3] / 1e6:.0f}", "block_scores": f"{block / 1e3:.0f}"}


def amdahl(folder: Path) -> None:
    """How many times as fast n threads are where a share of the work can be shared."""
    threads = 2.0 ** np.arange(0, 8)
    figure, ax = plots(width=5.6, height=2.8)
    for share, colour in zip((1, 0.99, 0.95, 0.9, 0.5), (INK, *COLOURS), strict=False):
        ax.loglog(threads, 1 / (1 - share + share / threads), "o-", markersize=3, color=colour, label=f"p = {share}")
    ax.set_xticks(threads, [f"{n:.0f}" for n in threads])
    ax.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    ax.minorticks_off()
    ax.set_xlabel("threads")
    ax.set_ylabel("times as fast")
    ax.legend(fontsize=8)
    save(figure, folder / "performance-amdahl.svg")


def traffic(m: int, n: int, k: int, rows: int, columns: int) -> float:
    """Bytes between memory and cache of a product of m × k by k × n, in blocks of so many rows and columns."""
    return 4 * (m * k * -(-n // columns) + k * n * -(-m // rows) + m * n)


def make(folder: Path) -> None:
    """All of it."""
    numbers = operators(folder, models())
    tiles(folder)
    numbers |= scores(folder)
    amdahl(folder)
    shape = 4096, 320, 2880  # a 3×3 convolution of 320 channels on 64×64 pixels
    work = 2 * shape[0] * shape[1] * shape[2]
    for name, rows, columns in (("one", 1, 1), ("blocks", BLOCK_ROWS, BLOCK_COLUMNS)):
        numbers[f"intensity_{name}"] = f"{work / traffic(*shape, rows, columns):.3g}"
    write_numbers(folder / "performance.json", numbers)
