"""UNet2DConditionModel: the network that predicts the noise in a latent, given the time and a context.

Down through residual and transformer blocks with ever fewer pixels, a middle, and up again with what the way down left
(Ronneberger et al. 2015, arXiv:1505.04597; Rombach et al. 2022, arXiv:2112.10752, section 3.3 and appendix E). Read
`unet` first: it is the whole model; then `down_block`, `up_block` and, in `transformer.py`, how the context enters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinyldm.checkpoints.base import TensorSource
from tinyldm.errors import InputError
from tinyldm.models.blocks import downsample, resnet_block, upsample
from tinyldm.models.config import read_config
from tinyldm.models.time_embedding import Conditions, condition_embedding, time_embedding
from tinyldm.models.transformer import Context, PreparedContext, prepare_context, transformer
from tinyldm.models.unet_config import INERT, UNetConfig, parameters, settings
from tinyldm.nn import conv2d, linear, norm_silu_conv2d
from tinyldm.runtime import Runtime
from tinyldm.tracing import begin, channels_first, channels_last, module, note, tracing
from tinyldm.tree import Weights, bind_weights


class UNet:
    """The UNet of a checkpoint: `unet(z, t, context) -> epsilon`."""

    def __init__(self, config: Mapping[str, Any], source: TensorSource, runtime: Runtime | None = None) -> None:
        self.runtime = runtime or Runtime()
        self.config = read_config(UNetConfig, config, component="UNet", inert=INERT)
        self.parameters = dict(parameters(self.config))
        self.weights = bind_weights(
            source, self.parameters, self.runtime, component="UNet", settings=settings(self.config)
        )

    def __call__(
        self,
        z: np.ndarray,
        t: np.ndarray | float,
        context: Context,
        residuals: Sequence[np.ndarray] | None = None,
        **conditions: np.ndarray,
    ) -> np.ndarray:
        """The prediction for noisy latents: `(N, C, h, w), t, (N, L, D) -> (N, C', h, w)`.

        `t` is the timestep, one number or one per sample `(N,)`; `context` the text encoder's output, as it is or as
        `prepare` made it ready for many steps. What the
        prediction is (noise, velocity or the clean latent) is the schedule's `prediction_type`. Further `conditions` of
        the models that have them: `class_labels` `(N,)` (or `(N, D)` vectors), `guidance` `(N, D)` (the original's
        `timestep_cond`), and `text_embeds` `(N, D)` with `time_ids` `(N, 6)`. `residuals` are a ControlNet's, to be
        added to each skip and, the last of them, to the middle.

        Raises `InputError` where a shape does not fit the model, or a condition is missing or not the model's.
        """
        z = np.asarray(z, self.runtime.dtype)
        channels = self.config.in_channels
        if z.ndim != 4 or z.shape[1] != channels or 0 in z.shape:
            raise InputError(f"UNet: z must have the shape (N, {channels}, height, width), not {z.shape}")
        if not isinstance(context, PreparedContext):
            context = self._checked_context(context, len(z))
        elif len(context) != len(z):
            raise InputError(f"UNet: the context was prepared for {len(context)} samples, z has {len(z)}")
        t = np.asarray(t)
        if t.dtype.kind not in "iuf" or t.shape not in ((), (1,), (len(z),)):
            raise InputError(f"UNet: t must be a number or one number per sample ({len(z)}), not of shape {t.shape}")
        t = np.broadcast_to(t, (len(z),))
        given = Conditions.check(conditions, self.config, len(z), self.runtime.dtype)
        if not isinstance(context, PreparedContext):
            begin("unet", z=z, t=t, context=context, **given.arrays())
            context = self._projected(context)
        control = None if residuals is None else [channels_last(np.asarray(r, z.dtype)) for r in residuals]
        epsilon = channels_first(unet(channels_last(z), t, context, given, control, self.config, self.weights))
        note(epsilon=epsilon)
        return epsilon

    def prepare(self, context: np.ndarray) -> Context:
        """A context with its keys and values, which are the same in every step: `(N, L, D) -> ` what `__call__` takes.

        While a trace is on it is returned as it is, so that every step's own modules are seen.
        """
        context = self._checked_context(context, len(context))
        return context if tracing() else prepare_context(self._projected(context), self.weights)

    def _projected(self, context: np.ndarray) -> np.ndarray:
        return linear(context, self.weights.encoder_hid_proj) if "encoder_hid_proj" in self.weights else context

    def _checked_context(self, context: np.ndarray, n: int) -> np.ndarray:
        context = np.asarray(context, self.runtime.dtype)
        width = self.config.context_dim
        if context.ndim != 3 or context.shape[2] != width or len(context) not in (1, n) or not context.shape[1]:
            raise InputError(f"UNet: context must have the shape ({n}, tokens, {width}), not {context.shape}")
        return np.broadcast_to(context, (n, *context.shape[1:]))


def unet(
    z: np.ndarray,
    t: np.ndarray,
    context: Context,
    given: Conditions,
    control: Sequence[np.ndarray] | None,
    config: UNetConfig,
    w: Weights,
) -> np.ndarray:  # (N,h,w,C), (N,), (N,L,D) -> (N,h,w,C')
    """The whole model: time embedding, way down, middle, way up; `control` is added to the skips and the middle."""
    temb = time_embedding(t, given, config, w.time_embedding)
    temb = condition_embedding(temb, given, config, w)
    x = conv2d(2 * z - 1 if config.center_input_sample else z, w.conv_in)
    skips = [x]
    for block in w.down_blocks:
        x, block_skips = down_block(x, temb, context, block)
        skips += block_skips
    if "mid_block" in w:
        x = mid_block(x, temb, context, w.mid_block)
    if control is not None:
        *to_skips, to_middle = control
        skips = [skip + r for skip, r in zip(skips, to_skips, strict=True)]
        x = x + to_middle
    for block in w.up_blocks:
        x = up_block(x, skips, temb, context, block)
    return norm_silu_conv2d(x, w.conv_norm_out, w.conv_out)


@module
def down_block(
    x: np.ndarray, temb: np.ndarray, context: Context, w: Weights
) -> tuple[np.ndarray, list[np.ndarray]]:  # (N,H,W,Cin) -> (N,⌈H/2⌉,⌈W/2⌉,Cout), skips
    """Residual blocks, each with a transformer where the level has them, then half the size; every output is kept."""
    skips = []
    for i, resnet in enumerate(w.resnets):
        x = resnet_block(x, temb, resnet)
        if "attentions" in w:
            x = transformer(x, context, w.attentions[i])
        skips.append(x)
    if "downsamplers" in w:
        x = downsample(x, w.downsamplers[0])
        skips.append(x)
    return x, skips


@module
def mid_block(x: np.ndarray, temb: np.ndarray, context: Context, w: Weights) -> np.ndarray:
    """At the smallest size: residual block, transformer, residual block: `(N, H, W, C) -> (N, H, W, C)`."""
    x = resnet_block(x, temb, w.resnets[0])
    if "attentions" in w:
        x = transformer(x, context, w.attentions[0])
    return resnet_block(x, temb, w.resnets[1])


@module
def up_block(
    x: np.ndarray, skips: list[np.ndarray], temb: np.ndarray, context: Context, w: Weights
) -> np.ndarray:  # (N,H,W,Cin) -> (N,2H,2W,Cout)
    """Residual blocks over x beside the latest skip, which is used up; then the size of the skip that comes next.

    That size is twice this one, or one less where the way down rounded an odd size up.
    """
    for i, resnet in enumerate(w.resnets):
        x = resnet_block(np.concatenate([x, skips.pop()], axis=-1), temb, resnet)
        if "attentions" in w:
            x = transformer(x, context, w.attentions[i])
    if "upsamplers" in w:
        x = upsample(x, skips[-1].shape[1:3], w.upsamplers[0])
    return x
