"""The first stage: between pictures and the latents that the diffusion works on.

Every one of them is called in the same way, whatever it is made of: `encode`, `decode`, `scale`, `unscale`; its
`config` has `latent_channels`, `factor`, `sample_size` and `scaling_factor`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import numpy as np

from tinyldm.errors import InputError
from tinyldm.models.network import Network
from tinyldm.runtime import Runtime
from tinyldm.tracing import begin, channels_first, channels_last, note
from tinyldm.tree import TensorSource
from tinyldm.typing import Array


class FirstStageConfig(Protocol):
    """What the config of every first stage says."""

    @property
    def in_channels(self) -> int:
        """The channels of a picture that goes in."""

    @property
    def latent_channels(self) -> int:
        """The channels that the decoder begins with."""

    @property
    def factor(self) -> int:
        """How many pixels a latent is wide."""

    @property
    def sample_size(self) -> int:
        """The side of the pictures that it was trained on, in pixels."""

    @property
    def scaling_factor(self) -> float:
        """What latents are multiplied by, so that those that the diffusion works on have about unit variance."""

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """The channels of the decoder's levels, those of the largest pictures first."""


C = TypeVar("C", bound=FirstStageConfig)


class FirstStage(Network[C]):
    """A first stage: `encode(pixels) -> mean, logvar` and `decode(z) -> pixels`."""

    component = "VAE"
    name = "vae"
    tile: int | None = (
        None  # rows of pixels that it computes at a time (`tiled`), None where it computes whole pictures
    )
    walk_down: Callable[..., Array] | None = None  # in place of the encoder's, where it is computed in tiles
    walk_up: Callable[..., Array] | None = None
    around: Callable[[str, tuple[int, ...]], AbstractContextManager[None]] | None = None  # each call, which it watches

    def __init__(self, config: Mapping[str, Any] | C, source: TensorSource, runtime: Runtime | None = None) -> None:
        super().__init__(config, source, runtime)
        self.factor = self.config.factor  # how many pixels a latent is wide
        self.latent_channels = self.config.latent_channels
        # What is taken from latents before they are scaled, and what they are divided by: of some models a number for
        # each channel, (C, 1, 1).
        self.shift: Array | float = getattr(self.config, "shift_factor", None) or 0.0
        self.std: Array | float = 1.0
        if getattr(self.config, "latents_mean", None) is not None:
            self.shift, self.std = (
                np.array(getattr(self.config, name))[:, None, None] for name in ("latents_mean", "latents_std")
            )

    def encode(self, pixels: Array) -> tuple[Array, Array]:
        """Pictures to Gaussians over latents: `(N, 3, H, W)` in [-1, 1] `-> mean, logvar`, each `(N, C, h, w)`.

        `h = H / factor`. Where there is no randomness in the latents, `logvar` is -∞, so that a draw is the mean
        itself. The latents that the diffusion works on are `(z - shift_factor) · scaling_factor` (see `scale`).

        Raises `InputError` for another shape, or a size that is not a multiple of the factor.
        """
        pixels = self.checked_pixels(pixels)
        begin(f"{self.name}.encode", pixels=pixels)
        with nullcontext() if self.around is None else self.around("encode", pixels.shape):
            mean, logvar = self.posterior(channels_last(pixels))
        mean = channels_first(mean)
        note(mean=mean)
        if logvar is None:
            return mean, np.full_like(mean, -np.inf)
        logvar = channels_first(logvar)
        note(logvar=logvar)
        return mean, logvar

    def decode(self, z: Array, *args: Any, **kwargs: Any) -> Array:
        """Latents to pictures: `(N, C, h, w) -> (N, 3, H, W)`, about [-1, 1], not clipped; scaling is already undone.

        What `picture` of a first stage takes besides may be given too. Raises `InputError` for another shape.
        """
        z = self.checked(z, self.latent_channels, "z")
        begin(f"{self.name}.decode", z=z)
        with nullcontext() if self.around is None else self.around("decode", z.shape):
            pixels = channels_first(self.picture(channels_last(z), *args, **kwargs))
        note(pixels=pixels)
        return pixels

    @abstractmethod
    def posterior(self, x: Array) -> tuple[Array, Array | None]:  # (N,H,W,3) -> (N,h,w,C), (N,h,w,C)
        """Mean and log-variance of the latents, channels-last; no log-variance where the mean is all there is."""

    @abstractmethod
    def picture(self, z: Array, *args: Any, **kwargs: Any) -> Array:  # (N,h,w,C) -> (N,H,W,3)
        """The decoder, channels-last."""

    def scale(self, z: Array) -> Array:
        """The decoder's latents for the diffusion: `(z - shift) · scaling_factor / std`, `(N, C, h, w)`."""
        scaled: Array = (z - self.shift) * self.config.scaling_factor / self.std
        return scaled.astype(z.dtype, copy=False)

    def unscale(self, z: Array) -> Array:
        """From the latents of the diffusion to the decoder's: `z · std / scaling_factor + shift`, `(N, C, h, w)`."""
        unscaled: Array = z * self.std / self.config.scaling_factor + self.shift
        return unscaled.astype(z.dtype, copy=False)

    def checked_pixels(self, pixels: Array) -> Array:
        """Pictures for the encoder, `checked`. Raises `InputError` too for a size that is no multiple of the factor."""
        pixels = self.checked(pixels, self.config.in_channels, "pixels")
        factor, (height, width) = self.factor, pixels.shape[2:]
        if height % factor or width % factor:
            raise InputError(
                f"{self.component}: height and width must be multiples of {factor}, not {height} and {width}"
            )
        return pixels

    def checked(self, x: Array, channels: int, name: str) -> Array:
        """`x` in the dtype of the runtime. Raises `InputError` if it is not `(N, channels, H, W)`, or empty."""
        x = np.asarray(x, self.runtime.dtype)
        if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape:
            shape = f"(N, {channels}, height, width)"
            raise InputError(f"{self.component}: {name} must have the shape {shape}, not {x.shape}")
        return x
