"""Every sampler on a problem whose exact solution is known: errors, order of convergence, cost.

    python tests/bench/samplers.py

writes the tables of `docs/samplers.md` and the plot `docs/samplers.svg`. The data are numbers from a mixture of two
normal distributions, so the best prediction has a closed form; and in one dimension the probability-flow ODE keeps the
quantile of every number, so its solution has one, too.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.page import table, write_section

import tinyldm
from tinyldm import kernels
from tinyldm.bench import machine
from tinyldm.diffusion.random import TorchGenerator
from tinyldm.diffusion.samplers import SAMPLERS, Sampler, make_sampler
from tinyldm.diffusion.samplers.base import denoise
from tinyldm.diffusion.samplers.sigma import SigmaSampler, VarianceExplodingSampler
from tinyldm.diffusion.spacing import karras_sigmas

ROOT = Path(__file__).parents[2]
WEIGHTS, MEANS, DEVIATIONS = np.array([0.4, 0.6]), np.array([-1.0, 1.2]), np.array([0.25, 0.35])
NUMBERS = 4096
CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "skip_prk_steps": True,
}
LAST_LEVEL = 0.05  # the smallest level of the runs over levels given by hand
STEPS = (8, 16, 32, 64, 128)
NO_SOLVERS = ("lcm", "ddim_inverse")  # one jumps to the model's clean latent, the other goes from data to noise


def best_guess(x: np.ndarray, sigma: float) -> np.ndarray:  # (N,) -> (N,)
    r"""The mean of $x_0$ given $x = x_0 + \sigma\epsilon$."""
    variance = DEVIATIONS**2 + sigma**2
    share = np.log(WEIGHTS) - (x[..., None] - MEANS) ** 2 / (2 * variance) - np.log(variance) / 2
    share = np.exp(share - share.max(axis=-1, keepdims=True))
    share /= share.sum(axis=-1, keepdims=True)
    mean = MEANS + (x[..., None] - MEANS) * DEVIATIONS**2 / variance
    return (share * mean).sum(axis=-1)


def below(x: np.ndarray, sigma: float) -> np.ndarray:
    r"""The share of $x_0 + \sigma\epsilon$ below `x`."""
    return (WEIGHTS * ndtr((x[..., None] - MEANS) / np.sqrt(DEVIATIONS**2 + sigma**2))).sum(axis=-1)


def quantile(p: np.ndarray, sigma: float) -> np.ndarray:
    """The inverse of `below`, by bisection."""
    low, high = np.full_like(p, -8 * (sigma + 1)), np.full_like(p, 8 * (sigma + 1))
    for _ in range(70):
        middle = (low + high) / 2
        less = below(middle, sigma) < p
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    return (low + high) / 2


def level_of(sampler: Any, t: float) -> float:
    """The noise level of a fractional timestep."""
    alpha_bar = sampler.alpha_bar.astype(np.float64)
    table_ = np.log((1 - alpha_bar) / alpha_bar) / 2
    return math.exp(np.interp(t, np.arange(len(table_)), table_))


def made(name: str, steps: int) -> Any:
    """A run of so many steps: over levels given by hand, where the sampler takes them."""
    config: dict[str, Any] = {} if SAMPLERS[name].sampler.family == "flow" else CONFIG
    options: dict[str, Any] = {"eta": 0.0, "original_inference_steps": 500} if name == "tcd" else {}
    if not issubclass(SAMPLERS[name].sampler, SigmaSampler):
        return make_sampler(name, config, steps, **options)
    levels = karras_sigmas(14.6, LAST_LEVEL, steps + 1)
    return make_sampler(name, config, steps, sigmas=tuple(levels.tolist()))


def ends(sampler: Any) -> tuple[float, float, float, float]:
    """The levels that a run begins and ends at, and what its latents are divided by to be `x0 + sigma * noise`."""
    if sampler.family == "flow":
        return math.inf, 0.0, 1.0, 1.0
    if isinstance(sampler, SigmaSampler):
        first, last = float(sampler.sigmas[0]), float(sampler.sigmas[-1])
        exploding = isinstance(sampler, VarianceExplodingSampler)
        return first, last, *((1.0, 1.0) if exploding else (1 / math.hypot(first, 1), 1 / math.hypot(last, 1)))
    first = level_of(sampler, float(sampler.timesteps[0]))
    last = level_of(sampler, 0.0) if sampler.name == "tcd" else 0.0
    return first, last, 1 / math.hypot(first, 1), 1 / math.hypot(last, 1)


def predict_for(sampler: Any) -> Any:
    """The model that knows: of the noise, or of the flow's velocity."""

    def epsilon(z: np.ndarray, t: np.number) -> np.ndarray:
        sigma = level_of(sampler, float(t))
        x = z * math.hypot(sigma, 1)
        return (x - best_guess(x, sigma)) / sigma

    def velocity(z: np.ndarray, t: np.number) -> np.ndarray:
        sigma = min(float(t) / 1000, 1 - 1e-9)
        return (z - best_guess(z / (1 - sigma), sigma / (1 - sigma))) / sigma

    return velocity if sampler.family == "flow" else epsilon


