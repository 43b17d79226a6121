"""The pictures of `docs/editing.md`, made with the embedded checkpoint, and what putting back the known part costs.

python tests/bench/editing.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.page import setting, table, write_section

import tinyldm
from tinyldm.diffusion.samplers import make_sampler
from tinyldm.pipelines.animation import StepFrames
from tinyldm.pipelines.inpainting import Known
from tinyldm.pipelines.masks import Margins
from tinyldm.pipelines.pictures import grid
from tinyldm.pipelines.request import request
from tinyldm.pipelines.walk import Walk

DOCS = Path(__file__).parents[2] / "docs"
SCALE = 2


def save(name: str, images: list[Image.Image]) -> None:
    """Write pictures side by side, each twice as large."""
    size = max(image.width for image in images), max(image.height for image in images)
    framed = [Image.new("RGB", size, "white") for _ in images]
    for frame, image in zip(framed, images, strict=True):
        frame.paste(image.convert("RGB"), ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    sheet = grid(framed, len(framed))
    sheet.resize((sheet.width * SCALE, sheet.height * SCALE), Image.Resampling.NEAREST).save(DOCS / name, optimize=True)
    print(DOCS / name)


def make_pictures(model: tinyldm.LatentDiffusion) -> None:
    """Everything that the page shows."""
    apple, fox = (model.text_to_image(prompt, seed=0)[0] for prompt in ("red apple", "fox"))
    mask = Image.new("L", apple.size)
    ImageDraw.Draw(mask).ellipse((28, 22, 56, 50), fill=255)
    again = model.inpaint("red apple", apple, mask, seed=3, num_images=2)
    other = model.inpaint("lemon", apple, mask, seed=3)
    soft = model.inpaint("lemon", apple, mask, seed=3, mask_blur=6)
    save("editing-inpaint.png", [apple, mask, *again, *other, *soft])

    half = fox.crop((0, 0, 36, 64))
    save("editing-outpaint.png", [half, *model.inpaint("fox", half, outpaint=Margins(right=28), seed=1, num_images=4)])

    save("editing-way.png", model.interpolate(["red apple", "lemon"], frames=8, seed=1))
    settings: dict[str, Any] = {"seed": 4, "num_images": 7, "variation_seed": 1, "variation_strength": 0.5}
    save("editing-variations.png", [model.text_to_image("fox", seed=4)[0], *model.text_to_image("fox", **settings)])

    wanted = request("fox", seed=4, steps=7).resolved(model.parts)
    kept = StepFrames(model.parts, wanted)
    (picture,) = model.pictures(wanted, Walk(callback=kept.after_step))
    save("editing-steps.png", kept.frames(picture))


def shortest(run: Callable[[], object], times: int) -> float:
    """The processor's seconds of the fastest of several runs, which other programs change little."""
    found = []
    for _ in range(times):
        begun = time.process_time()
        run()
        found.append(time.process_time() - begun)
    return min(found)


def blending_cost(model: tinyldm.LatentDiffusion) -> str:
    """A guided step of the embedded checkpoint beside the putting back of the known part, by sampler."""
    z = np.random.default_rng(0).standard_normal((1, 4, *model.parts.latent_size())).astype(np.float32)
    context = model.text_encoder(model.tokenizer.encode(["", "red apple"]))
    prepared = model.unet.prepare(context)
    step = shortest(lambda: model.unet(np.concatenate([z, z]), 500, prepared), 30)
    known = Known(z, z, np.ones((1, 1, *z.shape[2:]), np.float32))
    rows = []
    for name in ("ddim", "euler_a", "dpm++_2m"):
        sampler = make_sampler(name, model.scheduler_config, 25)
        taken = shortest(lambda sampler=sampler: known.blended(z, sampler, 5), 300)
        rows.append([f"`{name}`", f"{1e3 * step:.0f} ms", f"{1e6 * taken:.0f} µs", f"{taken / step:.3%}"])
    return table(["sampler", "step of the UNet, guided", "known part put back", "share"], rows)


def main() -> None:
    make_pictures(tinyldm.load())
    cost = blending_cost(tinyldm.load(threads=1))
    write_section(DOCS / "editing.md", "blending", f"{setting(1, [])} Processor time.\n\n{cost}")


if __name__ == "__main__":
    main()
