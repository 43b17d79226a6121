"""Flow: a normalizing flow, an invertible map between pictures and Gaussian noise of the same number of values.

What else than an autoencoder could stand in front of a diffusion? A flow loses nothing: `decode(encode(x))` is x, and
the likelihood of x is known exactly. For the same reason it compresses nothing: 64×64×3 values in, as many out.

Each level squeezes 2×2 pixels into channels, runs some steps, and hands half of the channels out as latents. A step is

    x <- (x + bias) · exp(log_gain)                                   actnorm
    x <- W x,  W = P L (U + diag(sign · exp(log_s)))                  invertible 1×1 convolution, by its LU factors
    a, b = split(x);  b <- b · exp(s(a)) + t(a)                       affine coupling, s = 2 tanh(raw / 2)

each with a triangular Jacobian, so that log p(x) = log p(latents) + Σ log |diagonal|. Sources: Dinh et al. 2017
(RealNVP), arXiv:1605.08803; Kingma & Dhariwal 2018 (Glow), arXiv:1807.03039.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinyldm.errors import InputError
from tinyldm.models.blocks import Parameters, layer_parameters
from tinyldm.models.first_stage import FirstStage
from tinyldm.nn import conv2d
from tinyldm.tracing import begin, channels_first, channels_last, note
from tinyldm.tree import Weights
from tinyldm.typing import Array

HALF_RANGE = 255 / 512  # pixels in [-1, 1] stand in the middle of 256 bins, which together are [-0.5, 0.5]


@dataclass(frozen=True)
class FlowConfig:
    """The fields of a flow's `config.json`: levels, steps of each (`depth`), width of the couplings' networks."""

    levels: int = 3
    depth: int = 8
    hidden: int = 96
    side: int = 64
    channels: int = 3

    scaling_factor: ClassVar[float] = 1.0  # there is nothing to scale: the prior gives latents their spread

    @property
    def factor(self) -> int:
        """How many pixels a place of the coarsest level is wide."""
        return 1 << self.levels

    @property
    def in_channels(self) -> int:
        """The channels of a picture."""
        return self.channels

    @property
    def sample_size(self) -> int:
        """The side of the pictures that it was trained on, in pixels."""
        return self.side

    @property
    def latent_channels(self) -> int:
        """The channels of packed latents: as many numbers as the picture has, at 1 / factor of its size."""
        return self.channels * self.factor**2

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """The channels of the levels, those of the largest pictures first."""
        return tuple(max(width, self.hidden) for width, _ in self.widths())

    def widths(self) -> list[tuple[int, int]]:
        """Of each level, the channels of its steps and of the latents that it hands out: the last hands out all."""
        widths, c = [], self.channels
        for level in range(self.levels):
            c *= 4
            widths.append((c, c if level == self.levels - 1 else c // 2))
            c //= 2
        return widths


def parameters(c: FlowConfig) -> Parameters:
    """Name and shape of every weight."""
    for level, (width, out) in enumerate(c.widths()):
        for step in range(c.depth):
            name = f"levels.{level}.{step}"
            for vector in ("bias", "log_gain", "log_s", "sign"):
                yield f"{name}.{vector}", (width,)
            for matrix in ("permutation", "lower", "upper"):
                yield f"{name}.{matrix}", (width, width)
            yield from layer_parameters(f"{name}.net.0", c.hidden, width // 2, 3, 3)
            yield from layer_parameters(f"{name}.net.2", c.hidden, c.hidden, 1, 1)
            yield from layer_parameters(f"{name}.net.4", 2 * (width - width // 2), c.hidden, 3, 3)
        yield from layer_parameters(f"priors.{level}", 2 * out, out, 3, 3)


class Flow(FirstStage[FlowConfig]):
    """The flow of a checkpoint: `forward(pixels) -> latents, log_p`, `inverse(latents) -> pixels`, `sample(noise)`.

    `encode` and `decode` are the same with the latents packed into one array, the interface of every first stage.
    """

    component, config_class = "flow", FlowConfig
    parameters_of = staticmethod(parameters)

    def forward(self, pixels: Array) -> tuple[list[Array], Array]:
        """Pictures to latents: `(N, C, H, W)` in [-1, 1] `-> [(N, c, h, w), …] finest first, log_p (N,)`.

        `log_p` is the natural logarithm of the density in the unit in which a picture's 256 values fill [-0.5, 0.5].
        Raises `InputError` for another shape, or a size that is not a multiple of the factor.
        """
        pixels = self.checked_pixels(pixels)
        begin(f"{self.name}.forward", pixels=pixels)
        latents, log_p = self.levels_of(channels_last(pixels))
        note(log_p=log_p)
        return [channels_first(z) for z in latents], log_p

    def inverse(self, latents: Sequence[Array]) -> Array:
        """Latents, finest first, to pictures: `[(N, c, h, w), …] -> (N, C, H, W)`, about [-1, 1], not clipped.

        Raises `InputError` for other shapes.
        """
        return self.traced_inverse(latents, from_noise=False)

    def sample(self, noise: Sequence[Array]) -> Array:
        """Standard normal noise in the shapes of the latents to pictures: the prior gives it mean and spread first.

        Noise of a smaller spread (0.7) gives calmer pictures. Raises `InputError` for other shapes.
        """
        return self.traced_inverse(noise, from_noise=True)

    def posterior(self, x: Array) -> tuple[Array, Array | None]:  # (N,H,W,C) -> (N,h,w,C·factor²), None
        """The packed latents; nothing is random in them."""
        return pack(self.levels_of(x)[0]), None

    def picture(self, z: Array) -> Array:  # (N,h,w,C·factor²) -> (N,H,W,C)
        """The picture that packed latents stand for."""
        return self.pixels_of(self.unpack(z), from_noise=False)

    def unpack(self, z: Array) -> list[Array]:  # (N,h,w,C·factor²) -> [(N,h,w,c), …]
        """Packed latents to those of each level, finest first: the inverse of `pack`."""
        latents, start = [], 0
        for level, (_, out) in enumerate(self.config.widths()):
            scale = 1 << (self.config.levels - 1 - level)
            latents.append(unsqueeze(z[..., start : start + out * scale**2], scale))
            start += out * scale**2
        return latents

    def shapes(self, count: int, height: int | None = None, width: int | None = None) -> list[tuple[int, ...]]:
        """The shapes of the latents of `count` pictures, finest first; by default of the size that was trained."""
        height, width = height or self.config.side, width or self.config.side
        return [(count, out, height >> k, width >> k) for k, (_, out) in enumerate(self.config.widths(), 1)]

    def bits_per_dimension(self, pixels: Array, rng: np.random.Generator | None = None) -> Array:
        """Bits that a value of the 8-bit pictures costs: `(N, C, H, W)` in [-1, 1] `-> (N,)`.

        `rng` spreads each value over its bin evenly, which makes the figure an upper bound of the discrete one (Theis
        et al. 2016, arXiv:1511.01844, section 3.1); without it every value stands in the middle.
        """
        pixels = self.checked_pixels(pixels)
        if rng is not None:
            pixels = pixels + ((rng.random(pixels.shape) - 0.5) * (2 / 255)).astype(pixels.dtype)
        log_p = self.forward(pixels)[1].astype(np.float64)
        return 8 - log_p / (math.prod(pixels.shape[1:]) * math.log(2))

    def levels_of(self, x: Array) -> tuple[list[Array], Array]:  # (N,H,W,C) -> [(N,h,w,c), …], (N,)
        """The latents of each level and log p, channels-last."""
        x = x * HALF_RANGE
        latents, log_p = [], np.zeros(len(x), x.dtype)
        for level, (_, out) in enumerate(self.config.widths()):
            x = squeeze(x)
            for step in self.weights.levels[level]:
                x, log_det = step_forward(x, step)
                log_p = log_p + log_det
            z, x = x[..., :out], x[..., out:]
            log_p = log_p + gaussian(z, *self.prior(level, z, x))
            latents.append(z)
        return latents, log_p

    def pixels_of(self, given: Sequence[Array], from_noise: bool) -> Array:  # [(N,h,w,c), …] -> (N,H,W,C)
        """The picture of latents, or of standard normal noise in their place, channels-last."""
        x = given[-1]
        for level in reversed(range(self.config.levels)):
            z, last = given[level], level == self.config.levels - 1
            if from_noise:
                mean, log_std = self.prior(level, z, x)
                z = mean + np.exp(log_std) * z
            x = z if last else np.concatenate([z, x], axis=-1)
            for step in reversed(list(self.weights.levels[level])):
                x = step_inverse(x, step)
            x = unsqueeze(x)
        return x / HALF_RANGE

    def prior(self, level: int, z: Array, rest: Array) -> tuple[Array, Array]:
        """Mean and logarithm of the spread of a level's latents, given what goes on to the next level."""
        last = level == self.config.levels - 1
        raw = conv2d(np.zeros_like(z) if last else rest, self.weights.priors[level])
        mean, log_std = np.split(raw, 2, axis=-1)
        return mean, 3 * np.tanh(log_std / 3)

    def traced_inverse(self, given: Sequence[Array], from_noise: bool) -> Array:
        """`pixels_of` with checks, channels first."""
        given = self.checked_levels(given)
        begin(f"{self.name}.inverse", **{f"z{level}": z for level, z in enumerate(given)})
        pixels = channels_first(self.pixels_of([channels_last(z) for z in given], from_noise))
        note(pixels=pixels)
        return pixels

    def checked_levels(self, latents: Sequence[Array]) -> list[Array]:
        """Latents of every level in the dtype of the runtime. Raises `InputError` where they do not fit together."""
        widths = self.config.widths()
        if len(latents) != len(widths):
            raise InputError(f"{self.component}: wanted latents of {len(widths)} levels, got {len(latents)}")
        found = [
            self.checked(z, out, f"the latents of level {level}")
            for level, (z, (_, out)) in enumerate(zip(latents, widths, strict=True))
        ]
        wanted = self.shapes(len(found[0]), 2 * found[0].shape[2], 2 * found[0].shape[3])
        shapes = [z.shape for z in found]
        if shapes != wanted:
            raise InputError(f"{self.component}: latents of the shapes {shapes} do not fit together; wanted {wanted}")
        return found


