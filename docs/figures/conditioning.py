"""The prompt: how alike contexts are, and what guidance does to latents and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from drawing import COLOURS, plots, save, sheet, write_numbers, write_table

import tinyldm

STEPS, SCALES = 30, (1.0, 2.0, 4.0, 7.5, 15.0)
NAMES = ("red apple", "fox", "owl", "rocket", "crab", "guitar")  # one picture in the training set has each
VAGUE = ("face", "heart", "clock", "hand", "small", "blue", "animal", "green dog and red cat")  # many have, or none
ALIKE = (
    "red apple",
    "green apple",
    "red heart",
    "green heart",
    "dog",
    "dog face",
    "fox",
    "bus",
    "trolleybus",
    "guitar",
)


def likeness(folder: Path, model: tinyldm.LatentDiffusion) -> None:
    """The cosine between the contexts of prompts, each the mean over its tokens, less the mean of all prompts."""
    contexts = model.text_encoder(model.tokenizer.encode(list(ALIKE))).mean(1)
    contexts = contexts - contexts.mean(0)
    unit = contexts / np.linalg.norm(contexts, axis=1, keepdims=True)
    figure, ax = plots(width=4.6, height=3.6)
    drawn = ax.imshow(unit @ unit.T, cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set_xticks(range(len(ALIKE)), ALIKE, rotation=60, ha="right", fontsize=8)
    ax.set_yticks(range(len(ALIKE)), ALIKE, fontsize=8)
    ax.grid(visible=False)
    figure.colorbar(drawn, shrink=0.8)
    save(figure, folder / "conditioning-likeness.png")


def saturation(pictures: np.ndarray) -> float:  # (N, H, W, 3) in [0, 1]
    """The mean of (largest - smallest) / largest colour over the pixels that are not white."""
    high, low = pictures.max(-1), pictures.min(-1)
    coloured = low < 0.94
    return float(((high - low) / np.maximum(high, 1e-3))[coloured].mean())


def made(
    model: tinyldm.LatentDiffusion, prompts: tuple[str, ...], scale: float, rescale: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The final latents of prompts, and their pixels before they are held between black and white."""
    last: dict[int, np.ndarray] = {}

    def keep(step: tinyldm.pipelines.walk.Step) -> None:
        last.update(zip(step.pictures, step.latent, strict=True))

    settings = {"steps": STEPS, "guidance_scale": scale, "sampler": "ddim"}
    settings |= {"guidance_rescale": rescale} if scale > 1 else {}  # without guidance there is nothing to undo
    model.text_to_image(list(prompts), callback=keep, **settings)
    z = np.stack([last[k] for k in sorted(last)])
    return z, np.moveaxis(model.vae.decode(model.vae.unscale(z)), 1, -1) / 2 + 0.5


def scales(folder: Path, model: tinyldm.LatentDiffusion) -> dict[str, str]:
    """Deviation of the latents, saturation, and the share of clipped values by scale, without and with rescaling."""
    kinds = {"names": (NAMES, 0.0), "vague": (VAGUE, 0.0), "vague, rescaled by 0.7": (VAGUE, 0.7)}
    found = {kind: [made(model, p, scale, rescale) for scale in SCALES] for kind, (p, rescale) in kinds.items()}
    figure, axes = plots(3, width=7.4, height=2.6)
    rows, deviations = [], {}
    for (kind, both), colour in zip(found.items(), COLOURS, strict=False):
        deviations[kind] = [float(z.std()) for z, _ in both]
        loud = [saturation(np.clip(x, 0, 1)) for _, x in both]
        clipped = [100 * np.mean((x < -0.02) | (x > 1.02)) for _, x in both]
        for ax, values in zip(axes, (deviations[kind], loud, clipped), strict=True):
            ax.plot(SCALES, values, "o-", markersize=3, color=colour, label=kind)
        mean = [np.abs(z.mean((2, 3))).mean() for z, _ in both]
        for k, scale in enumerate(SCALES):
            values = mean[k], deviations[kind][k], loud[k]
            rows.append((kind, f"{scale:g}", *(f"{value:.2f}" for value in values), f"{clipped[k]:.1f}"))
    titles = "deviation of the latents", "saturation", "values out of range, %"
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("guidance scale")
    axes[0].legend(fontsize=8)
    save(figure, folder / "conditioning-scales.svg")
    head = ("prompts", "scale", "mean of a channel, absolute", "deviation", "saturation", "out of range, %")
    write_table(folder / "conditioning-scales.md", head, rows)
    picked = [("names", 0), ("names", 3), ("vague", 0), ("vague", 1), ("vague", 6), ("vague", 7)]
    sheet(
        folder / "conditioning-scales.png",
        [(f'"{kinds[kind][0][k]}"', [np.clip(x[k], 0, 1) for _, x in found[kind]]) for kind, k in picked],
        [f"scale {s:g}" for s in SCALES],
        1.1,
    )
    pair = [
        (word, [np.clip(x, 0, 1) for x in found[kind][4][1]])
        for word, kind in zip(("plain", "rescaled"), list(found)[1:], strict=True)
    ]
    sheet(folder / "conditioning-rescaled.png", pair, [], 1.0)
    plain, rescaled = deviations["vague"], deviations["vague, rescaled by 0.7"]
    return {
        "names_1": f"{deviations['names'][0]:.2f}",
        "names_15": f"{deviations['names'][4]:.2f}",
        "vague_1": f"{plain[0]:.2f}",
        "vague_7": f"{plain[3]:.2f}",
        "vague_15": f"{plain[4]:.2f}",
        "rescaled_15": f"{rescaled[4]:.2f}",
        "names": str(len(NAMES)),
        "vague": str(len(VAGUE)),
    }


