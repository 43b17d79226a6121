"""Image to image: noise the latent of a picture part of the way, and denoise it towards a prompt.

Source: Meng et al. 2021 (SDEdit), arXiv:2108.01073, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tinyldm.diffusion.random import TorchGenerator, check_seed
from tinyldm.diffusion.samplers import make_sampler
from tinyldm.errors import InputError
from tinyldm.pipelines.conditioning import encode_prompts
from tinyldm.pipelines.text_to_image import check_prompts, denoise
from tinyldm.tracing import milestone

if TYPE_CHECKING:
    from tinyldm.pipelines.model import LatentDiffusion, Progress


def sample_latents(
    model: LatentDiffusion,
    prompt: str | Sequence[str],
    image: Image.Image | np.ndarray,
    negative_prompt: str | Sequence[str],
    *,
    strength: float,
    steps: int,
    guidance_scale: float,
    seed: int,
    sampler: str,
    num_images: int,
    progress: Progress,
) -> np.ndarray:
    """The latents of changed pictures, `(N, C, h, w)`; arguments as in `LatentDiffusion.image_to_image`.

    The random numbers are drawn in the order of the original: the posterior of the picture, then the noise.
    """
    prompts, negatives = check_prompts(prompt, negative_prompt, num_images)
    solver = make_sampler(sampler, model.scheduler_config, steps)
    first = solver.start(strength)
    rng = TorchGenerator(check_seed(seed))
    z0 = np.repeat(first_latent(model, image, rng), len(prompts), axis=0)
    factor = model.vae.config.factor
    size = (z0.shape[2] * factor, z0.shape[3] * factor)
    conditioning = encode_prompts(model, prompts, negatives, guidance_scale, size)
    noise = rng.randn(z0.shape).astype(z0.dtype, copy=False)
    z = milestone("noised", solver.add_noise(z0, milestone("noise", noise), first))
    return denoise(model, solver, z, conditioning, guidance_scale, rng, first, progress)


def first_latent(model: LatentDiffusion, image: Image.Image | np.ndarray, rng: TorchGenerator) -> np.ndarray:
    """The latent to begin from, `(1, C, h, w)`: a draw from the picture's posterior, or the latent that was given."""
    if isinstance(image, Image.Image):
        return model.draw_latent(image, rng)
    channels = model.vae.config.latent_channels
    z = np.asarray(image, model.runtime.dtype)
    if z.ndim != 4 or z.shape[:2] != (1, channels) or 0 in z.shape:
        raise InputError(f"the latent must have the shape (1, {channels}, h, w), not {z.shape}")
    return z