def run(name: str, steps: int) -> tuple[float, float, int]:
    """Root mean square error against the ODE's solution, distance from the data's distribution, calls of the model."""
    sampler = made(name, steps)
    first, last, scale, end_scale = ends(sampler)
    rng = TorchGenerator(1)
    p = (np.arange(NUMBERS) + 0.5) / NUMBERS
    np.random.default_rng(0).shuffle(p)
    if first == math.inf:
        from scipy.special import ndtri

        z = ndtri(p)
    else:
        z = quantile(p, first) * scale
    end = denoise(predict_for(sampler), sampler, z[None], rng)[0] / end_scale
    exact = quantile(p, last)
    error = float(np.sqrt(np.mean((end - exact) ** 2)))
    distance = float(np.mean(np.abs(np.sort(end) - np.sort(exact))))
    return error, distance, sampler.calls()


def is_stochastic(name: str) -> bool:
    """Whether a run draws noise."""
    sampler: Sampler = made(name, 2)
    drawn: list[Any] = []

    class Source:
        seeds = (0,)

        def randn(self, shape: tuple[int, ...]) -> np.ndarray:
            drawn.append(shape)
            return np.zeros(shape)

    denoise(lambda z, t: 0.5 * z, sampler, np.ones((1, 4)), Source())
    return bool(drawn) or name == "dpm++_sde"


LATENT = (1, 4, 16, 16)  # of the embedded checkpoint
BROWNIAN = ("dpm++_2m_sde", "dpm++_3m_sde")  # whose noise is from a path on request


def overhead(name: str, **options: Any) -> float:
    """Seconds of a call's own arithmetic on the embedded checkpoint's latent, its noise included, without the model."""
    noise = TorchGenerator(0).randn(LATENT)
    times = []
    for _ in range(25):
        flow = SAMPLERS[name].sampler.family == "flow"
        sampler: Any = make_sampler(name, {} if flow else CONFIG, 25, **options)
        if hasattr(sampler, "path"):
            sampler.path.halving = kernels.brownian_halves  # as a model has it
        start = time.process_time()
        denoise(lambda z, t: noise, sampler, noise, TorchGenerator(1))
        times.append((time.process_time() - start) / sampler.calls())
    return min(times)


def guided_step() -> float:
    """Seconds of a call of the embedded checkpoint's UNet, without and with a prompt, on one thread."""
    model = tinyldm.load(threads=1)
    prepared = model.unet.prepare(model.text_encoder(model.tokenizer.encode(["", "red apple"])))
    z = TorchGenerator(0).randn((2, *LATENT[1:]))
    times = []
    for _ in range(30):
        start = time.process_time()
        model.unet(z, 500, prepared)
        times.append(time.process_time() - start)
    return min(times)


