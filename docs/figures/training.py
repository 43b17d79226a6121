"""Training: the loss of the real model along its gradient, and a small network learning from nothing."""

from __future__ import annotations

from pathlib import Path

import mixture
import numpy as np
import small_network as net
from collect_pictures import pictures
from drawing import BLUE, COLOURS, INK, ORANGE, plots, save, write_numbers

import tinyldm
from tinyldm import ops

COUNT = 16


def last_layer(folder: Path) -> dict[str, str]:
    """The loss of a batch as the last convolution moves against its gradient, by steps of all lengths."""
    model = tinyldm.load(backend="reference")
    levels, names = pictures()
    z0 = model.encode(np.moveaxis(levels[:COUNT] / np.float32(127.5) - 1, -1, 1))
    context = model.text_encoder(model.tokenizer.encode(names[:COUNT]))
    rng = np.random.default_rng(0)
    t, epsilon = rng.integers(0, 1000, COUNT), rng.standard_normal(z0.shape).astype(np.float32)
    a = net.ALPHA_BAR[t].astype(np.float32)[:, None, None, None]
    z = np.sqrt(a) * z0 + np.sqrt(1 - a) * epsilon
    with tinyldm.tracing.trace("conv_act") as trace:
        model.unet(z, t, context)
    h, wanted = np.moveaxis(trace["conv_act"], 1, -1).astype(float), np.moveaxis(epsilon, 1, -1).astype(float)
    w, b = (x.astype(float) for x in (model.unet.weights.conv_out.weight, model.unet.weights.conv_out.bias))
    wrong = ops.conv2d(h, w, b, padding=1) - wanted
    padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))  # (N, H, W, C, 3, 3)
    by_w = 2 / wrong.size * np.einsum("nijo,nijcuv->ocuv", wrong, windows, optimize=True)
    by_b = 2 / wrong.size * wrong.sum((0, 1, 2))
    lengths = np.logspace(-4, 1.3, 40)
    losses = [np.square(ops.conv2d(h, w - r * by_w, b - r * by_b, padding=1) - wanted).mean() for r in lengths]
    before = np.square(wrong).mean()
    slope = np.square(by_w).sum() + np.square(by_b).sum()
    figure, ax = plots(width=6, height=2.8)
    ax.semilogx(lengths, losses, "o-", markersize=3, label="loss after a step of this length")
    ax.semilogx(lengths, before - lengths * slope, "--", color=ORANGE, label="what the gradient promises")
    ax.axhline(before, color=INK, linewidth=0.8)
    ax.set_ylim(min(losses) - 0.1 * (before - min(losses)), before + (before - min(losses)))
    ax.set_xlabel("length of the step (learning rate)")
    ax.set_ylabel("loss of the batch")
    ax.legend(fontsize=8)
    save(figure, folder / "training-step.svg")
    best = int(np.argmin(losses))
    return {
        "count": str(COUNT),
        "before": f"{before:.4f}",
        "after": f"{losses[best]:.4f}",
        "rate": f"{lengths[best]:.2g}",
    }


def small(folder: Path) -> dict[str, str]:
    """The small network's losses, and its guesses beside the best ones."""
    w, average, losses = net.train(6000)
    figure, axes = plots(2, width=7.4, height=3)
    steps = np.arange(len(losses))
    axes[0].semilogx(steps + 1, losses, color=BLUE, alpha=0.3, linewidth=0.5)
    smooth = np.convolve(losses, np.ones(100) / 100, "valid")
    axes[0].semilogx(steps[99:] + 1, smooth, color=BLUE, label="loss")
    grid, far = np.linspace(-3, 3, 200), {"last": 0.0, "averaged": 0.0}
    rng = np.random.default_rng(1)
    x0, noise = mixture.draw(4000, rng), rng.standard_normal(4000)
    for t, colour in zip((100, 300, 600), COLOURS, strict=False):
        a, s = np.sqrt(net.ALPHA_BAR[t]), np.sqrt(1 - net.ALPHA_BAR[t])
        told = np.full(len(grid), net.NOBODY)
        guess, _ = net.forward(net.features(grid, np.full(len(grid), t), told), average)
        axes[1].plot(grid, mixture.best_epsilon(grid, a, s), "--", color=colour)
        axes[1].plot(grid, guess, color=colour, label=f"t = {t}")
        z = a * x0 + s * noise
        for name, weights in (("last", w), ("averaged", average)):
            found, _ = net.forward(net.features(z, np.full(len(z), t), np.full(len(z), net.NOBODY)), weights)
            far[name] += np.square(found - mixture.best_epsilon(z, a, s)).mean() / 3
    axes[0].set_xlabel("step")
    axes[0].set_ylabel("squared error of the noise")
    axes[1].set_xlabel("z")
    axes[1].set_title("the guess of the noise (line), the best one (dashed)", fontsize=9)
    axes[1].legend(fontsize=8)
    save(figure, folder / "training-small.svg")
    return {
        "small_loss": f"{smooth[-1]:.3f}",
        "small_first": f"{losses[0]:.1f}",
        "small_last": f"{far['last']:.4f}",
        "small_averaged": f"{far['averaged']:.4f}",
    }


def make(folder: Path) -> None:
    """Both."""
    write_numbers(folder / "training.json", last_layer(folder) | small(folder))
