"""What the goldens of ControlNets and adapters are made of, for the script that makes them and for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

# Arguments of `text_to_image`, or of `image_to_image` where there is a strength, and what each control is given.
CONTROL: dict[str, dict[str, Any]] = {
    "sd": {"family": "sd", "steps": 4, "sampler": "ddim", "scales": [0.7], "start": [0.0], "end": [1.0]},
    "sd_partial": {"family": "sd", "steps": 5, "sampler": "ddim", "scales": [0.8], "start": [0.2], "end": [0.6]},
    "sd_two": {
        "family": "sd",
        "steps": 6,
        "sampler": "ddim",
        "scales": [0.5, 0.9],
        "start": [0.0, 0.4],
        "end": [0.7, 1],
    },
    "sd_pndm": {"family": "sd", "steps": 5, "sampler": "pndm", "scales": [0.8], "start": [0.1], "end": [0.7]},
    "sd_image": {
        **{"family": "sd", "steps": 8, "sampler": "ddim", "strength": 0.6, "seed": 5},
        **{"scales": [0.5, 0.9], "start": [0.0, 0.5], "end": [0.5, 1.0]},
    },
    "xl": {"family": "xl", "steps": 4, "sampler": "ddim", "scales": [0.7], "start": [0.0], "end": [0.5]},
    "xl_two": {
        "family": "xl",
        "steps": 4,
        "sampler": "ddim",
        "scales": [0.5, 0.9],
        "start": [0.0, 0.25],
        "end": [0.75, 1],
    },
    "xl_image": {
        **{"family": "xl", "steps": 6, "sampler": "ddim", "strength": 0.7, "seed": 6},
        **{"scales": [0.6], "start": [0.2], "end": [0.8]},
    },
}
T2I: dict[str, dict[str, Any]] = {
    "sd": {"family": "sd", "steps": 4, "sampler": "ddim", "scales": [0.75]},
    "sd_two": {"family": "sd", "steps": 4, "sampler": "pndm", "scales": [0.5, 1.25]},
    "xl": {"family": "xl3", "steps": 4, "sampler": "ddim", "scales": [0.75], "end": 1.0},
    "xl_part": {"family": "xl3", "steps": 7, "sampler": "ddim", "scales": [1.5], "end": 0.4},
}
for _case in [*CONTROL.values(), *T2I.values()]:
    _case |= {"prompt": "a", "guidance_scale": 4.0}


def picture(name: str) -> Image.Image:
    """A picture of 24×16: a disc, stripes, or a smooth one to begin from."""
    y, x = np.mgrid[:16, :24]
    drawn = {
        "disc": ((x - 11.5) ** 2 + (y - 7.5) ** 2 < 30)[..., None] * np.array([255, 128, 0]),
        "stripes": np.stack([(x % 6) * 50, (y % 5) * 60, np.full_like(x, 90)], axis=-1),
        "start": np.stack([10 * x, 15 * y, 5 * (x + y)], axis=-1),
    }
    return Image.fromarray(drawn[name].astype(np.uint8))
