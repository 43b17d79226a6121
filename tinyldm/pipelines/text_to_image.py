"""Text to image: tokens, context, noise, the steps of the sampler, and (in `LatentDiffusion`) the decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinyldm.diffusion import loop
from tinyldm.diffusion.guidance import classifier_free_guidance
from tinyldm.diffusion.random import TorchGenerator, check_seed
from tinyldm.diffusion.samplers import Sampler, make_sampler
from tinyldm.errors import InputError
from tinyldm.pipelines.conditioning import Conditioning, encode_prompts
from tinyldm.tracing import milestone

if TYPE_CHECKING:
    from tinyldm.pipelines.model import LatentDiffusion, Progress


def sample_latents(
    model: LatentDiffusion,
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str],
    *,
    steps: int,
    guidance_scale: float,
    seed: int,
    sampler: str,
    height: int | None,
    width: int | None,
    num_images: int,
    progress: Progress,
    noise: np.ndarray | None = None,
) -> np.ndarray:
    """The latents of new pictures, `(N, C, h, w)`; arguments as in `LatentDiffusion.text_to_image`.

    `noise` of that shape stands in for the first draw of the seed's stream.
    """
    h, w = latent_size(model, height, width)
    prompts, negatives = check_prompts(prompt, negative_prompt, num_images)
    factor = model.vae.config.factor

    def condition() -> Conditioning:
        return encode_prompts(model, prompts, negatives, guidance_scale, (h * factor, w * factor))

    return walk(model, condition, len(prompts), (h, w), steps, guidance_scale, seed, sampler, progress, noise)


def walk(
    model: LatentDiffusion,
    condition: Callable[[], Conditioning],
    count: int,
    size: tuple[int, int],
    steps: int,
    guidance_scale: float,
    seed: int,
    sampler: str,
    progress: Progress,
    noise: np.ndarray | None = None,
    concatenated: bool = False,
) -> np.ndarray:
    """From noise to `count` latents of `size`, `(N, C, h, w)`; the condition is made once all arguments are checked.

    `concatenated` says that it holds what stands behind the latent along the channels.
    """
    solver = make_sampler(sampler, model.scheduler_config, steps)
    rng = TorchGenerator(check_seed(seed))
    channels, wanted = model.vae.config.latent_channels, model.unet.config.in_channels
    if not concatenated and channels != wanted:
        raise InputError(
            f"{model.path}: its UNet takes {wanted} channels, {channels} of them the latent; the others are "
            "a mask's, a depth's, another picture's: give them to `from_conditions`"
        )
    conditioning = condition()

    if noise is None:
        noise = rng.randn((count, channels, *size))
    noise = noise.astype(model.runtime.dtype, copy=False)
    z = milestone("noise", noise) * z_type(noise, solver.init_noise_sigma)
    return denoise(model, solver, z, conditioning, guidance_scale, rng, 0, progress)


def denoise(
    model: LatentDiffusion,
    solver: Sampler,
    z: np.ndarray,
    conditioning: Conditioning,
    guidance_scale: float,
    rng: TorchGenerator,
    start: int,
    progress: Progress,
) -> np.ndarray:  # (N,C,h,w), (2N or N,L,D) -> (N,C,h,w)
    """Walk the sampler's steps from `start`: predict with and without the prompt in one batch, guide, step."""
    guided = conditioning.guided
    model.finish("text_encoder", "text_encoder_2", "class_embedder")
    given = () if conditioning.context is None else (model.unet.prepare(conditioning.context),)
    calls = iter(progress(range(start, start + solver.calls(start))))

    def predict(z: np.ndarray, t: np.number) -> np.ndarray:
        next(calls)
        z_in = np.concatenate([z, z]) if guided else z
        if conditioning.concat is not None:
            z_in = np.concatenate([z_in, conditioning.concat], axis=1)
        prediction = model.unet(z_in, t, *given, **conditioning.arrays)
        if not guided:
            return prediction
        unconditional, conditional = np.split(prediction, 2)
        return classifier_free_guidance(unconditional, conditional, guidance_scale)

    passed_by = solver.calls() - solver.calls(start)  # calls of a whole run before this one

    def record(step: loop.Step) -> np.ndarray:
        return milestone(f"{passed_by + step.calls - 1:04d}/latents", step.latent)

    z = loop.denoise(predict, solver, z, rng, start=start, callback=record)
    next(calls, None)  # the bar is told that the last call is done
    model.finish("unet", "controlnet")
    return z


def check_prompts(
    prompt: str | Sequence[str], negative_prompt: str | Sequence[str], num_images: int
) -> tuple[list[str], list[str]]:
    """One prompt and one negative prompt for each picture; `num_images` pictures in a row share a prompt."""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or not all(isinstance(p, str) for p in prompts):
        raise InputError("prompt: wanted a text or a list of texts, at least one")
    if isinstance(num_images, bool) or not isinstance(num_images, int) or num_images < 1:
        raise InputError(f"num_images must be an integer of 1 or more, not {num_images!r}")
    negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)
    if len(negatives) != len(prompts):
        raise InputError(f"negative_prompt: {len(negatives)} texts for {len(prompts)} prompts; wanted one, or as many")
    return [p for p in prompts for _ in range(num_images)], [n for n in negatives for _ in range(num_images)]


def latent_size(model: LatentDiffusion, height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width of the latent for a picture of `height` × `width` pixels, by default the model's own size."""
    factor = model.vae.config.factor
    size = model.unet.config.sample_size or model.vae.config.sample_size // factor
    own = (size, size) if isinstance(size, int) else tuple(size)
    sides = []
    for name, value, default in (("height", height, own[0]), ("width", width, own[1])):
        value = default * factor if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < factor or value % factor:
            raise InputError(f"{name} must be a multiple of {factor} pixels, not {value!r}")
        sides.append(value // factor)
    return sides[0], sides[1]


def z_type(z: np.ndarray, value: float) -> np.floating:
    """`value` as a number of the dtype of `z`, so that a product keeps it."""
    return z.dtype.type(value)
