"""The published model families: how a file is told to be of one, and what its tensors do not tell.

Names and shapes give the architecture but not the number of attention heads, the scale of the latents, what the UNet
predicts, nor the noise schedule. Those come from the configuration files in the original repositories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Config = dict[str, Any]


@dataclass(frozen=True)
class Heads:
    """How the attention over so many channels is divided: a number of heads, or so many channels for each."""

    count: int | None = None
    channels: int | None = None

    def __call__(self, width: int) -> int:
        """The number of heads over `width` channels."""
        return self.count or max(1, width // (self.channels or width))


@dataclass(frozen=True)
class Facts:
    """What a UNet's tensors tell: width of the first level, channels in and out, width of the context, projections."""

    width: int
    in_channels: int
    context: int | None
    linear: bool


@dataclass(frozen=True)
class Family:
    """A published family. `fits` is a rule over the facts; the rest is what the tensors do not say."""

    name: str
    title: str
    fits: Callable[[Facts], bool]
    heads: Heads
    scheduler: Config
    scaling_factor: float = 0.18215
    ema: bool = False
    size: int = 512
    sizes: Mapping[str, int] = field(default_factory=dict)  # by prediction type, where it is not the same
    also: str = ""  # what else has the same names and shapes, and differs in what they do not tell


def schedule(start: float, end: float, kind: str = "DDIMScheduler", **more: Any) -> Config:
    """A published scheduler configuration; the variance schedule is linear in the square root of beta."""
    return {
        "_class_name": kind,
        "beta_start": start,
        "beta_end": end,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    } | more


SD = schedule(0.00085, 0.012, "PNDMScheduler", skip_prk_steps=True)
SD_V = schedule(0.00085, 0.012, prediction_type="v_prediction")
SDXL = schedule(0.00085, 0.012, "EulerDiscreteScheduler", timestep_spacing="leading", use_karras_sigmas=False)
UPSCALER = schedule(0.0001, 0.02, prediction_type="v_prediction")
SAME_AS_SD2 = "2-base, 2.1-base and SD-Turbo predict epsilon"

