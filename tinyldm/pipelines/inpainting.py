r"""Inpainting: a part of a picture painted anew, the rest kept.

A model that was trained for it is told of the mask and of what is known, in channels beside the latent (Rombach et al.
2022, arXiv:2112.10752, section 4.5). With any other model the known part is put back after each step, as noisy as the
step leaves the latent: $z_i \leftarrow m\, z_i + (1 - m)\,(\alpha_i z_0 + s_i \epsilon)$, with the noise that the walk
began with (Lugmayr et al. 2022, arXiv:2201.09865, eq. 8, without their resampling; Avrahami et al. 2022,
arXiv:2206.02779, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tinyldm.diffusion.samplers import Sampler
from tinyldm.diffusion.types import NoiseSource
from tinyldm.models.asymmetric import AsymmetricAutoencoderKL
from tinyldm.pipelines.masks import composite, latent_mask, padded, softened
from tinyldm.pipelines.parts import Parts, to_images
from tinyldm.pipelines.pictures import to_pixels
from tinyldm.pipelines.request import Request
from tinyldm.typing import Array


@dataclass(frozen=True)
class Known:
    """What is known of a group's latents: clean ones, the noise that they began with, and the mask, 1 where new."""

    clean: Array  # (N, C, h, w)
    noise: Array  # (N, C, h, w)
    new: Array  # (1, 1, h, w)

    def blended(self, z: Array, sampler: Sampler, i: int) -> Array:
        """The latent after step `i` with the known part in its place, as noisy as the next step takes it."""
        last = i + 1 == len(sampler)
        known = self.clean if last else sampler.add_noise(self.clean, self.noise, i + 1)
        blended: Array = self.new * z + (1 - self.new) * known
        return blended


def known_part(parts: Parts, request: Request, clean: Array, noise: Array) -> Known:
    """What is known of latents whose clean ones are those of the picture."""
    assert isinstance(request.mask, Image.Image)
    return Known(clean, noise, latent_mask(request.mask, parts.vae.factor).astype(clean.dtype))


def known_pixels(parts: Parts, request: Request) -> tuple[Array, Array]:
    """The picture `(1, 3, H, W)` in [-1, 1], and 1 where it is new, `(1, 1, H, W)`, in sizes that have a latent."""
    image, mask, factor = request.image, request.mask, parts.vae.factor
    assert isinstance(image, Image.Image)
    assert isinstance(mask, Image.Image)
    new = np.asarray(padded(mask, factor, edge=False), np.float32)[None, None] / 255
    return to_pixels(padded(image, factor, edge=True)), new


def mask_channels(parts: Parts, request: Request) -> Callable[[NoiseSource, int], Array]:
    """Mask and latent of the masked picture, as the model's kind was trained; the mask at every latent's first pixel.

    Those with a text have the mask first, 0 or 1, and a picture that is grey where it is new, its latent a draw from
    the posterior; the first ones have it last, -1 or 1, and a picture that is black there.
    """
    pixels, new = known_pixels(parts, request)
    factor = parts.vae.factor
    mask = new[:, :, ::factor, ::factor].astype(parts.runtime.dtype)
    if not hasattr(parts.predictor.config, "context_dim"):
        both = np.concatenate([parts.encode(np.where(new > 0, -1, pixels)), 2 * mask - 1], axis=1)
        return lambda rng, count: np.repeat(both, count, axis=0)
    mean, logvar = parts.posterior(np.where(new > 0, 0, pixels))

    def channels(rng: NoiseSource, count: int) -> Array:
        draws = 1 if request.one_stream else count
        masked = parts.drawn(mean, logvar, rng.randn((draws, *mean.shape[1:])))
        rows = np.repeat(mask, count, axis=0), np.repeat(masked, count // draws, axis=0)
        return np.concatenate(rows, axis=1)

    return channels


def painted(parts: Parts, request: Request, latent: Array) -> Image.Image:
    """The picture of a final latent `(1, C, h, w)` where the mask is white, the picture that is known where it is not.

    A first stage whose decoder takes the known part (asymmetric, arXiv:2306.04632) is given it.
    """
    image, mask = request.image, request.mask
    assert isinstance(image, Image.Image)
    assert isinstance(mask, Image.Image)
    known: dict[str, Any] = {}
    if isinstance(parts.vae, AsymmetricAutoencoderKL):
        known = dict(zip(("image", "mask"), known_pixels(parts, request), strict=True))
    z = parts.vae.unscale(np.asarray(latent, parts.runtime.dtype))
    (new,) = to_images(parts.vae.decode(z, **known))
    return composite(new, image, softened(mask, request.mask_blur))
