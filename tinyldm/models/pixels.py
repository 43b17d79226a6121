r"""No autoencoder: a first stage for diffusion on the pixels themselves.

A diffusion ends in noise of mean 0 and variance 1, so each channel is standardised, $z = (x - \mu_c) / \sigma_c$, and
that is all. The latent is as large as the picture, nothing is lost, and nothing is saved. Source: Ho et al. 2020,
arXiv:2006.11239, which works on pixels scaled to [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tinyldm.models.blocks import Parameters
from tinyldm.models.first_stage import FirstStage
from tinyldm.models.network import Supported
from tinyldm.typing import Array


@dataclass(frozen=True)
class PixelConfig:
    """The fields of its `config.json`."""

    sample_size: int = 64
    scaling_factor: float = 1.0

    in_channels: ClassVar[int] = 3
    latent_channels: ClassVar[int] = 3
    factor: ClassVar[int] = 1
    decoder_widths: ClassVar[tuple[int, ...]] = (3,)
    supported: ClassVar[Supported] = {}


def parameters(config: PixelConfig) -> Parameters:
    """Mean and standard deviation of each channel."""
    yield from {"mean": (3,), "std": (3,)}.items()


class PixelScaling(FirstStage[PixelConfig]):
    """Pixels as the diffusion takes them: `encode(pixels) -> z, logvar` and `decode(z) -> pixels`, of one size."""

    config_class = PixelConfig
    parameters_of = staticmethod(parameters)

    def posterior(self, x: Array) -> tuple[Array, Array | None]:  # (N,H,W,3) -> (N,H,W,3), None
        """The standardised pixels; there is no randomness in them."""
        z: Array = (x - self.weights.mean) / self.weights.std
        return z, None

    def picture(self, z: Array) -> Array:  # (N,H,W,3) -> (N,H,W,3)
        """The pixels again."""
        x: Array = z * self.weights.std + self.weights.mean
        return x