FAMILIES = (
    Family(
        "stable-diffusion-1",
        "Stable Diffusion 1",
        lambda f: (f.in_channels, f.context, f.linear) == (4, 768, False),
        Heads(count=8),
        SD,
    ),
    Family(
        "stable-diffusion-1-inpainting",
        "Stable Diffusion 1 inpainting",
        lambda f: (f.in_channels, f.context, f.linear) == (9, 768, False),
        Heads(count=8),
        SD,
    ),
    Family(
        "stable-diffusion-2",
        "Stable Diffusion 2",
        lambda f: (f.in_channels, f.context, f.linear) == (4, 1024, True),
        Heads(channels=64),
        SD_V,
        size=768,
        sizes={"epsilon": 512},
        also=SAME_AS_SD2,
    ),
    Family(
        "stable-diffusion-2-inpainting",
        "Stable Diffusion 2 inpainting",
        lambda f: (f.in_channels, f.context, f.linear) == (9, 1024, True),
        Heads(channels=64),
        SD,
    ),
    Family(
        "stable-diffusion-2-depth",
        "Stable Diffusion 2 depth",
        lambda f: (f.in_channels, f.context, f.linear) == (5, 1024, True),
        Heads(channels=64),
        SD,
    ),
    Family(
        "stable-diffusion-x4-upscaler",
        "Stable Diffusion ×4 upscaler",
        lambda f: (f.in_channels, f.context, f.linear) == (7, 1024, True),
        Heads(count=8),
        UPSCALER,
        scaling_factor=0.08333,
    ),
    Family(
        "stable-diffusion-xl",
        "Stable Diffusion XL",
        lambda f: (f.context, f.linear) == (2048, True),
        Heads(channels=64),
        SDXL,
        scaling_factor=0.13025,
        size=1024,
    ),
    Family(
        "stable-diffusion-xl-refiner",
        "Stable Diffusion XL refiner",
        lambda f: (f.context, f.linear) == (1280, True),
        Heads(channels=64),
        SDXL,
        scaling_factor=0.13025,
        size=1024,
    ),
    Family(
        "ldm-text2img-large",
        "latent diffusion, text to image, 1.45 B",
        lambda f: (f.in_channels, f.context, f.linear) == (4, 1280, False),
        Heads(count=8),
        schedule(0.00085, 0.012),
        size=256,
    ),
    Family(
        "ldm-text2img-256",
        "latent diffusion, text to image, 256",
        lambda f: (f.in_channels, f.context, f.linear) == (3, 640, False),
        Heads(channels=32),
        schedule(0.0015, 0.0195),
        scaling_factor=1.0,
        ema=True,
        size=256,
    ),
    Family(
        "ldm-cin256",
        "latent diffusion, class-conditional ImageNet, VQ f8",
        lambda f: (f.in_channels, f.context, f.linear) == (4, 512, False),
        Heads(channels=32),
        schedule(0.0015, 0.0195),
        scaling_factor=1.0,
        ema=True,
        size=256,
    ),
    Family(
        "ldm-layout2img",
        "latent diffusion, layout to image",
        lambda f: (f.width, f.in_channels, f.context) == (128, 3, 512),
        Heads(channels=32),
        schedule(0.0015, 0.0205),
        scaling_factor=1.0,
        ema=True,
        size=256,
    ),
    Family(
        "ldm-cin256-v2",
        "latent diffusion, class-conditional ImageNet, VQ f4",
        lambda f: (f.in_channels, f.context, f.linear) == (3, 512, False),
        Heads(count=1),
        schedule(0.0015, 0.0195),
        scaling_factor=1.0,
        size=256,
    ),
    Family(
        "ldm-retrieval-768",
        "latent diffusion, retrieval-augmented, 768",
        lambda f: (f.in_channels, f.context) == (16, 768),
        Heads(channels=32),
        schedule(0.0015, 0.015),
        scaling_factor=0.22765929,
        ema=True,
        size=768,
    ),
    Family(
        "ldm-lsun-churches",
        "latent diffusion, LSUN churches",
        lambda f: (f.in_channels, f.context) == (4, None),
        Heads(count=8),
        schedule(0.0015, 0.0155),
        scaling_factor=1.0,  # the file holds its own, measured in training
        ema=True,
        size=256,
    ),
    Family(
        "ldm-bsr-sr",
        "latent diffusion, super-resolution",
        lambda f: (f.width, f.in_channels, f.context) == (160, 6, None),
        Heads(channels=32),
        schedule(0.0015, 0.0155),
        scaling_factor=1.0,
        ema=True,
        size=256,
    ),
    Family(
        "ldm-semantic-synthesis",
        "latent diffusion, semantic synthesis",
        lambda f: (f.in_channels, f.context) == (6, None),
        Heads(count=8),
        schedule(0.0015, 0.0205),
        scaling_factor=1.0,
        ema=True,
        size=256,
    ),
    Family(
        "ldm-inpainting-big",
        "latent diffusion, inpainting",
        lambda f: (f.in_channels, f.context) == (7, None),
        Heads(count=8),
        schedule(0.0015, 0.0205),
        scaling_factor=1.0,
        ema=True,
        size=256,
    ),
    Family(
        "ldm-unconditional",
        "latent diffusion, unconditional: CelebA-HQ, FFHQ, LSUN bedrooms",
        lambda f: (f.in_channels, f.context) == (3, None),
        Heads(channels=32),
        schedule(0.0015, 0.0195),
        scaling_factor=1.0,
        ema=True,
        size=256,
    ),
)


def family_of(facts: Facts) -> Family | None:
    """The family that a UNet belongs to, or None."""
    return next((family for family in FAMILIES if family.fits(facts)), None)
