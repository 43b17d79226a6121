"""The diffusion process: a latent that drowns in noise, a mixture with known answers, the real checkpoint's loss."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import mixture
import numpy as np
from collect_pictures import pictures
from drawing import BLUE, GREEN, INK, ORANGE, RED, plots, save, sheet, write_numbers

import tinyldm
from tinyldm.diffusion import schedule
from tinyldm.diffusion.forward import add_noise

ALPHA_BAR = schedule.alpha_bar(schedule.make_betas("scaled_linear", 0.00085, 0.012, 1000)).astype(np.float64)
TIMES = (0, 100, 200, 350, 500, 700, 999)


def forward(folder: Path, model: tinyldm.LatentDiffusion, x: np.ndarray) -> None:
    """A picture, and a picture's latent, with more and more noise."""
    z = model.encode(x)
    noise = tinyldm.random.torch_randn(z.shape, seed=2)
    drowned = [add_noise(z, noise, t, ALPHA_BAR.astype(np.float32)) for t in TIMES]
    rng = np.random.default_rng(0)
    pixels = [add_noise(x, rng.standard_normal(x.shape).astype(np.float32), t, ALPHA_BAR) for t in TIMES]
    rows = [
        ("pixels", [np.clip(np.moveaxis(p[0], 0, -1) / 2 + 0.5, 0, 1) for p in pixels]),
        ("latent", [np.block([[d[0, 0], d[0, 1]], [d[0, 2], d[0, 3]]]) for d in drowned]),
        ("decoded", [model.decode(d)[0] for d in drowned]),
    ]
    sheet(folder / "process-forward.png", rows, [f"t = {t}" for t in TIMES], 1.05)


def schedules(folder: Path) -> dict[str, str]:
    """The shares of signal and noise, and the signal-to-noise ratio of three schedules."""
    figure, axes = plots(2, width=7, height=2.7)
    t = np.arange(1000)
    axes[0].plot(t, np.sqrt(ALPHA_BAR), label=r"$\sqrt{\bar\alpha_t}$, signal")
    axes[0].plot(t, np.sqrt(1 - ALPHA_BAR), label=r"$\sqrt{1 - \bar\alpha_t}$, noise")
    kinds = {"scaled_linear": (0.00085, 0.012), "linear": (0.0001, 0.02), "squaredcos_cap_v2": (0, 0)}
    for name, ends in kinds.items():
        table = schedule.alpha_bar(schedule.make_betas(name, *ends, 1000)).astype(np.float64)
        axes[1].plot(t, 10 * np.log10(table / (1 - table)), label=name)
    axes[1].set_ylabel("signal-to-noise ratio, dB")
    axes[1].set_ylim(-50, 45)
    for ax in axes:
        ax.set_xlabel("timestep")
        ax.legend(fontsize=8)
    save(figure, folder / "process-schedules.svg")
    equal = int(np.argmin(np.abs(ALPHA_BAR - 0.5)))
    return {"equal": str(equal), "last_signal": f"{np.sqrt(ALPHA_BAR[-1]):.3f}"}


def densities(folder: Path) -> None:
    """The mixture from data to noise, with the ways of the probability flow; and its score at three timesteps."""
    grid = np.linspace(-3, 3, 300)
    shares = [(np.sqrt(a), np.sqrt(1 - a)) for a in ALPHA_BAR[::5]]
    p = np.array([mixture.density(grid, a, s) for a, s in shares]).T
    figure, axes = plots(2, width=7.4, height=3, width_ratios=[1.7, 1])
    axes[0].imshow(p**0.5, aspect="auto", origin="lower", extent=(0, 1000, -3, 3), cmap="Blues", vmax=1.0)
    x = np.linspace(-1.6, 1.4, 16)  # ways of the flow, from clean to noise by small steps of DDIM
    way = [x]
    for (a, s), (a2, s2) in pairwise(shares):
        epsilon = mixture.best_epsilon(way[-1], a, s)
        way.append(a2 / a * (way[-1] - s * epsilon) + s2 * epsilon)
    axes[0].plot(5 * np.arange(len(way)), np.array(way), color=ORANGE, linewidth=0.8)
    axes[0].set_xlabel("timestep")
    axes[0].set_ylabel("z")
    axes[0].grid(visible=False)
    for t, colour in ((60, BLUE), (250, ORANGE), (600, GREEN)):
        a, s = np.sqrt(ALPHA_BAR[t]), np.sqrt(1 - ALPHA_BAR[t])
        axes[1].fill_between(grid, mixture.density(grid, a, s), color=colour, alpha=0.25)
        axes[1].plot(grid, mixture.score(grid, a, s) / 10, color=colour, label=f"t = {t}")
    axes[1].set_ylim(-1.1, 1.1)
    axes[1].set_title("density (filled), score / 10 (line)", fontsize=9)
    axes[1].set_xlabel("z")
    axes[1].legend(fontsize=8)
    save(figure, folder / "process-mixture.png")


