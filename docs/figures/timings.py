"""What is measured in chapter 11, on the machine at hand: its roofline, kernels beside operators, blocks, shares.

All of it on a single thread, in a process of its own, by the time that the processor gave it: so that what else the
machine does has little to do with it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from drawing import BLUE, COLOURS, GREEN, INK, ORANGE, PURPLE, plots, save, write_numbers, write_table
from performance import GROUPS, models
from roofline import bandwidth, best, clock, peak, seconds

import tinyldm
from tinyldm import bench, kernels, ops
from tinyldm.kernels import buffers, matmul, pool
from tinyldm.kernels.winograd import POINTS, toom_cook

Run = Callable[[], Any]
rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    """Random numbers."""
    return rng.standard_normal(shape, np.float32)


def in_turns(one: Run, other: Run, rounds: int = 3) -> tuple[float, float]:
    """The median times of two, which take turns, after a first run that is not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds + 1):
        for run, found in zip((one, other), times, strict=True):
            began = clock()
            run()
            if i:
                found.append(clock() - began)
    return statistics.median(times[0]), statistics.median(times[1])


# The roofline ---------------------------------------------------------------------------------------------------------


def roofline(folder: Path) -> dict[str, str]:
    """What the machine gives, and what each operator of two UNets gets of it."""
    most, stream = peak(), bandwidth()
    colours = dict(zip(GROUPS, (BLUE, ORANGE, GREEN, PURPLE), strict=True))
    kind_of = {operator: kind for kind, names in GROUPS.items() for operator in names}
    figure, axes = plots(2, width=7.6, height=3.6, sharey=True)
    above = 0
    for ax, (name, calls) in zip(axes, models(), strict=True):
        x = np.logspace(-1.2, 3, 100)
        ax.loglog(x, np.minimum(most, stream * x) / 1e9, color=INK, linewidth=1.2)
        for call in dict.fromkeys(calls):  # each once
            rate = 2 * call.multiply_adds / seconds(call)
            above += call.operator == "conv2d" and rate > most
            label = kind_of[call.operator]
            ax.scatter(call.intensity, rate / 1e9, 9, colours[label], label=label, alpha=0.8)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("FLOP per byte")
    axes[0].set_ylabel("GFLOP/s")
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    axes[1].legend(handles.values(), handles, fontsize=8, loc="lower right")
    save(figure, folder / "timings-roofline.svg")
    numbers = {"processor": bench.machine().partition(",")[0], "vectors": kernels.target().name}
    ridge = f"{most / stream:.0f}"
    return numbers | {
        "peak": f"{most / 1e9:.0f}",
        "bandwidth": f"{stream / 1e9:.0f}",
        "ridge": ridge,
        "above": f"{above}",
    }


# Kernels beside operators ---------------------------------------------------------------------------------------------


