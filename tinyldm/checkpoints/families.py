"""The published model families: how a file is told to be of one, and what its tensors do not tell.

Names and shapes give the architecture but not the number of attention heads, the scale of the latents, what the UNet
predicts, nor the noise schedule. Those come from the configuration files in the original repositories.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """A published family: the facts that tell it from the others, and what the tensors do not say."""

    name: str
    title: str
    facts: Mapping[str, Any]
    heads: Heads
    scheduler: Config
    scaling_factor: float = 0.18215
    ema: bool = False
    size: int = 512
    sizes: Mapping[str, int] = field(default_factory=dict)  # by prediction type, where it is not the same
    also: str = ""  # what else has the same names and shapes, and differs in what they do not tell

    def fits(self, facts: Facts) -> bool:
        """Whether a UNet is of this family."""
        return all(getattr(facts, name) == value for name, value in self.facts.items())


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

SD1, SD2 = Heads(count=8), Heads(channels=64)
LDM_HEADS, ONE_HEAD = Heads(channels=32), Heads(count=1)


def text_facts(in_channels: int, context: int, linear: bool) -> dict[str, Any]:
    """What tells the models of Stable Diffusion: channels of the latent and what stands behind it, and the context."""
    return {"in_channels": in_channels, "context": context, "linear": linear}


def xl(name: str, title: str, context: int) -> Family:
    """A model of Stable Diffusion XL."""
    facts = {"context": context, "linear": True}
    return Family(name, title, facts, SD2, SDXL, scaling_factor=0.13025, size=1024)


def ldm(name: str, title: str, facts: Mapping[str, Any], end: float, heads: Heads = LDM_HEADS, **more: Any) -> Family:
    """A model of the latent-diffusion zoo, with the end of its schedule; most have latents as the first stage gives."""
    usual = {"scaling_factor": 1.0, "ema": True, "size": 256}
    return Family(name, f"latent diffusion, {title}", facts, heads, schedule(0.0015, end), **usual | more)


SIZES_OF_2: dict[str, Any] = {"size": 768, "sizes": {"epsilon": 512}, "also": SAME_AS_SD2}
FAMILIES = (
    Family("stable-diffusion-1", "Stable Diffusion 1", text_facts(4, 768, False), SD1, SD),
    Family("stable-diffusion-1-inpainting", "Stable Diffusion 1 inpainting", text_facts(9, 768, False), SD1, SD),
    Family("stable-diffusion-2", "Stable Diffusion 2", text_facts(4, 1024, True), SD2, SD_V, **SIZES_OF_2),
    Family("stable-diffusion-2-inpainting", "Stable Diffusion 2 inpainting", text_facts(9, 1024, True), SD2, SD),
    Family("stable-diffusion-2-depth", "Stable Diffusion 2 depth", text_facts(5, 1024, True), SD2, SD),
    Family(
        *("stable-diffusion-x4-upscaler", "Stable Diffusion ×4 upscaler", text_facts(7, 1024, True), SD1, UPSCALER),
        scaling_factor=0.08333,
    ),
    xl("stable-diffusion-xl", "Stable Diffusion XL", 2048),
    xl("stable-diffusion-xl-refiner", "Stable Diffusion XL refiner", 1280),
    Family(
        *("ldm-text2img-large", "latent diffusion, text to image, 1.45 B", text_facts(4, 1280, False), SD1),
        schedule(0.00085, 0.012),
        size=256,
    ),
    ldm("ldm-text2img-256", "text to image, 256", text_facts(3, 640, False), 0.0195),
    ldm("ldm-cin256", "class-conditional ImageNet, VQ f8", text_facts(4, 512, False), 0.0195),
    ldm("ldm-layout2img", "layout to image", {"width": 128, "in_channels": 3, "context": 512}, 0.0205),
    ldm("ldm-cin256-v2", "class-conditional ImageNet, VQ f4", text_facts(3, 512, False), 0.0195, ONE_HEAD, ema=False),
    ldm(
        *("ldm-retrieval-768", "retrieval-augmented, 768", {"in_channels": 16, "context": 768}, 0.015),
        scaling_factor=0.22765929,
        size=768,
    ),
    # the file of the next holds a scale of its own, measured in training
    ldm("ldm-lsun-churches", "LSUN churches", {"in_channels": 4, "context": None}, 0.0155, SD1),
    ldm("ldm-bsr-sr", "super-resolution", {"width": 160, "in_channels": 6, "context": None}, 0.0155),
    ldm("ldm-semantic-synthesis", "semantic synthesis", {"in_channels": 6, "context": None}, 0.0205, SD1),
    ldm("ldm-inpainting-big", "inpainting", {"in_channels": 7, "context": None}, 0.0205, SD1),
    ldm(
        "ldm-unconditional",
        "unconditional: CelebA-HQ, FFHQ, LSUN bedrooms",
        {"in_channels": 3, "context": None},
        0.0195,
    ),
)


def family_of(facts: Facts) -> Family | None:
    """The family that a UNet belongs to, or None."""
    return next((family for family in FAMILIES if family.fits(facts)), None)
