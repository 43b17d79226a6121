"""What the autoencoder keeps and loses, what its latents are like, and what each loss sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from collect_pictures import pictures
from drawing import RED, plots, save, sheet, write_numbers, write_table

import tinyldm


def psnr(x: np.ndarray, y: np.ndarray) -> np.ndarray:  # (N, 3, H, W) twice -> (N,)
    """The peak signal-to-noise ratio in dB of pictures in [-1, 1], whose largest difference is 2."""
    return 10 * np.log10(4 / np.square(x - y).mean((1, 2, 3)))


def shown(x: np.ndarray) -> np.ndarray:  # (3, H, W) -> (H, W, 3)
    """A picture in [-1, 1] for the eye."""
    return np.clip(np.moveaxis(x, 0, -1) / 2 + 0.5, 0, 1)


def reconstructions(folder: Path, x: np.ndarray, y: np.ndarray, names: list[str]) -> dict[str, str]:
    """The best, the middling and the worst, with four times the difference; and how all are distributed."""
    quality = psnr(x, y)
    order = np.argsort(quality)[::-1]
    picked = [*order[:2], *order[len(order) // 2 - 1 : len(order) // 2 + 2], *order[-4:]]
    rows = [
        ("picture", [shown(x[i]) for i in picked]),
        ("decoded", [shown(y[i]) for i in picked]),
        ("4 × difference", [shown(4 * (y[i] - x[i])) for i in picked]),
    ]
    sheet(folder / "autoencoder-reconstructions.png", rows, [f"{quality[i]:.1f} dB" for i in picked], 0.95)
    return {
        "psnr": f"{quality.mean():.1f}",
        "psnr_least": f"{quality.min():.1f}",
        "psnr_most": f"{quality.max():.1f}",
        "worst": names[order[-1]],
        "levels": f"{255 * np.sqrt(np.square(x - y).mean()) / 2:.1f}",
    }


def power(x: np.ndarray) -> np.ndarray:  # (N, 3, H, W) -> (H / 2,)
    """The mean power of the waves of 0, 1, … H / 2 - 1 periods a picture, in any direction."""
    side = x.shape[-1]
    spectrum = np.abs(np.fft.fft2(x - x.mean((2, 3), keepdims=True))).mean((0, 1)) ** 2
    periods = np.fft.fftfreq(side, 1 / side)
    ring = np.rint(np.hypot(periods[:, None], periods)).astype(int)
    return np.array([spectrum[ring == k].mean() for k in range(side // 2)])


def spectra(folder: Path, x: np.ndarray, y: np.ndarray) -> dict[str, str]:
    """How much of each frequency is in the pictures, and in what is lost."""
    signal, lost = power(x)[1:], power(y - x)[1:]
    periods = np.arange(1, len(signal) + 1)
    figure, axes = plots(2, width=7, height=2.7)
    axes[0].loglog(periods, signal, label="picture")
    axes[0].loglog(periods, lost, label="difference")
    axes[0].set_ylabel("power")
    axes[0].legend()
    axes[1].plot(periods, 100 * lost / signal, color=RED)
    axes[1].set_ylabel("lost, % of the power")
    axes[1].set_ylim(0)
    for ax in axes:
        ax.set_xlabel("periods a picture")
    save(figure, folder / "autoencoder-spectrum.svg")
    share = lost / signal
    return {"lost_coarse": f"{100 * share[:4].mean():.2f}", "lost_fine": f"{100 * share[-8:].mean():.0f}"}


def posterior(
    folder: Path, model: tinyldm.LatentDiffusion, x: np.ndarray, mean: np.ndarray, logvar: np.ndarray
) -> dict:
    """The latents by channel beside the normal distribution, before and after scaling; the posterior's own spread."""
    scaled = model.vae.scale(mean)
    figure, axes = plots(2, width=7, height=2.7)
    grid = np.linspace(-6, 6, 400)
    for ax, z, title in zip(axes, (mean, scaled), ("as encoded", "scaled"), strict=True):
        for k in range(z.shape[1]):
            ax.hist(z[:, k].ravel(), bins=120, range=(-6, 6), density=True, histtype="step", label=f"channel {k}")
        ax.plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), "--", color="#808080", label="N(0, 1)")
        ax.set_title(title, fontsize=10)
    axes[1].legend(fontsize=8)
    save(figure, folder / "autoencoder-latents.svg")

    sigma = np.exp(logvar / 2)
    noise = np.random.default_rng(0).standard_normal(mean.shape).astype(np.float32)
    some = slice(0, 24)
    drawn = model.vae.decode((mean + sigma * noise)[some])
    middle = model.vae.decode(mean[some])
    divergence = 0.5 * (mean**2 + sigma**2 - 1 - logvar)
    rows = []
    for k in range(mean.shape[1]):
        z, s = mean[:, k], scaled[:, k]
        tails = np.mean(((s - s.mean()) / s.std()) ** 4) - 3
        row = f"{z.mean():.2f}", f"{z.std():.2f}", f"{s.std():.2f}", f"{tails:+.1f}", f"{sigma[:, k].mean():.3f}"
        rows.append((k, *row))
    head = ("channel", "mean", "deviation", "deviation, scaled", "excess kurtosis", "posterior's σ")
    write_table(folder / "autoencoder-channels.md", head, rows)
    return {
        "scaling": f"{model.vae.config.scaling_factor:.4g}",
        "deviation": f"{mean.std():.2f}",
        "deviation_scaled": f"{scaled.std():.2f}",
        "sigma": f"{sigma.mean():.3f}",
        "kl": f"{divergence.mean():.2f}",
        "psnr_mean": f"{psnr(x[some], middle).mean():.1f}",
        "psnr_drawn": f"{psnr(x[some], drawn).mean():.1f}",
        "snr_shift": f"{2 * np.log10(mean.std()) * 10:.1f}",
    }


