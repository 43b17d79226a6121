"""A loaded checkpoint: its components, and what one does with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinyldm.diffusion.random import TorchGenerator
from tinyldm.errors import InputError
from tinyldm.models.conditioners import ClassEmbedder
from tinyldm.models.controlnet import ControlNet
from tinyldm.models.text_encoder import TextEncoder
from tinyldm.models.tokenizer import Tokenizer
from tinyldm.models.unet import UNet
from tinyldm.models.vae import AutoencoderKL
from tinyldm.nn import Runtime
from tinyldm.pipelines import image_to_image, text_to_image
from tinyldm.pipelines.adapters import AppliedLora
from tinyldm.pipelines.conditioning import Conditioning, encode_classes
from tinyldm.pipelines.control import ControlledUNet, check_fits, to_hint
from tinyldm.pipelines.pictures import to_images, to_pixels

Progress = Callable[[range], Iterable[int]]  # wraps the loop over steps: `tqdm.tqdm`, or nothing


@dataclass
class LatentDiffusion:
    """Text encoder, UNet and autoencoder of a checkpoint, with its tokenizer and noise schedule.

    Arrays are `(N, C, H, W)`; `scheduler_config` is the published one; `options` are those of the published pipeline;
    `notes` say what was passed over or assumed when the checkpoint was read. The XL models have a second text encoder,
    their refiner only that one; the class-conditional models have a `class_embedder`, the unconditional ones nothing.
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
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    controlnet: ControlNet | None = None
    loras: list[AppliedLora] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.text_encoder_2 is not None:
            self.text_encoder_2.name = "text_encoder_2"

    @property
    def networks(self) -> dict[str, Any]:
        """The networks by the names of their folders."""
        named = ("text_encoder", "text_encoder_2", "class_embedder", "controlnet", "unet", "vae")
        return {name: getattr(self, name) for name in named if getattr(self, name) is not None}

    def text_to_image(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        steps: int = 25,
        guidance_scale: float = 7.5,
        seed: int = 0,
        sampler: str = "ddim",
        height: int | None = None,
        width: int | None = None,
        num_images: int = 1,
        progress: Progress = iter,
    ) -> list[Image.Image]:
        """Pictures for a prompt, or for each of several: 8-bit RGB, `num_images` for the first prompt, then the next.

        `height` and `width` in pixels, by default those that the model was trained for; `guidance_scale` above 1 draws
        away from `negative_prompt`; the noise is that of `torch.randn` for `seed`. See `pipelines.text_to_image`.

        Raises `InputError` before any work for an argument that can't be honoured.
        """
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
        steps: int = 25,
        guidance_scale: float = 7.5,
        seed: int = 0,
        sampler: str = "ddim",
        num_images: int = 1,
        progress: Progress = iter,
    ) -> list[Image.Image]:
        """Pictures for a prompt that begin from a picture, or from its latent `(1, C, h, w)`, instead of pure noise.

        `strength` in (0, 1]: the part of the steps that is taken, from little change to none of the picture kept.

        Raises `InputError` before any work for an argument that can't be honoured.
        """
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
        progress: Progress = iter,
    ) -> list[Image.Image]:
        """A picture of each class label, by the models that are conditioned on classes instead of text.

        Raises `InputError` before any work for an argument that can't be honoured.
        """
        size = text_to_image.latent_size(self, None, None)

        def condition() -> Conditioning:
            return encode_classes(self, labels, guidance_scale)

        z = text_to_image.walk(self, condition, len(labels), size, steps, guidance_scale, seed, sampler, progress)
        return self.decode(z)

    def unconditional(
        self, count: int = 1, steps: int = 50, seed: int = 0, sampler: str = "ddim", progress: Progress = iter
    ) -> list[Image.Image]:
        """Pictures by the models that are conditioned on nothing. Raises `InputError` as `text_to_image` does."""
        if self.text_encoder or self.text_encoder_2 or self.class_embedder:
            raise InputError(f"{self.path}: this model wants a condition: a prompt or a class")
        if count < 1:
            raise InputError(f"count must be 1 or more, not {count}")
        size = text_to_image.latent_size(self, None, None)
        z = text_to_image.walk(self, lambda: Conditioning(None), count, size, steps, 1.0, seed, sampler, progress)
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
