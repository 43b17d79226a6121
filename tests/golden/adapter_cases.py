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
IP: dict[str, dict[str, Any]] = {
    "sd": {"family": "sd", "steps": 3, "sampler": "ddim", "kinds": ["projection"], "scales": [0.75]},
    "sd_plus": {"family": "sd", "steps": 3, "sampler": "ddim", "kinds": ["plus"], "scales": [1.0]},
    "sd_full": {"family": "sd", "steps": 3, "sampler": "ddim", "kinds": ["full"], "scales": [0.5]},
    "sd_two": {"family": "sd", "steps": 4, "sampler": "pndm", "kinds": ["plus", "projection"], "scales": [0.4, 0.7]},
    "sd_image": {
        **{"family": "sd", "steps": 5, "sampler": "ddim", "strength": 0.6, "seed": 5},
        **{"kinds": ["projection"], "scales": [0.6]},
    },
    "xl": {"family": "xl", "steps": 3, "sampler": "ddim", "kinds": ["projection"], "scales": [0.6]},
    "xl_plus": {"family": "xl", "steps": 3, "sampler": "ddim", "kinds": ["plus"], "scales": [0.8]},
    "sd_unguided": {"family": "sd", "steps": 3, "sampler": "ddim", "kinds": ["projection"], "scales": [0.75]},
}
for _case in [*CONTROL.values(), *T2I.values(), *IP.values()]:
    _case |= {"prompt": "a", "guidance_scale": 4.0}
IP["sd_unguided"]["guidance_scale"] = 1.0
PIXELS = {"wide": (40, 23), "tall": (17, 60), "small": (5, 7), "square": (30, 30), "large": (301, 457)}


def photo(size: tuple[int, int]) -> Image.Image:
    """A picture of a size (width, height), smooth with noise on it."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 5 + y / 9), np.cos(x / 7), np.sin(y / 4)], axis=-1)
    noise = np.random.default_rng(0).uniform(-20, 20, waves.shape)
    return Image.fromarray(np.clip(128 + 100 * waves + noise, 0, 255).astype(np.uint8))


def picture(name: str) -> Image.Image:
    """A picture of 24×16: a disc, stripes, or a smooth one to begin from."""
    y, x = np.mgrid[:16, :24]
    drawn = {
        "disc": ((x - 11.5) ** 2 + (y - 7.5) ** 2 < 30)[..., None] * np.array([255, 128, 0]),
        "stripes": np.stack([(x % 6) * 50, (y % 5) * 60, np.full_like(x, 90)], axis=-1),
        "start": np.stack([10 * x, 15 * y, 5 * (x + y)], axis=-1),
    }
    return Image.fromarray(drawn[name].astype(np.uint8))