# What a loss sees -----------------------------------------------------------------------------------------------------


def blurred(x: np.ndarray, amount: float) -> np.ndarray:
    """Convolved by a Gaussian of this deviation in pixels, in frequency."""
    f = np.fft.fftfreq(x.shape[-1])
    kernel = np.exp(-2 * (np.pi * amount) ** 2 * (f[:, None] ** 2 + f**2))
    return np.fft.ifft2(np.fft.fft2(x) * kernel).real


def noisy(x: np.ndarray, amount: float) -> np.ndarray:
    """With noise of this deviation."""
    return x + amount * np.random.default_rng(1).standard_normal(x.shape)


def moved(x: np.ndarray, amount: float) -> np.ndarray:
    """Moved to the right by so many pixels, in frequency."""
    wave = np.exp(-2j * np.pi * amount * np.fft.fftfreq(x.shape[-1]))
    return np.fft.ifft2(np.fft.fft2(x) * wave).real


def as_bad(damage: Callable[[np.ndarray, float], np.ndarray], x: np.ndarray, error: float) -> np.ndarray:
    """The damage that brings the mean squared error of all pictures to this one, by bisection."""
    low, high = 0.0, 8.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if np.square(damage(x, middle) - x).mean() < error else (low, middle)
    return damage(x, high)


def features(model: tinyldm.LatentDiffusion, x: np.ndarray) -> list[np.ndarray]:
    """What the encoder's first two levels see, each channel brought to deviation 1."""
    with tinyldm.tracing.trace("encoder.down_blocks.[01].resnets.0") as trace:
        model.vae.encode(x)
    return [y / (y.std((0, 2, 3), keepdims=True) + 1e-6) for y in trace.values()]


