"""UNet2DConditionModel: the network that predicts the noise in a latent, given the time and a context.

Down through residual and transformer blocks with ever fewer pixels, a middle, and up again with what the way down left
(Ronneberger et al. 2015, arXiv:1505.04597; Rombach et al. 2022, arXiv:2112.10752, section 3.3 and appendix E). Read
`unet` first: it is the whole model; then `down_block`, `up_block` and, in `transformer.py`, how the context enters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyldm.errors import InputError
from tinyldm.models.blocks import larger, resnet_block, smaller
from tinyldm.models.network import Network
from tinyldm.models.time_embedding import Conditions, time_embedding
from tinyldm.models.transformer import Context, PreparedContext, prepare_context, transformer
from tinyldm.models.unet_config import INERT, BlocksConfig, UNetConfig, parameters, settings
from tinyldm.nn import conv2d, linear, norm_silu_conv2d
from tinyldm.tracing import begin, channels_first, channels_last, module, note, tracing
from tinyldm.tree import Weights
from tinyldm.typing import Array

C = TypeVar("C", bound=BlocksConfig)


class DenoisingUNet(Network[C]):
    """What both kinds of UNet have in common: what they check, and the one forward pass."""

    component, name = "UNet", "unet"
    parameters_of, settings_of = staticmethod(parameters), staticmethod(settings)

    def conditions(self, given: Mapping[str, NDArray[Any]], n: int) -> Conditions:
        """The conditions that were given for `n` samples. Raises `InputError` where they do not fit the model."""
        return Conditions.check(given, self.config, n, self.runtime.dtype)

    def predict(
        self,
        z: Array,
        t: Array,
        context: Context | None,
        given: Conditions,
        residuals: Sequence[Array] | None = None,
    ) -> Array:  # (N,C,h,w), (N,), (N,L,D) -> (N,C',h,w)
        """The prediction for arguments that are checked."""
        if not isinstance(context, PreparedContext):
            shown = {} if context is None else {"context": context}
            begin(self.name, z=z, t=t, **shown, **given.arrays())
            context = None if context is None else projected(context, self.weights)
        control = None if residuals is None else [channels_last(np.asarray(r, z.dtype)) for r in residuals]
        epsilon = channels_first(unet(channels_last(z), t, context, given, control, self.config, self.weights))
        note(epsilon=epsilon)
        return epsilon


class UNet(DenoisingUNet[UNetConfig]):
    """The UNet of a checkpoint: `unet(z, t, context) -> epsilon`."""

    config_class, inert = UNetConfig, INERT

    def __call__(
        self,
        z: Array,
        t: Array | float,
        context: Context,
        residuals: Sequence[Array] | None = None,
        **conditions: Array,
    ) -> Array:
        """The prediction for noisy latents: `(N, C, h, w), t, (N, L, D) -> (N, C', h, w)`.

        `t` is the timestep, one number or one per sample `(N,)`; `context` the text encoder's output, as it is or as
        `prepare` made it ready for many steps. What the prediction is (noise, velocity or the clean latent) is the
        schedule's `prediction_type`. Further `conditions` of the models that have them: `class_labels` `(N,)` (or
        `(N, D)` vectors), `guidance` `(N, D)` (the original's `timestep_cond`), and `text_embeds` `(N, D)` with
        `time_ids` `(N, 6)`. `residuals` are a ControlNet's, to be added to each skip and, the last of them, to the
        middle.

        Raises `InputError` where a shape does not fit the model, or a condition is missing or not the model's.
        """
        z, t = checked_latents(self.component, z, t, self.config.in_channels, self.runtime.dtype)
        if not isinstance(context, PreparedContext):
            context = checked_context(self.component, context, len(z), self.config.context_dim, z.dtype)
        elif len(context) != len(z):
            raise InputError(f"UNet: the context was prepared for {len(context)} samples, z has {len(z)}")
        return self.predict(z, t, context, self.conditions(conditions, len(z)), residuals)

    def prepare(self, context: Array) -> Context:
        """A context with its keys and values, which are the same in every step: `(N, L, D) -> ` what `__call__` takes.

        While a trace is on it is returned as it is, so that every step's own modules are seen.
        """
        c, dtype = self.config, self.runtime.dtype
        context = checked_context(self.component, context, len(context), c.context_dim, dtype)
        return context if tracing() else prepare_context(projected(context, self.weights), self.weights)


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


def projected(context: Array, w: Weights) -> Array:  # (N,L,D) -> (N,L,D')
    """The context as the attentions take it, through a linear layer where the model has one."""
    return linear(context, w.encoder_hid_proj) if "encoder_hid_proj" in w else context


def unet(
    z: Array,
    t: Array,
    context: Context | None,
    given: Conditions,
    control: Sequence[Array] | None,
    config: BlocksConfig,
    w: Weights,
) -> Array:  # (N,h,w,C), (N,), (N,L,D) -> (N,h,w,C')
    """The whole model: time embedding, way down, middle, way up; `control` is added to the skips and the middle.

    Without a context, attention is of the pixels to each other alone.
    """
    temb = time_embedding(t, given, config, w)
    x = conv2d(2 * z - 1 if config.center_input_sample else z, w.conv_in)
    x, skips = way_down(x, temb, context, w)
    if "mid_block" in w:
        x = mid_block(x, temb, context, w.mid_block)
    if control is not None:
        *to_skips, to_middle = control
        skips = [skip + r for skip, r in zip(skips, to_skips, strict=True)]
        x = x + to_middle
    for block in w.up_blocks:
        x = up_block(x, skips, temb, context, block)
    return norm_silu_conv2d(x, w.conv_norm_out, w.conv_out)


def way_down(
    x: Array, temb: Array, context: Context | None, w: Weights
) -> tuple[Array, list[Array]]:  # (N,H,W,C) -> (N,h,w,Cout), skips
    """The blocks with ever fewer pixels; what they begin with and every output is kept for the way up."""
    skips = [x]
    for block in w.down_blocks:
        x, block_skips = down_block(x, temb, context, block)
        skips += block_skips
    return x, skips


@module
def down_block(
    x: Array, temb: Array, context: Context | None, w: Weights
) -> tuple[Array, list[Array]]:  # (N,H,W,Cin) -> (N,⌈H/2⌉,⌈W/2⌉,Cout), skips
    """Residual blocks, each with a transformer where the level has them, then half the size; every output is kept."""
    skips = []
    for i, resnet in enumerate(w.resnets):
        x = resnet_block(x, temb, resnet)
        if "attentions" in w:
            x = transformer(x, context, w.attentions[i])
        skips.append(x)
    if "downsamplers" in w:
        x = smaller(x, temb, w.downsamplers[0])
        skips.append(x)
    return x, skips


@module
def mid_block(x: Array, temb: Array, context: Context | None, w: Weights) -> Array:
    """At the smallest size: residual block, transformer, residual block: `(N, H, W, C) -> (N, H, W, C)`."""
    x = resnet_block(x, temb, w.resnets[0])
    if "attentions" in w:
        x = transformer(x, context, w.attentions[0])
    return resnet_block(x, temb, w.resnets[1])


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
        x = larger(x, temb, skips[-1].shape[1:3], w.upsamplers[0])
    return x