# The mixture ----------------------------------------------------------------------------------------------------------

MEANS, DEVIATION = np.array([-0.5, 0.5]), 0.5


def guided(scale: float, steps: int = 400, count: int = 40_000) -> np.ndarray:
    """Numbers that DDIM makes with exact predictions, guided towards the second of two normal distributions."""
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    times = np.linspace(999, 0, steps).astype(int)
    z = np.random.default_rng(0).standard_normal(count)
    for t, after in zip(times, [*times[1:], None], strict=True):
        a, s = np.sqrt(alpha_bar[t]), np.sqrt(1 - alpha_bar[t])
        variance = a**2 * DEVIATION**2 + s**2
        each = s * (z[:, None] - a * MEANS) / variance  # the noise, were it from the first, from the second
        share = 1 / (1 + np.exp(-(2 * a * MEANS[1]) * z / variance))  # of the second at z
        without = (1 - share) * each[:, 0] + share * each[:, 1]
        epsilon = without + scale * (each[:, 1] - without)
        x0 = (z - s * epsilon) / a
        z = x0 if after is None else np.sqrt(alpha_bar[after]) * x0 + np.sqrt(1 - alpha_bar[after]) * epsilon
    return z


def tilted(scale: float) -> tuple[float, float]:
    """Mean and deviation of the density p(x) p(c | x)^s, which guidance is often said to draw from."""
    x = np.linspace(-8, 8, 40_001)
    p = np.exp(-((x[:, None] - MEANS) ** 2) / (2 * DEVIATION**2))
    weight = p.sum(1) * (p[:, 1] / p.sum(1)) ** scale
    mean = (x * weight).sum() / weight.sum()
    return float(mean), float(np.sqrt(((x - mean) ** 2 * weight).sum() / weight.sum()))


def known(folder: Path) -> dict[str, str]:
    """What guidance draws from where everything is known."""
    figure, ax = plots(width=6, height=2.7)
    x, rows = np.linspace(-2, 4, 400), []
    normal = np.exp(-((x[:, None] - MEANS) ** 2) / (2 * DEVIATION**2)) / (DEVIATION * np.sqrt(2 * np.pi))
    ax.fill_between(x, normal.mean(1), color="#808080", alpha=0.3, label="without a condition")
    for scale, colour in zip((1.0, 2.0, 4.0, 8.0), COLOURS, strict=False):
        z = guided(scale)
        ax.hist(z, 150, (-2, 4), density=True, histtype="step", color=colour, label=f"scale {scale:g}")
        mean, deviation = tilted(scale)
        rows.append((f"{scale:g}", f"{z.mean():.2f}", f"{z.std():.2f}", f"{mean:.2f}", f"{deviation:.2f}"))
    ax.set_xlabel("x")
    ax.legend(fontsize=8)
    save(figure, folder / "conditioning-known.svg")
    head = ("scale", "mean of what is drawn", "deviation", "mean of p(x) p(c|x)^s", "its deviation")
    write_table(folder / "conditioning-known.md", head, rows)
    return {}


def make(folder: Path) -> None:
    """All of these."""
    model = tinyldm.load()
    likeness(folder, model)
    write_numbers(folder / "conditioning.json", scales(folder, model) | known(folder))
