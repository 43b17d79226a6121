"""The walk of every picture: condition, noise, the sampler's steps, the decoder.

Pictures are walked in groups, and each is handed out as it is finished. A picture is the same, to the last bit, in any
group: its noise comes from its own seed, and the kernels compute a row of a batch as they compute it alone. The
reference backend's matrix products do not, so that it walks picture by picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from tinyldm.diffusion.prediction import classifier_free_guidance, rescale_guidance
from tinyldm.diffusion.random import Generator, PictureStreams, TorchGenerator
from tinyldm.diffusion.samplers import Sampler, base
from tinyldm.diffusion.types import NoiseSource, Predict
from tinyldm.pipelines.conditioners import Conditioning
from tinyldm.pipelines.control import Guide
from tinyldm.pipelines.edits import edit_of
from tinyldm.pipelines.image_prompt import with_images
from tinyldm.pipelines.inpainting import painted
from tinyldm.pipelines.masks import padded
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.request import Request
from tinyldm.pipelines.variation import varied
from tinyldm.tracing import milestone, tracing
from tinyldm.typing import Array

Progress = Callable[[range], Iterable[int]]  # wraps the calls of the denoiser: `tqdm.tqdm`, or nothing

GROUP_POSITIONS = 4096  # of a group's latents: one of 64×64, or sixteen of 16×16; more at once is no faster
CONDITIONING = ("text_encoder", "text_encoder_2", "class_embedder", "image_encoder")


@dataclass(frozen=True)
class Step(base.Step):
    """A step of `samplers.base.denoise`, with the pictures of the request that are walked together."""

    pictures: range


Callback = Callable[[Step], Array | None]


@dataclass(frozen=True)
class Walk:
    """How a request is walked, which changes nothing in its pictures.

    `batch_size` pictures are walked together (by default as many as pay); `progress` wraps the calls of the denoiser;
    `callback` is called after each step, may return another latent, and may end the walk by raising `Stopped`. In a
    `single_run` each network's weights are dropped once its part is done.
    """

    batch_size: int | None = None
    progress: Progress = iter
    callback: Callback | None = None
    single_run: bool = False


@dataclass(frozen=True)
class Picture:
    """A finished picture: which of the request, its latent `(1, C, h, w)`, and the picture itself."""

    index: int
    latent: Array
    image: Image.Image


def pictures(parts: Parts, request: Request, how: Walk = Walk()) -> Iterator[Picture]:  # noqa: B008
    """The pictures of a request, each as it is finished.

    Raises `InputError` before any work for a request that can't be honoured.
    """
    request = request.resolved(parts)
    if request.seamless is not None:
        from tinyldm.pipelines.seamless import seamless_parts

        parts = seamless_parts(parts, request.seamless)
    for group, z in latents(parts, request, how):
        for k in group:
            latent = z[k - group.start : k - group.start + 1]
            image = parts.decode(latent)[0] if request.mask is None else painted(parts, request, latent)
            yield Picture(k, latent, image)


def latents(parts: Parts, request: Request, how: Walk = Walk()) -> Iterator[tuple[range, Array]]:  # noqa: B008
    """The final latents of a resolved request group by group: which pictures, and their `(N, C, h, w)`."""
    count, groups = len(request.prompts), grouped(parts, request, how.batch_size)
    sampler, first = request.begun(parts)
    start = None if request.strength is None else beginning(parts, request)
    conditions = [condition_of(parts, request, group) for group in groups]
    if parts.image_prompts:
        named = zip(conditions, groups, strict=True)
        conditions = [with_images(parts.image_prompts, parts.predictor, made, len(group)) for made, group in named]
    fills = parts.predictor.config.in_channels != parts.vae.latent_channels  # there is more than the latent to give
    edit = edit_of(parts, request) if fills or request.mask is not None else None
    if how.single_run:
        parts.drop(*CONDITIONING)
    seeded: Callable[[int], Generator] = TorchGenerator
    if request.rng != "torch":
        from tinyldm.diffusion.streams import generators

        seeded = generators(request.rng)
    passed_by = sampler.calls() - sampler.calls(first)  # calls of a whole run that one from the middle leaves out
    calls = iter(how.progress(range(len(groups) * sampler.calls(first))))
    for group, condition in zip(groups, conditions, strict=True):

        def after_step(step: base.Step, group: range = group) -> Array | None:
            changed = None if how.callback is None else how.callback(Step(**vars(step), pictures=group))
            milestone(f"{passed_by + step.calls - 1:04d}/latents", step.latent if changed is None else changed)
            return changed

        streams = [seeded(request.seeds[k]) for k in (group[:1] if request.one_stream else group)]
        rng: NoiseSource = streams[0] if len(streams) == 1 else PictureStreams(streams)
        if request.drawn:
            rng.randn((len(streams), *request.drawn))
        sampler, first = request.begun(parts)
        path = getattr(sampler, "path", None)  # of Brownian motion, whose noise some samplers add
        if path is not None and parts.runtime.backend == "numba":
            path.halving = parts.runtime.ops.brownian_halves
        z, z0, noise = first_latent(parts, request, group, sampler, start, rng)
        if tracing():
            milestone("noise", noise)
            if z0 is not None:
                milestone("noised", z)
        counted = calls
        watch: base.Callback | None = after_step if tracing() or how.callback is not None else None
        if parts.controls:
            guide = Guide(parts.controls, sampler.calls(first))
            condition, counted = replace(condition, guide=guide), guide.counting(calls)
        if edit is None:
            predict = predictor(parts, condition, request, counted)
        else:
            condition = edit.conditioned(condition, rng, z)
            predict = edit.guided(predictor(parts, condition, request, counted))
            watch = edit.watched(after_step, sampler, z0, noise)
        z = base.denoise(predict, sampler, z, rng, start=first, callback=watch)
        if group.stop == count:
            next(calls, None)  # a progress bar closes when it is asked once more
            if how.single_run:
                parts.drop(*(name for name in parts.networks if name != "vae"))
        yield group, z


def grouped(parts: Parts, request: Request, batch_size: int | None) -> list[range]:
    """The pictures in the groups that are walked together; all in one for a shared stream, and for a trace."""
    (h, w), count = parts.latent_size(request.height, request.width), len(request.prompts)
    pays = max(1, GROUP_POSITIONS // (h * w)) if parts.runtime.backend == "numba" else 1
    size = count if request.one_stream or tracing() else batch_size or pays
    return [range(k, min(k + size, count)) for k in range(0, count, size)]


def condition_of(parts: Parts, request: Request, group: range) -> Conditioning:
    """The condition of a group's pictures."""
    if request.conditions is not None:
        return request.conditions.of_pictures(group, len(request.prompts))
    if request.prompt_syntax != "plain" or request.clip_skip is not None:
        from tinyldm.pipelines.prompted import encode

        return encode(parts, request, group)
    prompts, negatives = [request.prompts[k] for k in group], [request.negative_prompts[k] for k in group]
    size = (request.height or 0, request.width or 0)
    return parts.conditioner.encode(prompts, negatives, request.guidance_scale or 0.0, size)


