"""A picture that guides the UNet through a ControlNet: edges, depth, a pose, whatever the ControlNet was trained on.

Source: Zhang et al. 2023, arXiv:2302.05543, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.partial_control import partial_control
from tinyldm.checkpoints.recognised import Component
from tinyldm.errors import CheckpointError, InputError
from tinyldm.models.controlnet import ControlNet, skip_widths
from tinyldm.typing import Array


@dataclass(frozen=True)
class Control:
    """A ControlNet with the picture that it reads, and how strongly it guides, from 0, not at all.

    `hint` is `(1 or N, 3, H, W)` in [0, 1]; the pictures that it guides have its size.
    """

    controlnet: ControlNet
    hint: Array
    scale: float

    @classmethod
    def of(cls, image: Image.Image | Array, scale: float, controlnet: ControlNet) -> Control:
        """The control of a picture. Raises `InputError` for one that the ControlNet can't take."""
        if not np.isfinite(scale):
            raise InputError(f"scale must be a finite number, not {scale}")
        return cls(controlnet, to_hint(image, controlnet), float(scale))

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latent that it guides."""
        factor = self.controlnet.config.hint.factor
        return self.hint.shape[2] // factor, self.hint.shape[3] // factor

    def residuals(
        self, z: Array, t: np.number[Any] | float, context: Array, arrays: Mapping[str, Array]
    ) -> list[Array]:
        """What is added to the UNet's skips and its middle: `(N, C, h, w), t, (N, L, D) -> [(N, C', h', w'), …]`."""
        repeats, rest = divmod(len(z), len(self.hint))
        hint = self.hint if rest else np.concatenate([self.hint] * repeats)
        read = {name: value for name, value in arrays.items() if name != "guidance"}  # that one is the UNet's alone
        found: list[Array] = self.controlnet(z, float(t), context, hint, self.scale, **read)
        return found


def summed_residuals(
    controls: Sequence[Control],
    z: Array,
    t: np.number[Any] | float,
    context: Array,
    arrays: Mapping[str, Array],
) -> list[Array]:
    """The residuals of all controls, added: `(N, C, h, w), t, (N, L, D) -> [(N, C', h', w'), …]`."""
    every = [control.residuals(z, t, context, arrays) for control in controls]
    return [np.sum(level, axis=0) for level in zip(*every, strict=True)]


def read_controlnet(path: str | Path, unet: Component | None = None) -> Component:
    """The ControlNet of a folder, a file or a name on the hub. Raises `CheckpointError` for anything else.

    `unet` is that of the checkpoint, to which a file may be stored as a difference or a LoRA.
    """
    if partial := partial_control(path, unet):
        return partial
    found = open_checkpoint(path)
    candidates = [c for c in found.components.values() if c.class_name == "ControlNetModel"]
    if len(candidates) != 1:
        has = ", ".join(found.components) or "nothing"
        raise CheckpointError(f"{path}: wanted a ControlNet; it is {found.title} and has {has}")
    return candidates[0]


def check_fits(controlnet: ControlNet, unet: Any, path: object) -> None:
    """Raise `CheckpointError` unless a ControlNet belongs to the kind of UNet that it is to guide."""
    mine, its = controlnet.config.unet, unet.config
    for what, own, wanted in (
        ("latent channels", mine.in_channels, its.in_channels),
        ("channels of the context", mine.context_dim, getattr(its, "context_dim", None)),
        ("skips", skip_widths(mine), skip_widths(its) if hasattr(its, "context_dim") else None),
    ):
        if own != wanted:
            raise CheckpointError(f"{path}: a ControlNet of a UNet with {what} {own}; this checkpoint's has {wanted}")


def to_hint(image: Image.Image | Array, controlnet: ControlNet) -> Array:  # -> (N, 3, H, W)
    """A picture as a ControlNet takes it: RGB in [0, 1]; an array `(N, 3, H, W)` is taken as it is.

    Raises `InputError` for another shape, values outside [0, 1], or a size that is no multiple of a latent's.
    """
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 255
    hint = np.asarray(image, controlnet.runtime.dtype)
    channels, factor = controlnet.config.hint.conditioning_channels, controlnet.config.hint.factor
    if hint.ndim != 4 or hint.shape[1] != channels or 0 in hint.shape:
        raise InputError(f"control image: wanted a picture or an array (N, {channels}, H, W), not {hint.shape}")
    if hint.shape[2] % factor or hint.shape[3] % factor:
        raise InputError(
            f"control image: its size {hint.shape[3]}×{hint.shape[2]} must be a multiple of {factor} pixels each way"
        )
    if not (np.isfinite(hint).all() and hint.min() >= 0 and hint.max() <= 1):
        raise InputError("control image: values of an array must be in [0, 1]")
    return hint
