"""UNet2DConditionModel: the network that predicts the noise in a latent, given the time and a context.

Down through residual and transformer blocks with ever fewer pixels, a middle, and up again with what the way down left
(Ronneberger et al. 2015, arXiv:1505.04597; Rombach et al. 2022, arXiv:2112.10752, section 3.3 and appendix E). Read
`unet` first: it is the whole model; then `down_block`, `up_block` and, in `blocks.py`, how the context enters.

Some models add further conditions to the time embedding, each made a vector as wide: class labels (the
class-conditional models, the noise level of the upscaler), pooled text with picture size and crop (Podell et al. 2023,
arXiv:2307.01952, section 2.2), the guidance scale of a distilled model (Meng et al. 2022, arXiv:2210.03142; Luo et al.
2023, arXiv:2310.04378).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyldm.errors import InputError
from tinyldm.models.blocks import (
    Context,
    PicturedContext,
    PreparedContext,
    TextContext,
    downsample,
    resizing_block,
    resnet_block,
    transformer,
    upsample,
)
from tinyldm.models.network import Network
from tinyldm.models.unet_config import INERT, BlocksConfig, UNetConfig, parameters, settings
from tinyldm.nn import conv2d, embedding, linear, norm_silu_conv2d, silu
from tinyldm.ops import avg_pool2d, upsample_nearest
from tinyldm.runtime import Runtime
from tinyldm.tracing import begin, channels_first, channels_last, module, module_with, note, tracing
from tinyldm.tree import TensorSource, Weights
from tinyldm.typing import Array


class UNet(Network[UNetConfig]):
    """The UNet of a checkpoint: `unet(z, t, context) -> epsilon`."""

    component, name = "UNet", "unet"
    config_class, inert = UNetConfig, INERT
    parameters_of, settings_of = staticmethod(parameters), staticmethod(settings)

    def __init__(
        self, config: Mapping[str, Any] | UNetConfig, source: TensorSource, runtime: Runtime | None = None
    ) -> None:
        super().__init__(config, source, runtime)
        self.context_dim = self.config.context_dim
        self.takes, self.takes_ids = self.config.conditions, self.config.class_labels_are_ids

    def __call__(
        self,
        z: Array,
        t: Array | float,
        context: TextContext,
        residuals: Sequence[Array] | None = None,
        features: Sequence[Array] = (),
        images: Mapping[str, Sequence[tuple[Array, Array]]] | None = None,
        **conditions: Array,
    ) -> Array:
        """The prediction for noisy latents: `(N, C, h, w), t, (N, L, D) -> (N, C', h, w)`.

        `t` is the timestep, one number or one per sample `(N,)`; `context` the text encoder's output, as it is or as
        `prepare` made it ready for many steps. What the prediction is (noise, velocity or the clean latent) is the
        schedule's `prediction_type`. Further `conditions` of the models that have them: `class_labels` `(N,)` (or
        `(N, D)` vectors), `guidance` `(N, D)` (the original's `timestep_cond`), and `text_embeds` `(N, D)` with
        `time_ids` `(N, 6)`. `residuals` are a ControlNet's, to be added to each skip and, the last of them, to the
        middle; `features` are a T2I-Adapter's, to be added to each block of the way down; `images` are an IP-Adapter's
        keys and values, by the paths of the attentions that look at them beside the context.

        Raises `InputError` where a shape does not fit the model, or a condition is missing or not the model's.
        """
        c, w = self.config, self.weights
        z, t = checked_latents(self.component, z, t, c.in_channels, self.runtime.dtype)
        given = Conditions()
        if self.takes or conditions:
            given = Conditions.check(conditions, self.takes, len(z), z.dtype, self.takes_ids)
        if isinstance(context, PreparedContext):
            if len(context.text) != len(z):
                raise InputError(f"UNet: the context was prepared for {len(context.text)} samples, z has {len(z)}")
        else:
            context = checked_context(self.component, context, len(z), self.context_dim, z.dtype)
            begin(self.name, z=z, t=t, context=context, **given.arrays())
            context = linear(context, w.encoder_hid_proj) if "encoder_hid_proj" in w else context
        seen = context if images is None else PicturedContext(context, images)
        control = None if residuals is None else [channels_last(np.asarray(r, z.dtype)) for r in residuals]
        added = [channels_last(np.asarray(f, z.dtype)) for f in features]
        epsilon = channels_first(unet(channels_last(z), t, seen, given, control, c, w, added))
        note(epsilon=epsilon)
        return epsilon

    def prepare(self, context: Array) -> TextContext:
        """A context that keeps its keys and values, the same in every step: `(N, L, D) -> ` what `__call__` takes.

        While a trace is on it is returned as it is, so that every step's own modules are seen.
        """
        context = checked_context(self.component, context, len(context), self.context_dim, self.runtime.dtype)
        if tracing():
            return context
        w = self.weights
        return PreparedContext(linear(context, w.encoder_hid_proj) if "encoder_hid_proj" in w else context)


@dataclass(frozen=True)
class Conditions:
    """What a model takes besides z, t and the context; None where it takes none."""

    class_labels: NDArray[Any] | None = None  # (N,) ids or levels, or (N, D) vectors
    guidance: Array | None = None  # (N, D), an embedding of the guidance scale
    text_embeds: Array | None = None  # (N, D), the pooled text
    time_ids: Array | None = None  # (N, K) numbers: original size, crop, target size or aesthetic score

    @classmethod
    def check(
        cls,
        given: Mapping[str, NDArray[Any] | None],
        takes: Sequence[str],
        n: int,
        dtype: np.dtype[Any],
        ids: bool = False,
    ) -> Conditions:
        """The conditions as arrays for a batch of `n`, of a model that `takes` these by name.

        `guidance` may be left out, whatever else the model has may not. Class labels that are `ids` stay integers.

        Raises `InputError` naming a condition that the model lacks or does not know, or one of the wrong length.
        """
        arrays = {}
        for name in (*takes, *given):
            value = given.get(name)
            if name not in takes:
                raise InputError(
                    f"UNet: it takes no condition {name!r}; the conditions of this model: {', '.join(takes) or 'none'}"
                )
            if value is None and name != "guidance":
                raise InputError(f"UNet: the condition {name!r} is missing")
            if value is not None:
                array = np.asarray(value)
                if array.ndim == 0 or len(array) not in (1, n):
                    raise InputError(f"UNet: the condition {name!r} of shape {array.shape} must have {n} rows")
                array = np.broadcast_to(array, (n, *array.shape[1:]))
                arrays[name] = array if ids and name == "class_labels" else array.astype(dtype, copy=False)
        return cls(**arrays)

    def arrays(self) -> dict[str, Array]:
        """Those that are there, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


def checked_latents(
    component: str, z: Array, t: Array | float, channels: int, dtype: np.dtype[Any]
) -> tuple[Array, Array]:
    """Latents `(N, C, h, w)` and a timestep for each, `(N,)`. Raises `InputError` for another shape."""
    z, times = np.asarray(z, dtype), np.asarray(t)
    if z.ndim != 4 or z.shape[1] != channels or 0 in z.shape:
        raise InputError(f"{component}: z must have the shape (N, {channels}, height, width), not {z.shape}")
    if times.dtype.kind not in "iuf" or times.shape not in ((), (1,), (len(z),)):
        one = f"a number or one number per sample ({len(z)})"
        raise InputError(f"{component}: t must be {one}, not of shape {times.shape}")
    return z, np.broadcast_to(times, (len(z),))


def checked_context(component: str, context: Array, n: int, width: int, dtype: np.dtype[Any]) -> Array:
    """A context `(1 or N, L, D)` as `(N, L, D)`. Raises `InputError` for another shape."""
    context = np.asarray(context, dtype)
    if context.ndim != 3 or context.shape[2] != width or len(context) not in (1, n) or not context.shape[1]:
        raise InputError(f"{component}: context must have the shape ({n}, tokens, {width}), not {context.shape}")
    return np.broadcast_to(context, (n, *context.shape[1:]))


def unet(
    z: Array,
    t: Array,
    context: Context | None,
    given: Conditions,
    control: Sequence[Array] | None,
    config: BlocksConfig,
    w: Weights,
    features: Sequence[Array] = (),
) -> Array:  # (N,h,w,C), (N,), (N,L,D) -> (N,h,w,C')
    """The whole model: time embedding, way down, middle, way up; `control` is added to the skips and the middle.

    `features` are added to the blocks of the way down, one more to the middle. Without a context, attention is of the
    pixels to each other alone.
    """
    temb = time_embedding(t, given, config, w)
    x = conv2d(2 * z - 1 if config.center_input_sample else z, w.conv_in)
    taken = iter(features)
    x, skips = way_down(x, temb, context, w, taken)
    if "mid_block" in w:
        x = mid_block(x, temb, context, w.mid_block)
    for feature in taken:
        x = x + feature
    if control is not None:
        *to_skips, to_middle = control
        skips = [skip + r for skip, r in zip(skips, to_skips, strict=True)]
        x = x + to_middle
    for block in w.up_blocks:
        x = up_block(x, skips, temb, context, block)
    return norm_silu_conv2d(x, w.conv_norm_out, w.conv_out)


def time_embedding(t: Array, given: Conditions, config: BlocksConfig, w: Weights) -> Array:  # (N,) -> (N,T)
    """Sines and cosines of the timestep through two linear layers, with what the model adds to that.

    A guidance embedding is added between the two, the further conditions behind them; class labels are appended where
    the model has it so: `(N, 2T)`.
    """
    emb = time_proj(t, config.block_out_channels[0], config, w)
    if given.guidance is not None:
        emb = emb + linear(given.guidance, w.time_embedding.cond_proj)
    temb = two_layers(emb, w.time_embedding)
    if given.class_labels is not None:
        classes = class_embedding(given.class_labels, config, w)
        temb = np.concatenate([temb, classes], axis=-1) if config.class_embeddings_concat else temb + classes
    if given.time_ids is not None and given.text_embeds is not None and isinstance(config, UNetConfig):
        temb = temb + added_embedding(given.text_embeds, given.time_ids, config, w)
    return temb


def sinusoidal(t: Array, width: int, config: BlocksConfig, w: Weights) -> Array:
    """`ops.timestep_embedding` with the model's arrangement: `(N,) -> (N, width)`."""
    arrangement = {"flip_sin_to_cos": config.flip_sin_to_cos, "freq_shift": config.freq_shift}
    emb: Array = w.runtime.ops.timestep_embedding(t, width, **arrangement, dtype=w.runtime.dtype)
    return emb


# Modules of the original that have no weights.
time_proj = module_with(path="time_proj")(sinusoidal)
add_time_proj = module_with(path="add_time_proj")(sinusoidal)


@module
def two_layers(x: Array, w: Weights) -> Array:  # (N,C) -> (N,T)
    """Linear, SiLU, linear."""
    return linear(silu(linear(x, w.linear_1), w.linear_2), w.linear_2)


def class_embedding(labels: NDArray[Any], config: BlocksConfig, w: Weights) -> Array:
    """Class labels as a vector, in the way the config names: `(N,) or (N, D) -> (N, T)`."""
    kind = config.class_embed_type
    if kind is None:
        return embedding(labels, w.class_embedding)
    if kind == "timestep":
        return two_layers(sinusoidal(labels, config.block_out_channels[0], config, w), w.class_embedding)
    if kind == "projection":
        return two_layers(labels, w.class_embedding)
    return linear(labels, w.class_embedding) if kind == "simple_projection" else labels


def added_embedding(text_embeds: Array, time_ids: Array, config: UNetConfig, w: Weights) -> Array:
    """The pooled text beside the sines and cosines of the picture's sizes, as a vector: `(N, D), (N, K) -> (N, T)`.

    Raises `InputError` where they do not make as many numbers as the model takes.
    """
    numbers = add_time_proj(time_ids.reshape(-1), config.addition_time_embed_dim or 0, config, w)
    vector = np.concatenate([text_embeds, numbers.reshape(len(time_ids), -1)], axis=-1)
    if vector.shape[1] != config.projection_class_embeddings_input_dim:
        raise InputError(
            f"UNet: text_embeds {text_embeds.shape} and time_ids {time_ids.shape} make {vector.shape[1]} numbers, "
            f"the model takes {config.projection_class_embeddings_input_dim}"
        )
    return two_layers(vector, w.add_embedding)


def way_down(
    x: Array, temb: Array, context: Context | None, w: Weights, features: Iterator[Array]
) -> tuple[Array, list[Array]]:  # (N,H,W,C) -> (N,h,w,Cout), skips
    """The blocks with ever fewer pixels; what they begin with and every output is kept for the way up.

    Of an adapter's `features`, one is added in each block as long as there are some.
    """
    skips = [x]
    for block in w.down_blocks:
        x, block_skips = down_block(x, temb, context, block, next(features, None))
        skips += block_skips
    return x, skips


@module
def down_block(
    x: Array, temb: Array, context: Context | None, w: Weights, feature: Array | None = None
) -> tuple[Array, list[Array]]:  # (N,H,W,Cin) -> (N,⌈H/2⌉,⌈W/2⌉,Cout), skips
    """Residual blocks, each with a transformer where the level has them, then half the size; every output is kept.

    An adapter's `feature` is added before the size is halved where the level has transformers, and behind elsewhere.
    """
    skips = []
    for i, resnet in enumerate(w.resnets):
        x = resnet_block(x, temb, resnet)
        if "attentions" in w:
            x = transformer(x, context, w.attentions[i])
        skips.append(x)
    if feature is not None and "attentions" in w:
        x = skips[-1] = x + feature
    if "downsamplers" in w:
        resize = w.downsamplers[0]
        x = downsample(x, resize) if "conv" in resize else resizing_block(x, temb, avg_pool2d, resize)
        skips.append(x)
    if feature is not None and "attentions" not in w:
        x = skips[-1] = x + feature
    return x, skips


@module
def mid_block(x: Array, temb: Array, context: Context | None, w: Weights) -> Array:
    """At the smallest size: residual block, transformer, residual block: `(N, H, W, C) -> (N, H, W, C)`.

    Some distilled models keep only the first (SSD-1B: Gupta et al. 2024, arXiv:2401.02677).
    """
    x = resnet_block(x, temb, w.resnets[0])
    if "attentions" in w:
        x = transformer(x, context, w.attentions[0])
        x = resnet_block(x, temb, w.resnets[1])
    return x


@module
def up_block(
    x: Array, skips: list[Array], temb: Array, context: Context | None, w: Weights
) -> Array:  # (N,H,W,Cin) -> (N,2H,2W,Cout)
    """Residual blocks over x beside the latest skip, which is used up; then the size of the skip that comes next.

    That size is twice this one, or one less where the way down rounded an odd size up.
    """
    for i, resnet in enumerate(w.resnets):
        x = resnet_block(np.concatenate([x, skips.pop()], axis=-1), temb, resnet)
        if "attentions" in w:
            x = transformer(x, context, w.attentions[i])
    if "upsamplers" in w:
        resize, size = w.upsamplers[0], skips[-1].shape[1:3]
        x = upsample(x, size, resize) if "conv" in resize else resizing_block(x, temb, upsample_nearest, resize)
    return x
