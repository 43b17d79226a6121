"""A loaded checkpoint: its components, and what one does with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tinyldm.diffusion.random import TorchGenerator
from tinyldm.diffusion.samplers import usual_sampler
from tinyldm.errors import InputError
from tinyldm.models.conditioners import ClassEmbedder, SpatialRescaler
from tinyldm.models.controlnet import ControlNet
from tinyldm.models.text_encoder import TextEncoder
from tinyldm.models.unet import UNet
from tinyldm.models.vae import AutoencoderKL
from tinyldm.pipelines import image_to_image, text_to_image
from tinyldm.pipelines.adapters import AppliedLora
from tinyldm.pipelines.conditioning import Conditioning, check_conditions, encode_classes
from tinyldm.pipelines.control import ControlledUNet, check_fits, to_hint
from tinyldm.pipelines.pictures import to_images, to_pixels
from tinyldm.runtime import Runtime
from tinyldm.text.clip_tokenizer import Tokenizer

Progress = Callable[[range], Iterable[int]]  # wraps the loop over steps: `tqdm.tqdm`, or nothing


class Defaults(NamedTuple):
    """Steps, guidance scale and sampler of a run that names none."""

    steps: int
    guidance_scale: float
    sampler: str

    def filled(self, steps: int | None, guidance_scale: float | None, sampler: str | None) -> Defaults:
        """These defaults, with what is given in their place. Raises `InputError` for a scale that is no number."""
        given = (steps, guidance_scale, sampler)
        if guidance_scale is not None and not math.isfinite(guidance_scale):
            raise InputError(f"guidance_scale must be a finite number, not {guidance_scale}")
        return Defaults(*(own if other is None else other for own, other in zip(self, given, strict=True)))


def defaults_of(scheduler_config: Mapping[str, Any]) -> Defaults:
    """25 guided steps of DDIM, or for a model distilled to few steps what its schedule was published for.

    Source: Sauer et al. 2023, arXiv:2311.17042 (the turbo models: one step without guidance); Luo et al. 2023,
    arXiv:2310.04378 (latent consistency models: four).
    """
    sampler = usual_sampler(scheduler_config)
    few = {"lcm": (4, 7.5), "euler": (1, 0.0), "euler_a": (1, 0.0)}
    return Defaults(*few.get(sampler, (25, 7.5)), sampler)


@dataclass
class LatentDiffusion:
    """Text encoder, UNet and autoencoder of a checkpoint, with its tokenizer and noise schedule.

    Arrays are `(N, C, H, W)`; `scheduler_config` is the published one; `options` are those of the published pipeline;
    `notes` say what was passed over or assumed when the checkpoint was read. The XL models have a second text encoder,
    their refiner only that one; the class-conditional models have a `class_embedder`, semantic synthesis has a
    `spatial_rescaler`, the unconditional models nothing. `embeds_text` says that the context is a text's embedding.
    In a `single_run` each network's weights are dropped once its part is done; another run would read them anew.
    """

    path: Path
    tokenizer: Tokenizer
    text_encoder: TextEncoder | None
    unet: UNet
    vae: AutoencoderKL
    scheduler_config: dict[str, Any]
    runtime: Runtime
    tokenizer_2: Tokenizer | None = None
    text_encoder_2: TextEncoder | None = None
    class_embedder: ClassEmbedder | None = None
    spatial_rescaler: SpatialRescaler | None = None
    embeds_text: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    controlnet: ControlNet | None = None
    loras: list[AppliedLora] = field(default_factory=list)
    single_run: bool = False

    def __post_init__(self) -> None:
        if self.text_encoder_2 is not None:
            self.text_encoder_2.name = "text_encoder_2"

    @property
    def networks(self) -> dict[str, Any]:
        """The networks by the names of their folders."""
        named = (
            *("text_encoder", "text_encoder_2", "class_embedder", "spatial_rescaler"),
            *("controlnet", "unet", "vae"),
        )
        return {name: getattr(self, name) for name in named if getattr(self, name) is not None}

    def finish(self, *names: str) -> None:
        """Say that the networks of these names have done their part: a single run drops their weights."""
        for name, network in self.networks.items():
            if self.single_run and name in names:
                network.weights.drop()

    @property
    def defaults(self) -> Defaults:
        """What a run takes where nothing is said: few steps and no guidance for the models distilled to that."""
        return defaults_of(self.scheduler_config)

    def text_to_image(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        sampler: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images: int = 1,
        progress: Progress = iter,
    ) -> list[Image.Image]:
        """Pictures for a prompt, or for each of several: 8-bit RGB, `num_images` for the first prompt, then the next.

        `height` and `width` in pixels, by default those that the model was trained for; `guidance_scale` above 1 draws
        away from `negative_prompt`; the noise is that of `torch.randn` for `seed`. See `pipelines.text_to_image`.
        `steps`, `guidance_scale` and `sampler` are the model's `defaults` where they are not given.

        Raises `InputError` before any work for an argument that can't be honoured.
        """
        steps, guidance_scale, sampler = self.defaults.filled(steps, guidance_scale, sampler)
        z = text_to_image.sample_latents(
            self,
            prompt,
            negative_prompt,
            steps=steps,
            guidance_scale=guidance_scale,
            seed=seed,
            sampler=sampler,
            height=height,
            width=width,
            num_images=num_images,
            progress=progress,
        )
        return self.decode(z)

    def image_to_image(
        self,
        prompt: str | Sequence[str],
        image: Image.Image | np.ndarray,
        negative_prompt: str | Sequence[str] = "",
        strength: float = 0.8,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        sampler: str | None = None,
        num_images: int = 1,
        progress: Progress = iter,
    ) -> list[Image.Image]:
        """Pictures for a prompt that begin from a picture, or from its latent `(1, C, h, w)`, instead of pure noise.

        `strength` in (0, 1]: the part of the steps that is taken, from little change to none of the picture kept.

        Raises `InputError` before any work for an argument that can't be honoured.
        """
        steps, guidance_scale, sampler = self.defaults.filled(steps, guidance_scale, sampler)
        z = image_to_image.sample_latents(
            self,
            prompt,
            image,
            negative_prompt,
            strength=strength,
            steps=steps,
            guidance_scale=guidance_scale,
            seed=seed,
            sampler=sampler,
            num_images=num_images,
            progress=progress,
        )
        return self.decode(z)

    def class_to_image(
        self,
        labels: Sequence[int],
        steps: int = 50,
        guidance_scale: float = 3.0,
        seed: int = 0,
        sampler: str = "ddim",
        height: int | None = None,
        width: int | None = None,
        progress: Progress = iter,
    ) -> list[Image.Image]:
        """A picture of each class label, by the models that are conditioned on classes instead of text.

        Raises `InputError` before any work for an argument that can't be honoured.
        """
        size = text_to_image.latent_size(self, height, width)

        def condition() -> Conditioning:
            return encode_classes(self, labels, guidance_scale)

        z = text_to_image.walk(self, condition, len(labels), size, steps, guidance_scale, seed, sampler, progress)
        return self.decode(z)

    def unconditional(
        self,
        count: int = 1,
        steps: int = 50,
        seed: int = 0,
        sampler: str = "ddim",
        height: int | None = None,
        width: int | None = None,
        progress: Progress = iter,
    ) -> list[Image.Image]:
        """Pictures by the models that are conditioned on nothing. Raises `InputError` as `text_to_image` does."""
        if self.text_encoder or self.text_encoder_2 or self.class_embedder or hasattr(self.unet.config, "context_dim"):
            raise InputError(f"{self.path}: this model wants a condition: a prompt, a class or a context")
        if count < 1:
            raise InputError(f"count must be 1 or more, not {count}")
        size = text_to_image.latent_size(self, height, width)
        z = text_to_image.walk(self, Conditioning, count, size, steps, 1.0, seed, sampler, progress)
        return self.decode(z)

    def from_conditions(
        self,
        context: np.ndarray | None = None,
        *,
        concat: np.ndarray | None = None,
        negative_context: np.ndarray | None = None,
        steps: int | None = None,
        guidance_scale: float = 1.0,
        seed: int = 0,
        sampler: str | None = None,
        size: tuple[int, int] | None = None,
        progress: Progress = iter,
        **conditions: np.ndarray,
    ) -> list[Image.Image]:
        """Pictures from the arrays that condition a model, of any kind: what the other calls make for themselves.

        `context` `(N, L, D)` is what a text encoder says, or whatever else the model attends to. `concat`
        `(N, C, h, w)` is what stands behind the latent along the channels: mask and masked latent, depth, a smaller
        picture, a map of segments that `spatial_rescaler` has brought to size. `conditions` are the UNet's others:
        `class_labels` (of the ×4 upscaler its noise level), `guidance`, `text_embeds`, `time_ids`. Arrays with one row
        serve all pictures. With `negative_context` and a `guidance_scale` above 1 the pictures are drawn away from it.
        `size` is that of the latent, by default that of `concat`, or else the model's own.

        Raises `InputError` before any work where an array is missing or does not fit.
        """
        steps, _, sampler = self.defaults.filled(steps, guidance_scale, sampler)
        given, count = check_conditions(self, context, negative_context, concat, guidance_scale, conditions)
        made, whole = (lambda: given), concat is not None
        if size is None:
            size = text_to_image.latent_size(self, None, None) if given.concat is None else given.concat.shape[2:]
        z = text_to_image.walk(
            self, made, count, size, steps, guidance_scale, seed, sampler, progress, concatenated=whole
        )
        return self.decode(z)

    def controlled(
        self, image: Image.Image | np.ndarray, scale: float = 1.0, controlnet: ControlNet | None = None
    ) -> LatentDiffusion:
        """This model, guided by a picture through its ControlNet; its other calls are then as always.

        ```python
        model = tinyldm.load("stable-diffusion-v1-5", controlnet="sd-controlnet-canny")
        model.controlled(edges).text_to_image("a bird", seed=0)[0].save("bird.png")
        ```

        `image` is what the ControlNet reads (white edges on black, a depth map, …): a picture, or `(1, 3, H, W)` in
        [0, 1]; pictures are made in its size unless the call says another, which must then be the same. `scale` is how
        strongly it guides, from 0, not at all. `controlnet` is by default the one that the model was loaded with;
        controls add up: `model.controlled(edges, 0.5).controlled(depth, 0.5, controlnet=other)`.

        Raises `InputError` for a picture that does not fit, and where the model has no ControlNet.
        """
        controlnet = controlnet or self.controlnet
        if controlnet is None:
            raise InputError(f"{self.path}: has no ControlNet; load it with one: load(…, controlnet=PATH)")
        if not np.isfinite(scale):
            raise InputError(f"scale must be a finite number, not {scale}")
        check_fits(controlnet, self.unet, self.path)
        unet = ControlledUNet(self.unet, controlnet, to_hint(image, controlnet), float(scale))
        return replace(self, unet=unet)

    def scale_loras(self, scale: float, index: int | None = None) -> None:
        """Change how strongly LoRAs are applied, from the next call on: all of `loras`, or the one at an index.

        0 is the checkpoint itself, to the last bit. The layers that change are read and merged anew when they are next
        used, which takes about as long as it did the first time; a step of the sampler takes no longer than without a
        LoRA. Raises `InputError` for a scale that is no finite number, and for an index that there is not.
        """
        if not np.isfinite(scale):
            raise InputError(f"scale must be a finite number, not {scale}")
        if not self.loras or (index is not None and not 0 <= index < len(self.loras)):
            raise InputError(f"{self.path}: has {len(self.loras)} LoRAs, and no number {index or 0}")
        for lora in self.loras if index is None else [self.loras[index]]:
            lora.strength.value = float(scale)
            for component, modules in lora.modules.items():
                weights = self.networks[component].weights
                for module in modules:
                    weights.at(module).drop()
                    weights.at(module.rpartition(".")[0]).forget()  # what was prepared from several of its layers

    def encode(self, image: Image.Image | np.ndarray, seed: int | None = None) -> np.ndarray:
        """A picture, or pixels `(N, 3, H, W)` in [-1, 1], as the latent that the diffusion works on: `(N, C, h, w)`.

        That is the mean of the posterior times the scaling factor; with a `seed`, a draw from the posterior.
        """
        return self.draw_latent(image, None if seed is None else TorchGenerator(seed))

    def draw_latent(self, image: Image.Image | np.ndarray, rng: TorchGenerator | None) -> np.ndarray:
        """As `encode`, with the draw taken from a generator that is under way; None for the mean."""
        mean, logvar = self.vae.encode(to_pixels(image) if isinstance(image, Image.Image) else image)
        if rng is not None:
            noise = rng.randn(mean.shape).astype(mean.dtype, copy=False)
            mean = mean + np.exp(0.5 * logvar) * noise
        return self.vae.scale(mean)

    def decode(self, z: np.ndarray) -> list[Image.Image]:
        """Pictures of the latents that the diffusion works on: `(N, C, h, w) -> N` 8-bit RGB pictures."""
        z = self.vae.unscale(np.asarray(z, self.runtime.dtype))
        return [to_images(self.vae.decode(one[None]))[0] for one in z]  # one at a time: the memory of one picture
