"""The parts of a checkpoint as plain data, and the two ways between pictures and latents."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinyldm.diffusion.types import NoiseSource
from tinyldm.errors import InputError
from tinyldm.pipelines.adapters import AppliedLora
from tinyldm.pipelines.conditioners import Conditioner, choose_conditioner
from tinyldm.pipelines.control import Control
from tinyldm.pipelines.image_prompt import ImagePrompt
from tinyldm.pipelines.pictures import fitted, to_pixels
from tinyldm.runtime import Runtime
from tinyldm.typing import Array

# The networks by the names of their folders, in the order in which a picture passes through them.
ENCODERS = ("text_encoder", "text_encoder_2", "class_embedder", "spatial_rescaler", "image_encoder", "ip_adapter")
ORDER = (*ENCODERS, "controlnet", "unet", "vae")


@dataclass(frozen=True)
class Parts:
    """Networks, tokenizers and noise schedule of a checkpoint, and who makes its conditions.

    `networks` and `tokenizers` go by the names of their folders. `denoiser` names the network that predicts, which is
    `predictor`, mostly a UNet, None where a first stage is alone; `vae` is the first stage.
    `scheduler_config` is the published one; `options` are those of the published pipeline; `notes` say what was passed
    over or assumed when the checkpoint was read. `loras` are merged into the weights; `controls` and `image_prompts`
    guide the denoiser.
    """

    path: Path
    networks: Mapping[str, Any]
    tokenizers: Mapping[str, Any]
    scheduler_config: Mapping[str, Any]
    runtime: Runtime
    conditioner: Conditioner
    vae: Any
    predictor: Any
    denoiser: str = "unet"
    embeds_text: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    loras: tuple[AppliedLora, ...] = ()
    controls: tuple[Control, ...] = ()
    image_prompts: tuple[ImagePrompt, ...] = ()

    def replaced(self, **changes: Any) -> Parts:
        """These parts with others in their place: fields, or networks by their names (None takes one away).

        The one way to compute with other networks (in another arithmetic, say): the conditioner is chosen anew.
        """
        named = {name: changes.pop(name) for name in list(changes) if name in ORDER or name in self.networks}
        networks = {name: network for name, network in {**self.networks, **named}.items() if network is not None}
        p = replace(self, networks=networks, vae=networks["vae"], **changes)
        denoiser = networks.get(p.denoiser)
        chosen = choose_conditioner(p.path, networks, p.tokenizers, p.options, denoiser, p.embeds_text)
        return replace(p, predictor=denoiser, conditioner=chosen)

    def latent_size(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """Height and width of the latent of a picture of `height` × `width` pixels, by default the model's own size.

        A control that guides has the size of its picture. Raises `InputError` for a size that no latent has.
        """
        factor = self.vae.factor
        size = self.predictor.config.sample_size or self.vae.config.sample_size // factor
        own = (size, size) if isinstance(size, int) else tuple(size)
        if self.controls:
            own = self.controls[-1].latent_size
        sides = []
        for name, value, default in (("height", height, own[0]), ("width", width, own[1])):
            value = default * factor if value is None else value
            if isinstance(value, bool) or not isinstance(value, int) or value < factor or value % factor:
                raise InputError(f"{name} must be a multiple of {factor} pixels, not {value!r}")
            sides.append(value // factor)
        return sides[0], sides[1]

    def posterior(self, image: Image.Image | Array) -> tuple[Array, Array]:
        """Mean and log-variance of a picture's latent, `(N, C, h, w)` each; pixels are `(N, 3, H, W)` in [-1, 1].

        A picture whose sides do not fit is scaled and cropped, with a warning.
        """
        if isinstance(image, Image.Image):
            image = to_pixels(fitted(image, self.vae.config.factor))
        mean, logvar = self.vae.encode(image)
        return mean, logvar

    def encode(self, image: Image.Image | Array, rng: NoiseSource | None = None) -> Array:
        """A picture as the latent that the diffusion works on, `(N, C, h, w)`: the posterior's mean, or a draw."""
        mean, logvar = self.posterior(image)
        return self.drawn(mean, logvar, None if rng is None else rng.randn(mean.shape))

    def drawn(self, mean: Array, logvar: Array, noise: Array | None) -> Array:
        r"""$s\,(\mu + \sigma \epsilon)$, the scaled latent of a posterior and a noise; without one $s\,\mu$."""
        if noise is not None:
            mean = mean + np.exp(0.5 * logvar) * noise.astype(mean.dtype, copy=False)
        scaled: Array = self.vae.scale(mean)
        return scaled

    def decode(self, z: Array) -> list[Image.Image]:
        """Pictures of the latents that the diffusion works on: `(N, C, h, w) -> N` 8-bit RGB pictures."""
        z = self.vae.unscale(np.asarray(z, self.runtime.dtype))
        # one at a time: the memory of one picture
        return [to_images(self.vae.decode(z[k : k + 1]))[0] for k in range(len(z))]

    def drop(self, *names: str) -> None:
        """Forget the weights that were read and prepared of the networks of these names; they can be read again."""
        for name in names:
            if name in self.networks:
                self.networks[name].weights.drop()


def place(name: str) -> int:
    """Where a network stands in the way of a picture, the second of a kind by the first; others by the autoencoder."""
    kind = name if name in ORDER else name.rstrip("_0123456789")
    return ORDER.index(kind) if kind in ORDER else len(ORDER) - 1


def to_images(pixels: Array) -> list[Image.Image]:
    """Pixels `(N, 3, H, W)`, clipped to [-1, 1], as 8-bit pictures; warns of NaN, which becomes black."""
    missing = np.isnan(pixels)
    if missing.any():
        warnings.warn(
            f"{missing.mean():.1%} of the picture's values are NaN, and black: a number overflowed on the way",
            stacklevel=2,
        )
        pixels = np.where(missing, -1, pixels)
    levels = np.clip(pixels / 2 + 0.5, 0, 1)
    return [Image.fromarray(np.round(p * 255).astype(np.uint8)) for p in np.moveaxis(levels, 1, -1)]