def texture(x: np.ndarray) -> np.ndarray:  # (N, 3, H, W) -> (N, 64)
    """The logarithmic power of the 64 waves in blocks of 8×8 pixels: what the discriminator looks at."""
    n, _, height, width = x.shape
    k = np.arange(8)
    waves = np.cos(np.pi * (k + 0.5)[None] * k[:, None] / 8)  # the discrete cosine transform
    blocks = x.mean(1).reshape(n, height // 8, 8, width // 8, 8).transpose(0, 1, 3, 2, 4)
    return np.log(np.square(waves @ blocks @ waves.T).mean((1, 2)) + 1e-4).reshape(n, 64)


def told_apart(real: np.ndarray, made: np.ndarray) -> float:
    """How well a discriminator tells pictures apart that it has not seen: the area under its curve, 0.5 to 1.

    A logistic regression on `texture`, trained on one half of the pictures by descent, judged on the other.
    """
    a, b = texture(real), texture(made)
    centre, spread = np.r_[a, b].mean(0), np.r_[a, b].std(0) + 1e-6
    a, b = (a - centre) / spread, (b - centre) / spread
    w, bias = np.zeros(64), 0.0
    inputs, wanted = np.r_[a[::2], b[::2]], np.r_[np.ones(len(a[::2])), np.zeros(len(b[::2]))]
    for _ in range(2000):
        wrong = 1 / (1 + np.exp(-(inputs @ w + bias))) - wanted
        w, bias = w - 0.1 * (inputs.T @ wrong / len(wrong) + 0.01 * w), bias - 0.1 * wrong.mean()
    return float(np.mean((a[1::2] @ w)[:, None] > (b[1::2] @ w)[None]))


def losses(folder: Path, model: tinyldm.LatentDiffusion, x: np.ndarray, y: np.ndarray) -> dict[str, str]:
    """The decoder's pictures beside three kinds of damage with the same squared error, judged by each loss."""
    error = float(np.square(y - x).mean())
    kinds = {"decoded": y, "blurred": as_bad(blurred, x, error)}
    kinds |= {"noisy": as_bad(noisy, x, error), "moved": as_bad(moved, x, error)}
    own, rows = features(model, x.astype(np.float32)), []
    for name, z in kinds.items():
        d = z - x
        edges = np.abs(np.diff(d, axis=2)).mean() + np.abs(np.diff(d, axis=3)).mean()
        seen = [np.square(a - b).mean() for a, b in zip(own, features(model, z.astype(np.float32)), strict=True)]
        judged = [np.square(d).mean(), np.abs(d).mean(), edges, np.mean(seen), told_apart(x, z)]
        rows.append((name, *(f"{value:.3g}" for value in judged[:-1]), f"{judged[-1]:.2f}"))
    head = ("", "squared", "absolute", "edges", "perceptual", "told from real ones")
    write_table(folder / "autoencoder-losses.md", head, rows)
    some = [1, 5, 40, 70]
    sheet(
        folder / "autoencoder-losses.png",
        [("real", [shown(x[i]) for i in some])] + [(n, [shown(z[i]) for i in some]) for n, z in kinds.items()],
        side=1.0,
    )
    return {"losses_error": f"{error:.4f}"}


# What super-resolution gives back -------------------------------------------------------------------------------------


def patches(x: np.ndarray, reach: int) -> np.ndarray:  # (N, 3, H, W) -> (N, H, W, 3·(2·reach+1)² + 1)
    """The neighbourhood of each pixel, and a constant."""
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1,) * 2, axis=(2, 3))
    rows = windows.transpose(0, 2, 3, 1, 4, 5).reshape(*windows.shape[:1], *windows.shape[2:4], -1)
    return np.concatenate([rows, np.ones((*rows.shape[:3], 1))], axis=-1)


def learned(before: np.ndarray, wanted: np.ndarray, period: int) -> np.ndarray:
    """The best linear guess of a pixel from its neighbourhood, fitted on the even pictures and made for the odd ones.

    With a `period` of 2, even and odd rows and columns each have a filter of their own.
    """
    guess = np.empty_like(wanted[1::2])
    around, pixels = patches(before, 3), np.moveaxis(wanted, 1, -1)
    for i in range(period):
        for j in range(period):
            here = np.s_[:, i::period, j::period]
            fit, goal = around[::2][here].reshape(-1, around.shape[-1]), pixels[::2][here].reshape(-1, 3)
            w = np.linalg.solve(fit.T @ fit + 1e-6 * len(fit) * np.eye(fit.shape[1]), fit.T @ goal)
            guess[:, :, i::period, j::period] = np.moveaxis(around[1::2][here] @ w, -1, 1)
    return guess


def given_back(x: np.ndarray, y: np.ndarray) -> dict[str, str]:
    """What a learned filter gives back of a picture that was halved, and of one that was encoded and decoded."""
    half = x.reshape(*x.shape[:2], 32, 2, 32, 2).mean((3, 5))
    large, odd = half.repeat(2, 2).repeat(2, 3), x[1::2]
    return {
        "halved": f"{psnr(odd, large[1::2]).mean():.1f}",
        "halved_learned": f"{psnr(odd, learned(large, x, 2)).mean():.1f}",
        "odd_decoded": f"{psnr(odd, y[1::2]).mean():.1f}",
        "decoded_learned": f"{psnr(odd, learned(y, x, 1)).mean():.1f}",
    }


def make(folder: Path) -> None:
    """All of these, on the collected pictures."""
    model = tinyldm.load()
    levels, names = pictures()
    x = np.moveaxis(levels / 127.5 - 1, -1, 1)  # (N, 3, 64, 64)
    mean, logvar = model.vae.encode(x.astype(np.float32))
    y = np.clip(model.vae.decode(mean), -1, 1).astype(np.float64)
    numbers = {"pictures": len(x)}
    numbers |= reconstructions(folder, x, y, names) | spectra(folder, x, y)
    numbers |= posterior(folder, model, x, mean, logvar) | losses(folder, model, x, y) | given_back(x, y)
    write_numbers(folder / "autoencoder.json", numbers)