def beginning(parts: Parts, request: Request) -> tuple[Array, Array | None]:
    """Mean and log-variance of the latent of the picture to begin from; a latent that is given has no variance."""
    if isinstance(request.image, Image.Image):
        whole = request.image if request.mask is None else padded(request.image, parts.vae.factor, edge=True)
        return parts.posterior(whole)
    return np.asarray(request.image, parts.runtime.dtype), None


def first_latent(
    parts: Parts,
    request: Request,
    group: range,
    sampler: Sampler,
    start: tuple[Array, Array | None] | None,
    rng: NoiseSource,
) -> tuple[Array, Array | None, Array]:  # -> (N, C, h, w), ...
    """The latent that the sampler's steps begin with: noise, or the beginning noised part of the way; these two also.

    The random numbers are drawn in the order of the original: the posterior of the picture, then the noise. Source for
    the second: Meng et al. 2021 (SDEdit), arXiv:2108.01073, section 3. What is painted anew at full strength begins
    with noise alone.
    """
    dtype, count, z0 = parts.runtime.dtype, len(group), None
    if start is not None:
        z0, logvar = start
        if logvar is not None:
            draws = 1 if request.one_stream else count  # one generator draws once for all, as elsewhere
            z0 = parts.drawn(z0, logvar, rng.randn((draws, *z0.shape[1:])))
        z0 = np.repeat(z0, count // len(z0), axis=0)
    shape = (count, parts.vae.latent_channels, *parts.latent_size(request.height, request.width))
    noise = rng.randn(shape) if request.noise is None else request.noise[group.start : group.stop]
    if request.variation_strength or request.way is not None:
        noise = varied(noise, request, group)
    noise = noise.astype(dtype, copy=False)
    if z0 is None or (request.mask is not None and request.strength == 1):
        return noise * float(sampler.init_noise_sigma), z0, noise
    return sampler.add_noise(z0, noise, sampler.start(request.strength or 0.0)), z0, noise


def predictor(parts: Parts, condition: Conditioning, request: Request, calls: Iterator[int]) -> Predict:
    """What the sampler asks: the denoiser's output for a latent as it takes it, guided: `(N, C, h, w), t -> (N, …)`.

    With guidance, the predictions without and with the prompt are made in one batch. Before each call the next of
    `calls` is taken.
    """
    if condition.composed is not None:
        from tinyldm.pipelines.composed import composed_predictor

        return composed_predictor(predictor, parts, condition, request, calls)
    network, context, guided = parts.predictor, condition.context, condition.guided
    prepared = () if context is None else (network.prepare(context),)
    images = {} if condition.images is None else {"images": condition.images}
    guide = condition.guide

    def predict(z: Array, t: np.number[Any]) -> Array:
        next(calls, None)
        x = np.concatenate([z, z]) if guided else z
        if condition.concat is not None:
            x = np.concatenate([x, condition.concat], axis=1)
        more = {} if guide is None or context is None else guide(x, t, context, condition.arrays)
        output: Array = network(x, t, *prepared, **condition.arrays, **images, **more)
        if not guided:
            return output
        unconditional, conditional = np.split(output, 2)
        prediction = classifier_free_guidance(unconditional, conditional, request.guidance_scale or 0.0)
        amount = request.guidance_rescale
        return rescale_guidance(prediction, conditional, amount) if amount else prediction

    return predict
