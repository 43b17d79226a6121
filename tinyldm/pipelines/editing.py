"""What a model can do with a picture: which channels its UNet has beside the latent, and what a request puts there.

| beside the latent | what they are | source |
|---|---|---|
| the latent's and one more | mask and masked latent: an inpainting model | Rombach et al. 2022, arXiv:2112.10752, 4.5 |
| as many as the latent, with a text | the picture to edit | Brooks et al. 2023, arXiv:2211.09800 |
| one, with a text | a map of depth | Stable Diffusion 2's release |
| those of a spatial rescaler | a map of segments | Rombach et al. 2022, section 4.3.2 |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from PIL import Image

from tinyldm.errors import InputError
from tinyldm.models.asymmetric import AsymmetricAutoencoderKL
from tinyldm.pipelines.maps import depth_levels, segment_classes
from tinyldm.pipelines.masks import as_mask
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.pictures import as_rgb

EDITS = ("mask", "image_guidance_scale", "depth", "segments")  # the settings of a request that make it an edit
# The setting that fills the channels, and how one asks for it.
WANTED = {
    "mask": "is an inpainting model, which takes a picture and a mask: `tinyldm inpaint`, `model.inpaint`",
    "image": "edits pictures by an instruction and takes the picture: `tinyldm edit`, `model.edit`",
    "depth": "takes a map of depth: `tinyldm sample --depth`, `model.text_to_image(…, depth=…)`",
    "segments": "takes a map of segments: `tinyldm sample --segments`, `model.unconditional(segments=…)`",
}
IMAGE_GUIDANCE_SCALE = 1.5  # of the models that edit by an instruction, as published


def beside(parts: Parts) -> str:
    """Which setting fills the channels beside the latent, a key of `WANTED`; "" where there are none.

    Raises `InputError` for channels that no setting fills.
    """
    config, latent = parts.predictor.config, parts.vae.latent_channels
    more, attends = config.in_channels - latent, hasattr(config, "context_dim")
    if not more:
        return ""
    if "spatial_rescaler" in parts.networks:
        return "segments"
    if more == latent + 1:
        return "mask"
    if attends and more in (1, latent):
        return "depth" if more == 1 else "image"
    raise InputError(
        f"{parts.path}: its UNet takes {config.in_channels} channels, {latent} of them the latent; the others "
        "are a mask's, a depth's, another picture's: give them to `from_conditions`"
    )


def check_edits(settings: Mapping[str, Any]) -> None:
    """Raise `InputError` for settings of an edit that no model can honour."""
    blur, scale = settings.get("mask_blur", 0.0), settings.get("image_guidance_scale")
    if not (math.isfinite(blur) and blur >= 0):
        raise InputError(f"mask_blur must be 0 or more pixels, not {blur}")
    if blur and settings.get("mask") is None:
        raise InputError("mask_blur is the edge of a mask; there is none")
    if settings.get("mask") is not None and not isinstance(settings.get("image"), Image.Image):
        raise InputError("a mask is that of a picture; wanted the picture as image, not its latent")
    if scale is not None and not (math.isfinite(scale) and scale >= 1):
        raise InputError(f"image_guidance_scale must be 1 or more, not {scale}")


def edited(parts: Parts, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What an edit changes in the settings of a request. Raises `InputError` for what the model can't honour."""
    takes = beside(parts) if settings["conditions"] is None else ""
    if takes and settings[takes] is None:
        raise InputError(f"{parts.path}: {WANTED[takes]}")
    for name in ("depth", "segments"):
        if settings[name] is not None and takes != name:
            raise InputError(f"{parts.path}: takes no map of {name}; wanted a model that was trained with one")
    return two_scales(parts, settings, takes) | begun_from(parts, settings, takes) | sized(parts, settings)


def two_scales(parts: Parts, settings: Mapping[str, Any], takes: str) -> dict[str, Any]:
    """The scale of the picture's guidance, of a model that `takes` the picture to edit."""
    scale, guided = settings["image_guidance_scale"], settings["guidance_scale"] > 1
    if takes != "image" and scale is not None:
        raise InputError(f"{parts.path}: does not edit by an instruction, so it has no image_guidance_scale")
    if scale is not None and not guided:
        raise InputError("image_guidance_scale wants a guidance_scale above 1; without it nothing is guided")
    return {"image_guidance_scale": scale or IMAGE_GUIDANCE_SCALE} if takes == "image" and guided else {}


def begun_from(parts: Parts, settings: Mapping[str, Any], takes: str) -> dict[str, Any]:
    """The picture, its mask and the strength, as they are taken."""
    image, mask, strength = (settings[name] for name in ("image", "mask", "strength"))
    if mask is not None:
        if isinstance(parts.vae, AsymmetricAutoencoderKL) and parts.vae.tile is not None:
            raise InputError(
                f"{parts.path}: its decoder is shown the known part of the picture, which is not computed in tiles; "
                "leave out --vae-tiling, and add --force where too little memory was the reason"
            )
        whole = strength is None or strength == 1
        # A model that is told of the mask begins with noise alone; any other has the known part blended in.
        begins = None if takes == "mask" and whole else 1.0 if whole else strength
        return {"image": as_rgb(image)[0], "mask": as_mask(mask, image), "strength": begins}
    if takes == "image" and (strength is not None or not isinstance(image, Image.Image)):
        raise InputError(
            f"{parts.path}: takes a picture beside the latent and begins with noise; no latent, no strength"
        )
    if image is not None and strength is None and takes != "image":
        raise InputError(
            f"{parts.path}: edits by no instruction; take a model that does, such as instruct-pix2pix, or give a "
            "strength, to change the picture towards a prompt (img2img)"
        )
    return {}


def sized(parts: Parts, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The size of the pictures, where it is that of the picture under a mask, or of a map."""
    factor, image, segments = parts.vae.factor, settings["image"], settings["segments"]
    size: tuple[int | None, ...] = (settings["height"], settings["width"])
    if settings["mask"] is not None:
        width, height = as_rgb(image)[0].size
        size = (-(-height // factor) * factor, -(-width // factor) * factor)
    elif isinstance(image, Image.Image):
        size = (image.height, image.width)
    if segments is not None:
        size = checked_segments(parts, segments, size)
    if settings["depth"] is not None:
        levels = depth_levels(settings["depth"])
        if size == (None, None) and image is None:
            size = tuple(max(1, round(side / factor)) * factor for side in levels.shape)
    return {"height": size[0], "width": size[1]} if image is None or isinstance(image, Image.Image) else {}


def checked_segments(parts: Parts, segments: Any, size: tuple[int | None, ...]) -> tuple[int, ...]:
    """The size of a map of segments. Raises `InputError` for classes that the model has not, and for another `size`."""
    classes, count = segment_classes(segments), parts.networks["spatial_rescaler"].config.in_channels
    if not 0 <= classes.min() <= classes.max() < count:
        raise InputError(f"segments: classes are 0 to {count - 1}, not {classes.min()} to {classes.max()}")
    if any(side not in (None, own) for side, own in zip(size, classes.shape, strict=True)):
        wanted = "×".join(str(side or "any") for side in reversed(size))
        raise InputError(f"segments: the map is of {classes.shape[1]}×{classes.shape[0]}, the picture of {wanted}")
    return classes.shape