def pairs() -> list[tuple[str, str, str, Run, Run]]:
    """The file of a kernel, what is computed, on what; by the operator, and by the kernel."""
    picture, small, tokens = normal(1, 64, 64, 320), normal(1, 32, 32, 320), normal(1, 4096, 320)
    matrix, wide, filters = normal(320, 320) / 18, normal(2560, 320) / 18, normal(320, 320, 3, 3) / 54
    gain, shift = 1 + normal(320) / 10, normal(320) / 10
    qkv = [normal(1, 4096, 320) for _ in range(3)]
    norm = gain, shift, 32, 1e-5
    linear, gated = kernels.prepare_linear(matrix), kernels.prepare_linear(wide, gated=True)
    strict, fast = (kernels.prepare_conv2d(filters, precision=p) for p in ("strict", "fast"))
    halving = kernels.prepare_conv2d(filters, 2)
    doubling = {p: kernels.prepare_upsample_conv2d(filters, p) for p in ("strict", "fast")}
    image, row = "64×64, 320 channels", "4096 tokens, 320 channels"
    return [
        ("matmul", "linear layer", row, lambda: ops.linear(tokens, matrix), lambda: kernels.linear(tokens, linear)),
        (
            "linear",
            "linear layer and residual",
            row,
            lambda: ops.linear_residual(tokens, matrix, shift, tokens),
            lambda: kernels.linear_residual(tokens, linear, shift, tokens),
        ),
        (
            "linear",
            "linear layer and GEGLU",
            row,
            lambda: ops.linear_geglu(tokens, wide),
            lambda: kernels.linear_geglu(tokens, gated),
        ),
        (
            "conv",
            "3×3 convolution, direct",
            image,
            lambda: ops.conv2d(picture, filters, padding=1),
            lambda: kernels.conv2d(picture, strict, padding=1),
        ),
        (
            "conv",
            "the same, stride 2",
            image,
            lambda: ops.conv2d(picture, filters, stride=2, padding=1),
            lambda: kernels.conv2d(picture, halving, stride=2, padding=1),
        ),
        (
            "winograd",
            "3×3 convolution, Winograd",
            image,
            lambda: ops.conv2d(picture, filters, padding=1),
            lambda: kernels.conv2d(picture, fast, padding=1),
        ),
        (
            "winograd",
            "norm, SiLU, 3×3 convolution",
            image,
            lambda: ops.norm_silu_conv2d(picture, *norm, filters),
            lambda: kernels.norm_silu_conv2d(picture, *norm, fast),
        ),
        (
            "conv",
            "upsampling and convolution, phases",
            "32×32, 320 channels",
            lambda: ops.upsample_conv2d(small, filters),
            lambda: kernels.upsample_conv2d(small, doubling["strict"]),
        ),
        (
            "winograd",
            "upsampling and convolution, Winograd",
            "32×32, 320 channels",
            lambda: ops.upsample_conv2d(small, filters),
            lambda: kernels.upsample_conv2d(small, doubling["fast"]),
        ),
        (
            "attention, transpose",
            "attention, 8 heads",
            row,
            lambda: ops.attention(*qkv, 8),
            lambda: kernels.attention(*qkv, 8),
        ),
        (
            "norm, rows",
            "group norm",
            image,
            lambda: ops.group_norm(picture, *norm),
            lambda: kernels.group_norm(picture, *norm),
        ),
        (
            "norm, rows",
            "layer norm",
            row,
            lambda: ops.layer_norm(tokens, gain, shift, 1e-5),
            lambda: kernels.layer_norm(tokens, gain, shift, 1e-5),
        ),
        ("activation", "SiLU", image, lambda: ops.silu(picture), lambda: kernels.silu(picture)),
        ("activation", "GELU", image, lambda: ops.gelu(picture), lambda: kernels.gelu(picture)),
        ("activation", "softmax", row, lambda: ops.softmax(tokens), lambda: kernels.softmax(tokens)),
        (
            "resample",
            "upsampling",
            "32×32, 320 channels",
            lambda: ops.upsample_nearest(small),
            lambda: kernels.upsample_nearest(small),
        ),
        ("resample", "mean of 2×2", image, lambda: ops.avg_pool2d(picture), lambda: kernels.avg_pool2d(picture)),
    ]


def beside_operators(folder: Path) -> dict[str, str]:
    """How many times as fast each kernel is as the operator in NumPy."""
    rows, numbers = [], {}
    for file, what, shape, by_operator, by_kernel in pairs():
        slow, quick = in_turns(by_operator, by_kernel)
        rows.append((f"`{file}`", what, shape, f"{1e3 * slow:.2f}", f"{1e3 * quick:.2f}", f"{slow / quick:.1f}"))
        numbers[what] = rows[-1][-1]
    head = ("kernels/", "what", "of", "NumPy, ms", "kernel, ms", "times as fast")
    write_table(folder / "timings-kernels.md", head, rows)
    return {
        "linear": numbers["linear layer"],
        "geglu": numbers["linear layer and GEGLU"],
        "winograd": f"{float(numbers['3×3 convolution, Winograd']) / float(numbers['3×3 convolution, direct']):.1f}",
    }