def overheads() -> str:
    """The table of all samplers, beside the model."""
    step = guided_step()
    with kernels.using_threads(1):
        found = {f"`{name}`": overhead(name) for name in SAMPLERS}
        found |= {f"`{name}`, `brownian=True`": overhead(name, brownian=True) for name in BROWNIAN}
    rows = [[name, f"{1e6 * seconds:.0f}", f"{seconds / step:.2%}"] for name, seconds in found.items()]
    where = f"On {machine()}, one thread, where a guided call of the UNet takes {1e3 * step:.1f} ms; processor time."
    return f"{table(['sampler', 'µs a call', 'of the call'], rows)}\n\n{where}"


COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf", "#7f7f7f", "#bcbd22")


def plot(curves: dict[str, list[tuple[int, float]]]) -> str:
    """Error over calls of the model, both logarithmic, as SVG."""
    width, height, left, bottom = 760, 460, 60, 40
    top, right = 1.0, 170

    def x(calls: float) -> float:
        return left + (math.log2(calls) - 3) / 5 * (width - left - right)

    def y(error: float) -> float:
        return height - bottom - (math.log10(error) + 7) / (math.log10(top) + 7) * (height - bottom - 20)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for power in range(3, 9):
        parts.append(
            f'<line x1="{x(2**power):.0f}" x2="{x(2**power):.0f}" y1="20" y2="{height - bottom}" stroke="#ddd"/>'
        )
        parts.append(f'<text x="{x(2**power):.0f}" y="{height - 22}" text-anchor="middle">{2**power}</text>')
    for power in range(-7, 1):
        line = y(10.0**power)
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{line:.0f}" y2="{line:.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{line + 4:.0f}" text-anchor="end">1e{power}</text>')
    parts.append(
        f'<text x="{(left + width - right) / 2:.0f}" y="{height - 5}" text-anchor="middle">calls of the model</text>'
    )
    for k, (name, points) in enumerate(curves.items()):
        color, dash = COLORS[k % len(COLORS)], "" if k < len(COLORS) else ' stroke-dasharray="5 3"'
        way = " ".join(f"{x(calls):.1f},{y(max(error, 1e-7)):.1f}" for calls, error in points)
        parts.append(f'<polyline points="{way}" fill="none" stroke="{color}" stroke-width="1.8"{dash}/>')
        place, begin = 24 + 17 * k, width - right + 10
        line = f'x1="{begin}" x2="{begin + 24}" y1="{place}" y2="{place}" stroke="{color}" stroke-width="2"{dash}'
        parts.append(f"<line {line}/>")
        parts.append(f'<text x="{begin + 30}" y="{place + 4}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Run everything and write the page."""
    names = [name for name in SAMPLERS if name not in (*NO_SOLVERS, "dpm++_2m_karras")]
    noisy = [name for name in names if is_stochastic(name)]
    curves: dict[str, list[tuple[int, float]]] = {}
    rows = []
    for name in (name for name in names if name not in noisy):
        runs = {steps: run(name, steps) for steps in STEPS}
        curves[name] = [(calls, error) for error, _, calls in runs.values() if calls <= 256]
        order = math.log2(runs[64][0] / runs[128][0])
        errors = [f"{runs[steps][0]:.1e}" for steps in STEPS]
        rows.append([f"`{name}`", str(runs[16][2]), *errors, f"{order:.1f}"])
    head = ["sampler", "calls for 16 steps", *(f"{steps} steps" for steps in STEPS), "order"]
    page = ROOT / "docs" / "samplers.md"
    write_section(page, "deterministic", table(head, rows))
    rows = [
        [f"`{name}`", str(made(name, 16).calls()), *(f"{run(name, steps)[1]:.3f}" for steps in STEPS)] for name in noisy
    ]
    write_section(page, "stochastic", table(["sampler", "calls for 16 steps", *(f"{s} steps" for s in STEPS)], rows))
    write_section(page, "overhead", overheads())
    (ROOT / "docs" / "samplers.svg").write_text(plot(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