# Steps, each on (N, h, w, C) ------------------------------------------------------------------------------------------


def step_forward(x: Array, w: Weights) -> tuple[Array, Array]:
    """Actnorm, 1×1 convolution, coupling: `(N, h, w, C) ->` the same shape, and log |det Jacobian| `(N,)`."""
    x = (x + w.bias) * np.exp(w.log_gain)
    x = x @ w.prepared("matrix", matrix).T
    a, b = np.split(x, 2, axis=-1)
    log_scale, shift = coupling(a, w)
    y = np.concatenate([a, b * np.exp(log_scale) + shift], axis=-1)
    everywhere = (w.log_gain.sum() + w.log_s.sum()) * (x.shape[1] * x.shape[2])
    return y, everywhere + log_scale.sum(axis=(1, 2, 3))


def step_inverse(y: Array, w: Weights) -> Array:
    """What `step_forward` made y of."""
    a, b = np.split(y, 2, axis=-1)
    log_scale, shift = coupling(a, w)
    x = np.concatenate([a, (b - shift) * np.exp(-log_scale)], axis=-1)
    x = x @ w.prepared("inverse", inverse_matrix).T
    undone: Array = x * np.exp(-w.log_gain) - w.bias
    return undone


def coupling(a: Array, w: Weights) -> tuple[Array, Array]:
    """Logarithm of the scale, within ±2, and shift of one half of the channels, from the other half."""
    h = np.maximum(conv2d(a, w.net[0]), 0)
    h = np.maximum(conv2d(h, w.net[2]), 0)
    raw, shift = np.split(conv2d(h, w.net[4]), 2, axis=-1)
    return 2 * np.tanh(raw / 2), shift


