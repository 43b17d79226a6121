"""A picture that guides the UNet through a ControlNet: edges, depth, a pose, whatever the ControlNet was trained on.

Source: Zhang et al. 2023, arXiv:2302.05543, section 3.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.recognised import Component
from tinyldm.errors import CheckpointError, InputError
from tinyldm.models.controlnet import ControlNet, skip_widths
from tinyldm.models.unet import UNet


class BothContexts(NamedTuple):
    """A context as it is, for the ControlNet, and as the UNet has prepared it."""

    plain: np.ndarray
    prepared: Any


class ControlledUNet:
    """A UNet with a ControlNet beside it: called as the UNet is, wherever a sampler calls one.

    `hint` `(1 or N, 3, H, W)` in [0, 1] is the picture that guides, `scale` how strongly. Pictures are by default of
    the hint's size. A UNet that is controlled already may be given: the residuals of both are added.
    """

    def __init__(self, unet: UNet | ControlledUNet, controlnet: ControlNet, hint: np.ndarray, scale: float) -> None:
        self.unet, self.controlnet, self.hint, self.scale = unet, controlnet, hint, scale
        factor = controlnet.config.hint.factor
        self.config = replace(unet.config, sample_size=(hint.shape[2] // factor, hint.shape[3] // factor))

    def __getattr__(self, name: str) -> Any:
        """What is not about the control is the UNet's: its weights, its parameters."""
        return getattr(self.unet, name)

    def prepare(self, context: np.ndarray) -> BothContexts:
        """A context made ready for many steps."""
        return BothContexts(context, self.unet.prepare(context))

    def __call__(
        self,
        z: np.ndarray,
        t: np.ndarray | float,
        context: np.ndarray | BothContexts,
        residuals: list[np.ndarray] | None = None,
        **conditions: np.ndarray,
    ) -> np.ndarray:
        """The UNet's prediction, guided: `(N, C, h, w), t, (N, L, D) -> (N, C', h, w)`."""
        both = context if isinstance(context, BothContexts) else BothContexts(context, context)
        hint = np.concatenate([self.hint] * (len(z) // len(self.hint))) if len(z) % len(self.hint) == 0 else self.hint
        read = {name: value for name, value in conditions.items() if name != "guidance"}  # the UNet's alone
        own = self.controlnet(z, t, both.plain, hint, self.scale, **read)
        if residuals is not None:
            own = [a + b for a, b in zip(residuals, own, strict=True)]
        return self.unet(z, t, both.prepared, residuals=own, **conditions)


def read_controlnet(path: str | Path) -> Component:
    """The ControlNet of a folder, a file or a name on the hub. Raises `CheckpointError` for anything else."""
    found = open_checkpoint(path)
    candidates = [c for c in found.components.values() if c.class_name == "ControlNetModel"]
    if len(candidates) != 1:
        has = ", ".join(found.components) or "nothing"
        raise CheckpointError(f"{path}: wanted a ControlNet; it is {found.title} and has {has}")
    return candidates[0]


def check_fits(controlnet: ControlNet, unet: UNet, path: object) -> None:
    """Raise `CheckpointError` unless a ControlNet belongs to the kind of UNet that it is to guide."""
    mine, its = controlnet.config.unet, unet.config
    for what, own, wanted in (
        ("latent channels", mine.in_channels, its.in_channels),
        ("channels of the context", mine.context_dim, getattr(its, "context_dim", None)),
        ("skips", skip_widths(mine), skip_widths(its) if hasattr(its, "context_dim") else None),
    ):
        if own != wanted:
            raise CheckpointError(f"{path}: a ControlNet of a UNet with {what} {own}; this checkpoint's has {wanted}")


def to_hint(image: Image.Image | np.ndarray, controlnet: ControlNet) -> np.ndarray:  # -> (N, 3, H, W)
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