def bound(folder: Path) -> dict[str, str]:
    """The terms of the evidence bound for the mixture with the best predictor, and what they sum to."""
    rng = np.random.default_rng(0)
    x0 = mixture.draw(20_000, rng)
    exact = -np.log(mixture.density(x0)).mean()
    alpha = np.append(ALPHA_BAR[0], ALPHA_BAR[1:] / ALPHA_BAR[:-1])
    terms, simple, weights = np.zeros(1000), np.zeros(1000), np.zeros(1000)
    for t in range(1, 1000):
        a, s = np.sqrt(ALPHA_BAR[t]), np.sqrt(1 - ALPHA_BAR[t])
        epsilon = rng.standard_normal(x0.shape)
        simple[t] = np.square(epsilon - mixture.best_epsilon(a * x0 + s * epsilon, a, s)).mean()
        variance = (1 - alpha[t]) * (1 - ALPHA_BAR[t - 1]) / (1 - ALPHA_BAR[t])  # of q(z_{t-1} | z_t, x0)
        weights[t] = (1 - alpha[t]) ** 2 / (2 * variance * alpha[t] * (1 - ALPHA_BAR[t]))
        terms[t] = weights[t] * simple[t]
    a, s = np.sqrt(ALPHA_BAR[0]), np.sqrt(1 - ALPHA_BAR[0])
    guess = mixture.best_x0(a * x0 + s * rng.standard_normal(x0.shape), a, s)
    terms[0] = (0.5 * np.log(2 * np.pi * s**2) + (x0 - guess) ** 2 / (2 * s**2)).mean()
    # Were the reverse step's variance the best one for each timestep, instead of that of q(z_{t-1} | z_t, x0):
    best = 0.5 * np.log1p(2 * terms[1:]).sum() + 0.5 * np.log(2 * np.pi * np.e * np.square(x0 - guess).mean())
    last = 0.5 * (ALPHA_BAR[-1] * x0**2 - ALPHA_BAR[-1] - np.log(1 - ALPHA_BAR[-1])).mean()
    figure, axes = plots(2, width=7, height=2.6)
    axes[0].semilogy(np.arange(1, 1000), simple[1:], color=BLUE)
    axes[0].set_title("squared error of the noise, at best", fontsize=9)
    axes[1].semilogy(np.arange(1, 1000), weights[1:], color=RED)
    axes[1].set_title("its weight in the bound", fontsize=9)
    for ax in axes:
        ax.set_xlabel("timestep")
    save(figure, folder / "process-bound.svg")
    return {
        "exact": f"{exact:.3f}",
        "bound": f"{terms.sum() + last:.3f}",
        "bound_best": f"{best + last:.3f}",
        "weight_first": f"{weights[1]:.2g}",
        "weight_last": f"{weights[-1]:.2g}",
    }


def losses(folder: Path, model: tinyldm.LatentDiffusion, x: np.ndarray, names: list[str]) -> dict[str, str]:
    """The checkpoint's loss by timestep on real pictures, with their names and without, and of a poor guess."""
    z0 = model.vae.scale(model.vae.encode(x)[0])
    contexts = {
        "with its name": model.text_encoder(model.tokenizer.encode(names)),
        "without": np.repeat(model.text_encoder(model.tokenizer.encode("")), len(x), axis=0),
    }
    times = np.array([1, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999])
    variance = float(z0.var())
    figure, ax = plots(width=6, height=3)
    found = {}
    for (name, context), colour in zip(contexts.items(), (BLUE, ORANGE), strict=True):
        mean, error = [], []
        for t in times:
            noise = tinyldm.random.torch_randn(z0.shape, seed=int(t))
            z = add_noise(z0, noise, int(t), ALPHA_BAR.astype(np.float32))
            each = np.square(model.unet(z, int(t), context) - noise).mean((1, 2, 3))
            mean.append(each.mean())
            error.append(2 * each.std() / np.sqrt(len(each)))
        ax.errorbar(times, mean, error, fmt="o-", markersize=3, color=colour, capsize=2, label=name)
        found[name] = np.array(mean)
    # A guess that knows only the variance: ε̂ = s z / (a² v + s²), whose squared error is a² v / (a² v + s²).
    a2 = ALPHA_BAR * variance
    ax.plot(np.arange(1000), a2 / (a2 + 1 - ALPHA_BAR), "--", color=INK, label="a guess that knows the variance alone")
    ax.set_yscale("log")
    ax.set_xlabel("timestep")
    ax.set_ylabel("squared error of the noise")
    ax.legend(fontsize=8)
    save(figure, folder / "process-loss.svg")
    middle = list(times).index(500)
    return {
        "loss_pictures": str(len(x)),
        "loss_500": f"{found['with its name'][middle]:.2g}",
        "loss_500_without": f"{found['without'][middle]:.2g}",
        "loss_1": f"{found['with its name'][0]:.2f}",
        "loss_999": f"{found['with its name'][-1]:.6f}",
    }


def make(folder: Path) -> None:
    """All of these."""
    model = tinyldm.load()
    levels, names = pictures()
    x = np.moveaxis(levels / np.float32(127.5) - 1, -1, 1)
    forward(folder, model, x[5:6])
    numbers = schedules(folder)
    densities(folder)
    numbers |= bound(folder) | losses(folder, model, x[:64], names[:64])
    write_numbers(folder / "process.json", numbers)