def blocks(folder: Path) -> None:
    """The rate of a product by the rows of a block and by its steps of k."""
    x, weight = normal(4096, 1280), kernels.prepare_linear(normal(1280, 1280))
    work = 2 * 4096 * 1280 * 1280
    figure, axes = plots(2, width=7.2, height=2.8, sharey=True)
    sizes = {"BLOCK_ROWS": [6, 14, 28, 60, 120, 240, 480, 960], "BLOCK_DEPTH": [16, 32, 64, 128, 256, 384, 640, 1280]}
    for ax, (name, values) in zip(axes, sizes.items(), strict=True):
        usual, rates = getattr(matmul, name), []
        for value in values:
            setattr(matmul, name, value)
            matmul.plan_matmul.cache_clear()
            rates.append(work / best(lambda: kernels.linear(x, weight)) / 1e9)
        setattr(matmul, name, usual)
        matmul.plan_matmul.cache_clear()
        ax.plot(values, rates, "o-")
        ax.axvline(usual, color=INK, linestyle=":", linewidth=0.9)
        ax.set_xscale("log", base=2)
        ax.set_xticks(values, [str(v) for v in values], fontsize=8)
        ax.minorticks_off()
        ax.set_ylim(0, 1.2 * max(rates))
        ax.set_xlabel({"BLOCK_ROWS": "rows of a block", "BLOCK_DEPTH": "steps of k of a block"}[name])
    axes[0].set_ylabel("GFLOP/s")
    save(figure, folder / "timings-blocks.svg")


def points(folder: Path) -> None:
    """Products and rounding errors of Winograd's convolutions with more and more outputs, in float32."""
    textbook, half = [Fraction(n) for n in (0, 1, -1, 2, -2)], Fraction(1, 2)
    image, filters = rng.standard_normal((48, 12, 12)), rng.standard_normal((48, 3, 3)) / np.sqrt(48 * 9)
    rows = []
    for outputs, name, at in (
        (2, "0, ±1", textbook[:3]),
        (4, "0, ±1, ±2", textbook),
        (4, "0, ±11/16, ±3/2", list(POINTS)),
        (6, "0, ±1, ±2, ±1/2", [*textbook, half, -half]),
    ):
        a_t, g, b_t = (np.array(m, np.float64).astype(np.float32) for m in toom_cook(at, outputs, 3))
        side, errors = outputs + 2, []
        for i in range(12 - side + 1):
            piece = image[:, i : i + side, i : i + side]
            exact = sum(
                filters[:, u, v, None, None] * piece[:, u : u + outputs, v : v + outputs]
                for u in range(3)
                for v in range(3)
            ).sum(0)
            d, k = piece.astype(np.float32), filters.astype(np.float32)
            y = a_t @ ((g @ k @ g.T) * (b_t @ d @ b_t.T)).sum(0) @ a_t.T
            errors.append(np.sqrt(np.mean((y - exact) ** 2) / np.mean(exact**2)))
        products = side**2 / outputs**2
        rows.append(
            (f"{outputs} × {outputs}", name, side**2, 9 * outputs**2, f"{9 / products:.2f}", f"{np.mean(errors):.1e}")
        )
    head = ("outputs", "points, beside ∞", "products", "directly", "times fewer", "RMS error")
    write_table(folder / "timings-winograd.md", head, rows)


def taken(run: Run) -> int:
    """The most memory that a run takes, with what kernels would have kept from an earlier one."""
    buffers._reserve.collect()
    buffers._reserve.shrink_to(0)
    vars(pool._local).clear()
    tracemalloc.start()
    run()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def attention(folder: Path) -> dict[str, str]:
    """Time and memory of attention by the number of tokens."""
    sides, found = (16, 24, 32, 48, 64), {"NumPy": ops.attention, "kernel": kernels.attention}
    figure, axes = plots(2, width=7.2, height=2.8)
    most = {}
    for (name, operator), colour in zip(found.items(), COLOURS, strict=False):
        times, memory = [], []
        for side in sides:
            q, k, v = (normal(1, side * side, 320) for _ in range(3))
            times.append(best(lambda q=q, k=k, v=v, run=operator: run(q, k, v, 8)))
            memory.append(taken(lambda q=q, k=k, v=v, run=operator: run(q, k, v, 8)))
        axes[0].loglog(sides, times, "o-", color=colour, label=name)
        axes[1].loglog(sides, memory, "o-", color=colour, label=name)
        most[name] = memory[-1]
    for ax, label in zip(axes, ("seconds", "bytes taken"), strict=True):
        ax.set_xticks(sides, [f"{n}×{n}" for n in sides], fontsize=8)
        ax.minorticks_off()
        ax.set_xlabel("latent")
        ax.set_ylabel(label)
        ax.legend(fontsize=8)
    save(figure, folder / "timings-attention.svg")
    return {"attention_memory": f"{most['NumPy'] / 1e6:,.0f}", "kernel_memory": f"{most['kernel'] / 1e6:.0f}"}


