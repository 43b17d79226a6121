"""The same picture by every sampler, from 4, 8, 16 and 32 calls of the model: `docs/samplers.png`.

    python tests/bench/sampler_pictures.py [-o FILE]

Each takes as many steps as come nearest to the calls of its column without more; those that call the model twice a step
take half as many.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

import tinyldm
from tinyldm.diffusion.samplers import SAMPLERS, make_sampler
from tinyldm.pipelines.grids import Axis, drawn

CALLS = (4, 8, 16, 32)
PROMPT, SEED, GUIDANCE = "fox", 4, 4.0
LEFT_OUT = ("ddim_inverse", "lcm")  # one goes from the picture to noise, the other wants a model distilled for it

OPTIONS = {"pndm": {"skip_prk_steps": True}}  # as published with Stable Diffusion: Runge-Kutta steps want 13 calls


def names() -> list[str]:
    """The samplers that make pictures of the embedded checkpoint from noise."""
    return [name for name, entry in SAMPLERS.items() if entry.sampler.family == "diffusion" and name not in LEFT_OUT]


def steps_for(name: str, calls: int, config: dict[str, object]) -> int:
    """The most steps that call the model no more than `calls` times."""
    options = OPTIONS.get(name, {})
    made = {steps: make_sampler(name, config, steps, **options) for steps in range(2, calls + 1)}
    return max(steps for steps, sampler in made.items() if sampler.calls() <= calls)


def sheet(model: tinyldm.LatentDiffusion, samplers: list[str]) -> Image.Image:
    """The pictures of some samplers, one a row, with labels."""
    config = dict(model.scheduler_config)
    images = {}
    for i, name in enumerate(samplers):
        for j, calls in enumerate(CALLS):
            more = {"guidance_scale": GUIDANCE, "seed": SEED, "sampler": name, "sampler_options": OPTIONS.get(name, {})}
            images[i, j] = model.text_to_image(PROMPT, steps=steps_for(name, calls, config), **more)[0]
    return drawn(images, Axis("prompt", tuple(samplers)), Axis("calls", CALLS))


def main() -> None:
    """Make all pictures, and write them as one."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("-o", type=Path, default=Path(__file__).parents[2] / "docs" / "samplers.png")
    output = p.parse_args().o
    model, chosen = tinyldm.load(), names()
    half = -(-len(chosen) // 2)
    left, right = sheet(model, chosen[:half]), sheet(model, chosen[half:])
    whole = Image.new("RGB", (left.width + 16 + right.width, max(left.height, right.height)), "white")
    whole.paste(left, (0, 0))
    whole.paste(right, (left.width + 16, 0))
    whole.quantize(256, dither=Image.Dither.NONE).save(output, optimize=True)


if __name__ == "__main__":
    main()
