"""Samplers: their order of convergence where the answer is known, and how many steps the real model needs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from drawing import COLOURS, INK, plots, save, sheet, write_numbers, write_table

import tinyldm

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from bench.samplers import run

KNOWN = ("euler", "heun", "lms", "dpm++_2m", "unipc")
STEPS = (4, 8, 16, 32, 64, 128)
REAL, REAL_STEPS, MANY = ("ddim", "heun", "dpm++_2m", "unipc"), (3, 5, 8, 12, 20, 32), 100
PROMPTS = ("red apple", "owl")


def orders(folder: Path) -> dict[str, str]:
    """The error by calls of the model on a mixture, and how often it halves when the steps double."""
    figure, ax = plots(width=6, height=3.2)
    rows, numbers = [], {}
    for name, colour in zip(KNOWN, COLOURS, strict=True):
        found = [run(name, steps) for steps in STEPS]
        errors, calls = [error for error, _, _ in found], [calls for _, _, calls in found]
        order = np.log2(errors[-2] / errors[-1])
        ax.loglog(calls, errors, "o-", markersize=3, color=colour, label=f"{name}: order {order:.1f}")
        rows.append((f"`{name}`", *(f"{error:.1e}" for error in errors), f"{order:.1f}"))
        numbers["order_" + name.replace("+", "p")] = f"{order:.1f}"
    ax.set_xlabel("calls of the model")
    ax.set_ylabel("error")
    ax.legend(fontsize=8)
    save(figure, folder / "sampling-order.svg")
    write_table(folder / "sampling-order.md", ("sampler", *(f"{n} steps" for n in STEPS), "order"), rows)
    return numbers


def final(model: tinyldm.LatentDiffusion, sampler: str, steps: int) -> np.ndarray:
    """The final latents of all prompts."""
    last: dict[int, np.ndarray] = {}

    def keep(step: tinyldm.pipelines.walk.Step) -> None:
        last.update(zip(step.pictures, step.latent, strict=True))

    model.text_to_image(list(PROMPTS), steps=steps, guidance_scale=4.0, sampler=sampler, callback=keep)
    return np.stack([last[k] for k in sorted(last)])


def suffice(folder: Path, model: tinyldm.LatentDiffusion) -> dict[str, str]:
    """How far a picture of few steps is from the same sampler's picture of very many."""
    figure, ax = plots(width=6, height=3.2)
    kept: dict[tuple[str, int], np.ndarray] = {}
    numbers = {}
    for name, colour in zip(REAL, COLOURS, strict=False):
        exact = model.vae.decode(model.vae.unscale(final(model, name, MANY)))
        errors = []
        for steps in REAL_STEPS:
            kept[name, steps] = model.vae.decode(model.vae.unscale(final(model, name, steps)))
            shown = [np.clip(x, -1, 1) for x in (kept[name, steps], exact)]
            errors.append(255 / 2 * np.sqrt(np.square(shown[0] - shown[1]).mean()))
        calls = [steps * (2 if name == "heun" else 1) for steps in REAL_STEPS]
        ax.loglog(calls, errors, "o-", markersize=3, color=colour, label=name)
        numbers["levels_20_" + name.replace("+", "p")] = f"{errors[REAL_STEPS.index(20)]:.1f}"
    ax.axhline(1, color=INK, linestyle="--", linewidth=0.8)
    ax.text(calls[-1], 1.05, "one level", color=INK, fontsize=8, ha="right")
    ax.set_xticks([3, 5, 8, 12, 20, 32, 64], ["3", "5", "8", "12", "20", "32", "64"])
    ax.minorticks_off()
    ax.set_xlabel("calls of the model")
    ax.set_ylabel(f"levels from {MANY} steps, RMS")
    ax.legend(fontsize=8)
    save(figure, folder / "sampling-suffice.svg")
    rows = []
    for name in ("ddim", "dpm++_2m"):
        for k in (0, 1):
            pictures = [np.clip(np.moveaxis(kept[name, steps][k], 0, -1) / 2 + 0.5, 0, 1) for steps in REAL_STEPS]
            rows.append((name, pictures))
    sheet(folder / "sampling-steps.png", rows, [f"{steps} steps" for steps in REAL_STEPS], 1.05)
    return numbers | {"many": str(MANY)}


def make(folder: Path) -> None:
    """Both."""
    model = tinyldm.load()
    write_numbers(folder / "sampling.json", orders(folder) | suffice(folder, model))
