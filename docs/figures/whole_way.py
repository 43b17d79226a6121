"""The whole way from "red apple" to pixels: a picture of each intermediate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from drawing import plots, save, sheet, show, write_numbers

import tinyldm

PROMPT, STEPS, GUIDANCE, SEED = "red apple", 25, 4.0, 0


def channels(z: np.ndarray) -> np.ndarray:
    """The four channels `(1, 4, h, w)` of a latent as one map, two by two."""
    a, b, c, d = z[0]
    return np.block([[a, b], [c, d]])


def make(folder: Path) -> None:
    """Tokens and context, the noise, every fifth latent with what it promises, the picture."""
    model = tinyldm.load()
    kept = []

    def keep(step: tinyldm.pipelines.walk.Step) -> None:
        kept.append((step.latent, step.clean))

    settings = {"steps": STEPS, "guidance_scale": GUIDANCE, "seed": SEED, "sampler": "ddim"}
    picture = model.text_to_image(PROMPT, callback=keep, **settings)[0]

    ids = model.tokenizer.encode(PROMPT)
    context = model.text_encoder(ids)
    pieces = ["start", *model.tokenizer.tokenize(PROMPT), *["end"] * 3, "…"]
    figure, ax = plots(width=7, height=2.2)
    ax.imshow(context[0], aspect="auto", cmap="RdBu", vmin=-3, vmax=3, interpolation="nearest")
    ax.set_yticks(range(len(pieces)), [piece.replace("</w>", "") for piece in pieces])
    ax.set_xlabel(f"{context.shape[2]} channels of the context, one row for each of {context.shape[1]} tokens")
    ax.grid(visible=False)
    save(figure, folder / "whole_way-context.png")

    noise = tinyldm.random.torch_randn((1, model.vae.latent_channels, 16, 16), seed=SEED)
    figure, axes = plots(5, width=7, height=1.6)
    for k in range(4):
        show(axes[k], noise[0, k], f"channel {k}", cmap="viridis", vmin=-3, vmax=3)
    axes[4].hist(noise.ravel(), bins=30, density=True)
    axes[4].set_title("its values", fontsize=9)
    save(figure, folder / "whole_way-noise.png")

    visited = [*range(0, STEPS, 5), STEPS - 1]
    before = [noise, *(latent for latent, _ in kept)]
    rows = [
        ("latent $z$", [channels(before[i]) for i in visited] + [channels(kept[-1][0])]),
        ("$z$ decoded", [model.decode(before[i])[0] for i in visited] + [picture]),
        ("promised $\\hat{x}_0$", [channels(kept[i][1]) for i in visited]),
        ("$\\hat{x}_0$ decoded", [model.decode(kept[i][1])[0] for i in visited]),
    ]
    sheet(folder / "whole_way-steps.png", rows, [f"step {i + 1}" for i in visited] + ["the end"])
    picture.save(folder / "whole_way-picture.png")

    half = next(i for i, (_, clean) in enumerate(kept) if np.corrcoef(clean.ravel(), kept[-1][0].ravel())[0, 1] > 0.9)
    numbers = {
        "tokens": int(ids.shape[1]),
        "width": int(context.shape[2]),
        "latent_numbers": int(noise.size),
        "pixel_numbers": int(np.asarray(picture).size),
        "times_fewer": int(np.asarray(picture).size // noise.size),
        "promise_step": half + 1,
        "steps": STEPS,
        "calls": 2 * STEPS,
    }
    write_numbers(folder / "whole_way.json", numbers)
