"""What an edit adds to the walk: channels beside the latent, another guidance, the known part put back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tinyldm.diffusion.samplers.base import Callback, Sampler, Step
from tinyldm.diffusion.types import NoiseSource, Predict
from tinyldm.pipelines import pix2pix
from tinyldm.pipelines.conditioners import Conditioning
from tinyldm.pipelines.editing import beside
from tinyldm.pipelines.inpainting import known_part, mask_channels
from tinyldm.pipelines.maps import depth_levels, resized_bicubic, segment_classes
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.request import Request
from tinyldm.typing import Array

Channels = Callable[[NoiseSource, int], Array]  # what stands beside the latents of so many pictures: (N, C, h, w)


@dataclass(frozen=True)
class Edit:
    """An edit, for all groups of a request; `channels` stand beside the latent, where the model has some.

    `blends` says that what is known is put back after each step.
    """

    parts: Parts
    request: Request
    channels: Channels | None
    blends: bool

    def conditioned(self, condition: Conditioning, rng: NoiseSource, z: Array) -> Conditioning:
        """The condition of the latents `z` with the channels beside them."""
        if self.blends:  # the original encodes the masked picture for every model, so that these numbers are gone
            rng.randn((1 if self.request.one_stream else len(z), *z.shape[1:]))
        if self.channels is None:
            return condition
        concat = self.channels(rng, len(z))
        if self.request.image_guidance_scale is not None:
            return pix2pix.threefold(condition, concat)
        return replace(condition, concat=np.concatenate([concat, concat]) if condition.guided else concat)

    def guided(self, predict: Predict) -> Predict:
        """`predict` with the guidance of the edit."""
        return predict if self.request.image_guidance_scale is None else pix2pix.guided(predict, self.request)

    def watched(self, callback: Callback, sampler: Sampler, z0: Array | None, noise: Array) -> Callback:
        """`callback` after each step, which sees the latent with the known part put back."""
        if not self.blends or z0 is None:
            return callback
        known = known_part(self.parts, self.request, z0, noise)

        def after_step(step: Step) -> Array:
            z = known.blended(step.latent, sampler, step.index)
            changed = callback(replace(step, latent=z))
            return z if changed is None else changed

        return after_step


def edit_of(parts: Parts, request: Request) -> Edit | None:
    """The edit that a resolved request asks for; None where it is a picture from a prompt or from another picture."""
    takes = "" if request.conditions is not None else beside(parts)
    if not takes and request.mask is None:
        return None
    channels = CHANNELS[takes](parts, request) if takes else None
    return Edit(parts, request, channels, blends=request.mask is not None and takes != "mask")


def depth_channels(parts: Parts, request: Request) -> Channels:
    """The map of depth at the latent's size from -1, the farthest, to 1, the nearest, beside each latent."""
    size = parts.latent_size(request.height, request.width)
    small = resized_bicubic(depth_levels(request.depth), *size)
    low, high = small.min(), small.max()
    scaled = (2 * (small - low) / (high - low) - 1).astype(parts.runtime.dtype)
    return lambda rng, count: np.repeat(scaled[None, None], count, axis=0)


def segment_channels(parts: Parts, request: Request) -> Channels:
    """The map of segments, one channel for each class, brought to the latent's size by the model's rescaler.

    Source: Rombach et al. 2022, arXiv:2112.10752, section 4.3.2 (semantic synthesis).
    """
    rescaler = parts.networks["spatial_rescaler"]
    classes = segment_classes(request.segments)
    one_hot = (classes == np.arange(rescaler.config.in_channels)[:, None, None]).astype(parts.runtime.dtype)
    concat = rescaler(one_hot[None])
    return lambda rng, count: np.repeat(concat, count, axis=0)


CHANNELS: dict[str, Callable[[Parts, Request], Channels]] = {
    "mask": mask_channels,
    "image": pix2pix.picture_channels,
    "depth": depth_channels,
    "segments": segment_channels,
}