def shares(folder: Path) -> dict[str, str]:
    """What share of the time is spent in kernels whose work is shared among threads, where there are some."""
    model = tinyldm.load()
    works: dict[str, Run] = {}
    for side in (16, 32, 64):
        z, context = normal(2, 4, side, side), normal(2, 16, 128)
        works[f"UNet, one guided step, latent {side}×{side}"] = lambda z=z, context=context: model.unet(z, 500, context)
    for side in (16, 64):
        z = normal(1, 4, side, side)
        works[f"decoder, latent {side}×{side}"] = lambda z=z: model.vae.decode(z)
    rows, found = [], []
    for name, run in works.items():
        run()
        whole, inside = zip(*(shared_seconds(run) for _ in range(5)), strict=True)
        p = statistics.median(inside) / statistics.median(whole)
        found.append(p)
        gains = [f"{1 / (1 - p + p / n):.1f}" for n in (2, 8)]
        rows.append((name, f"{1e3 * statistics.median(whole):.1f}", f"{p:.2f}", *gains, f"{1 / (1 - p):.1f}"))
    head = ("work", "1 thread, ms", "p", "times as fast with 2", "with 8", "with any number")
    write_table(folder / "timings-threads.md", head, rows)
    return {"share": f"{found[0]:.2f}", "limit": f"{1 / (1 - found[0]):.1f}", "share_large": f"{found[2]:.2f}"}


def shared_seconds(run: Run) -> tuple[float, float]:
    """The time that a run takes, and that of the kernels in it that would be given to several threads."""
    inside, original = [0.0], pool.run

    def timed(kernel: Any, units: int, work: float, scratch: int, *arguments: object) -> None:
        began = clock()
        original(kernel, units, work, scratch, *arguments)
        if units > 1 and work >= pool.WORTH_A_THREAD:
            inside[0] += clock() - began

    using = [m for name, m in sys.modules.items() if name.startswith("tinyldm.kernels.") and hasattr(m, "run")]
    for module in using:
        module.run = timed
    began = clock()
    run()
    whole = clock() - began
    for module in using:
        module.run = original
    return whole, inside[0]


def memory() -> dict[str, str]:
    """What memory fresh from the system costs, and what a call of a kernel does."""

    def filled(empty: Callable[[tuple[int, ...]], np.ndarray]) -> Run:
        return lambda: empty((1, 256, 256, 256)).fill(1)

    fresh, again = in_turns(filled(lambda shape: np.empty(shape, np.float32)), filled(buffers.empty), 9)
    few = normal(16, 16)
    return {
        "fresh": f"{1e3 * fresh:.0f}",
        "again": f"{1e3 * again:.0f}",
        "call": f"{1e6 * best(lambda: kernels.silu(few), most=1000):.0f}",
    }


def measure(folder: Path) -> None:
    """All of it."""
    numbers = roofline(folder) | beside_operators(folder)
    blocks(folder)
    points(folder)
    write_numbers(folder / "timings.json", numbers | attention(folder) | shares(folder) | memory())


def make(folder: Path) -> None:
    """All of it, in a process with a single thread."""
    single = dict.fromkeys(("TINYLDM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    paths = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, __file__, folder], env={**os.environ, **single, "PYTHONPATH": paths}, check=True)


if __name__ == "__main__":
    measure(Path(sys.argv[1]))
