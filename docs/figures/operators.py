"""The operators at work on a picture, and the rounding errors of the kernels against float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from drawing import plots, save, sheet, write_numbers, write_table

import tinyldm
from tinyldm import kernels, ops

# A filter of 3×3 that is the same for each colour: its name, its nine numbers.
FILTERS = {
    "the picture": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
    "mean of nine": [[1 / 9] * 3] * 3,
    "edge from left to right": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "unlike its neighbours": [[0, -1, 0], [-1, 4, -1], [0, -1, 0]],
}


def on_a_picture(folder: Path, image: np.ndarray) -> None:
    """Four filters, and the ways of changing size, on a picture `(H, W, 3)` of values in [-1, 1]."""
    x = image[None]
    shown = []
    for filter3x3 in FILTERS.values():
        weight = np.eye(3)[:, :, None, None] * np.array(filter3x3)  # each colour from itself alone
        shown.append(ops.conv2d(x, weight, padding=1)[0] / 2 + 0.5)
    sheet(folder / "operators-filters.png", [("", [np.clip(y, 0, 1) for y in shown])], list(FILTERS), 1.7)

    identity = np.eye(3)[:, :, None, None] * np.array(FILTERS["mean of nine"])
    small = ops.conv2d(x, identity, stride=2, padding=1)
    sizes = [x, small, ops.upsample_nearest(small), ops.conv2d(ops.upsample_nearest(small), identity, padding=1)]
    titles = ["64 × 64", "stride 2: 32 × 32", "repeated: 64 × 64", "and convolved"]
    sheet(folder / "operators-sizes.png", [("", [np.clip(y[0] / 2 + 0.5, 0, 1) for y in sizes])], titles, 1.7)


def normalised(folder: Path, model: tinyldm.LatentDiffusion) -> None:
    """What a norm does to the channels of a real activation: their means and deviations, before and after."""
    z = tinyldm.random.torch_randn((1, 4, 16, 16), seed=0)
    context = model.text_encoder(model.tokenizer.encode("red apple"))
    with tinyldm.tracing.trace("mid_block.resnets.0") as trace:
        model.unet(z, 500, context)
    x = np.moveaxis(trace["mid_block.resnets.0"], 1, -1)
    groups = model.unet.config.norm_num_groups
    y = ops.group_norm(x, np.ones(x.shape[-1], x.dtype), np.zeros(x.shape[-1], x.dtype), groups, 1e-6)
    figure, axes = plots(2, width=7, height=2.4, sharey=True)
    for ax, values, title in zip(axes, (x, y), ("before the norm", "after it"), strict=True):
        mean, deviation = values[0].mean((0, 1)), values[0].std((0, 1))
        ax.errorbar(np.arange(len(mean)), mean, deviation, fmt=".", markersize=3, linewidth=0.8)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("channel")
    axes[0].set_ylabel("mean ± deviation")
    save(figure, folder / "operators-norm.svg")


def softened(folder: Path) -> dict[str, str]:
    """The largest weight of a softmax over 64 keys, with and without the division by √d, for heads of d channels."""
    rng = np.random.default_rng(0)
    sizes = 2 ** np.arange(1, 11)
    largest: dict[str, list[float]] = {"with": [], "without": []}
    for d in sizes:
        scores = (rng.standard_normal((400, 1, d)) @ rng.standard_normal((400, d, 64)))[:, 0]
        largest["with"].append(ops.softmax(scores / np.sqrt(d)).max(-1).mean())
        largest["without"].append(ops.softmax(scores).max(-1).mean())
    figure, ax = plots(width=5, height=2.6)
    ax.plot(sizes, largest["without"], "o-", label="scores $q \\cdot k$")
    ax.plot(sizes, largest["with"], "o-", label="scores $q \\cdot k / \\sqrt{d}$")
    ax.set_xscale("log", base=2)
    ax.set_ylim(0, 1)
    ax.set_xlabel("channels of a head, $d$")
    ax.set_ylabel("largest of 64 weights")
    ax.legend()
    save(figure, folder / "operators-softmax.svg")
    return {"largest_without": f"{largest['without'][5]:.2f}", "largest_with": f"{largest['with'][5]:.2f}"}


def error(found: np.ndarray, exact: np.ndarray) -> str:
    """The RMS error as a share of the RMS value."""
    return f"{np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)):.1e}"


def rounding(folder: Path) -> None:
    """Each operator in float32 by NumPy and by the kernels, against float64."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    picture, tokens, c = normal(1, 16, 16, 320), normal(2, 64, 320), 320
    filters, matrix = normal(96, c, 3, 3) / np.float32(54), normal(160, c) / np.float32(18)
    gain, shift = 1 + normal(c) / 10, normal(c) / 10
    qkv = [normal(1, 256, 320) for _ in range(3)]
    plain: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
        "linear": ("linear", (tokens, matrix), {}),
        "3×3 convolution": ("conv2d", (picture, filters), {"padding": 1}),
        "upsampling, then convolution": ("upsample_conv2d", (picture, filters), {}),
        "group norm": ("group_norm", (picture, gain, shift, 32, 1e-5), {}),
        "layer norm": ("layer_norm", (tokens, gain, shift, 1e-5), {}),
        "SiLU": ("silu", (tokens,), {}),
        "GELU": ("gelu", (tokens,), {}),
        "attention, 8 heads": ("attention", (*qkv, 8), {}),
    }
    prepare: dict[str, Callable[..., Any]] = {
        "linear": kernels.prepare_linear,
        "conv2d": kernels.prepare_conv2d,
        "upsample_conv2d": kernels.prepare_upsample_conv2d,
    }
    rows = []
    for name, (operator, arguments, more) in plain.items():
        wide = [a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in arguments]
        exact = getattr(ops, operator)(*wide, **more)
        row = [name, error(getattr(ops, operator)(*arguments, **more), exact)]
        for precision in ("strict", "fast", "bf16"):
            given, extra = list(arguments), dict(more)
            if operator in prepare:
                given[1] = prepare[operator](arguments[1], precision=precision)
            elif operator == "attention":
                extra["precision"] = precision
            elif precision != "strict":
                row.append("the same")
                continue
            row.append(error(getattr(kernels, operator)(*given, **extra), exact))
        rows.append(row)
    write_table(folder / "operators-errors.md", ["operator", "NumPy", "strict", "fast", "bf16"], rows)


def make(folder: Path) -> None:
    """All of these."""
    model = tinyldm.load()
    picture = model.text_to_image("red apple", steps=25, guidance_scale=4.0, seed=0)[0]
    on_a_picture(folder, np.asarray(picture, np.float64) / 127.5 - 1)
    normalised(folder, model)
    numbers = softened(folder)
    rounding(folder)
    direct = 4 * 4 * 9
    write_numbers(folder / "operators.json", numbers | {"direct_products": direct, "winograd_products": 36})