def exact_matrix(w: Weights) -> Array:
    """W = P L (U + diag(sign · exp(log_s))) of a step, in float64."""
    permutation, lower, upper, sign, log_s = (
        w.read(name, np.dtype(np.float64)) for name in ("permutation", "lower", "upper", "sign", "log_s")
    )
    lower = np.tril(lower, -1) + np.eye(len(lower))
    upper = np.triu(upper, 1) + np.diag(sign * np.exp(log_s))
    whole: Array = permutation @ lower @ upper
    return whole


def matrix(w: Weights) -> Array:
    """W of a step in the dtype of the weights."""
    return exact_matrix(w).astype(w.runtime.dtype)


def inverse_matrix(w: Weights) -> Array:
    """The inverse of W, computed in float64."""
    inverse: Array = np.linalg.inv(exact_matrix(w))
    return inverse.astype(w.runtime.dtype)


def gaussian(x: Array, mean: Array, log_std: Array) -> Array:
    """log N(x; mean, exp(log_std)²), summed over each picture: `(N, h, w, C) -> (N,)`."""
    terms = math.log(2 * math.pi) + 2 * log_std + np.square(x - mean) * np.exp(-2 * log_std)
    log_p: Array = -0.5 * terms.sum(axis=(1, 2, 3))
    return log_p


# Shapes ---------------------------------------------------------------------------------------------------------------


def squeeze(x: Array, scale: int = 2) -> Array:
    """Blocks of pixels into channels: `(N, s·h, s·w, C) -> (N, h, w, C·s²)`, the channels of a colour side by side."""
    n, height, width, c = x.shape
    x = x.reshape(n, height // scale, scale, width // scale, scale, c).transpose(0, 1, 3, 5, 2, 4)
    return np.ascontiguousarray(x.reshape(n, height // scale, width // scale, c * scale**2))


def unsqueeze(x: Array, scale: int = 2) -> Array:
    """The inverse of `squeeze`: `(N, h, w, C·s²) -> (N, s·h, s·w, C)`."""
    n, height, width, c = x.shape
    x = x.reshape(n, height, width, c // scale**2, scale, scale).transpose(0, 1, 4, 2, 5, 3)
    return np.ascontiguousarray(x.reshape(n, height * scale, width * scale, c // scale**2))


def pack(latents: Sequence[Array]) -> Array:
    """Latents of all levels, finest first, squeezed to the size of the last: `[(N, h, w, c), …] -> (N, h, w, C)`."""
    scales = [1 << (len(latents) - 1 - level) for level in range(len(latents))]
    return np.concatenate([squeeze(z, scale) for z, scale in zip(latents, scales, strict=True)], axis=-1)
