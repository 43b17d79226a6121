"""A picture that guides the UNet through a ControlNet or a T2I-Adapter: edges, depth, a pose, whatever those read.

Source: Zhang et al. 2023, arXiv:2302.05543, section 3; Mou et al. 2023, arXiv:2302.08453, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from tinyldm.errors import CheckpointError, InputError
from tinyldm.models.controlnet import ControlNet, skip_widths
from tinyldm.models.t2i_adapter import T2IAdapter, taken_at
from tinyldm.typing import Array

Reader = ControlNet | T2IAdapter


@dataclass(frozen=True)
class Control:
    """A network with the picture that it reads, how strongly it guides, from 0, not at all, and when.

    `hint` is `(1, C, H, W)` in [0, 1]; the pictures that it guides have its size. It takes part in the calls of the
    UNet from the part `start` of a run to the part `end`. `said` is what the files of pictures say of it.
    """

    network: Reader
    hint: Array
    scale: float
    start: float = 0.0
    end: float = 1.0
    said: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        image: Image.Image | Array,
        scale: float,
        network: Reader,
        start: float = 0.0,
        end: float = 1.0,
        said: Mapping[str, Any] = MappingProxyType({}),
    ) -> Control:
        """The control of a picture. Raises `InputError` for one that the network can't take, and for no such time.

        `said` is what else is to be told of it in the files of pictures, such as the picture's own file.
        """
        if not np.isfinite(scale):
            raise InputError(f"scale must be a finite number, not {scale}")
        if not 0 <= start < end <= 1:
            raise InputError(f"a control's start and end must be 0 ≤ start < end ≤ 1, not {start:g} and {end:g}")
        scale, start, end = float(scale), float(start), float(end)
        said = {**said, "scale": scale, "start": start, "end": end}
        return cls(network, to_hint(image, network), scale, start, end, said)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latent that it guides."""
        factor = self.network.config.factor
        return self.hint.shape[2] // factor, self.hint.shape[3] // factor

    def check_size(self, h: int, w: int) -> None:
        """Raise `InputError` unless it guides pictures with latents of this size."""
        if self.latent_size != (h, w):
            factor, own = self.network.config.factor, f"{self.hint.shape[3]}×{self.hint.shape[2]}"
            raise InputError(f"control image: its size {own} must be that of the picture, {w * factor}×{h * factor}")

    def takes_part(self, call: int, calls: int) -> bool:
        """Whether it guides this call of the UNet, of so many of a run: one that lies in its time as a whole."""
        return call / calls >= self.start and (call + 1) / calls <= self.end

    def says(
        self, z: Array, t: np.number[Any] | float, context: Array, arrays: Mapping[str, Array]
    ) -> tuple[str, list[Array]]:
        """What is added in the UNet, and under which name it takes it: `(N, C, h, w), t, (N, L, D) -> [(N, C', …), …]`.

        `residuals` for its skips and its middle, of a ControlNet, which knows nothing of what stands behind the latent
        along the channels, such as a mask; or `features` for its way down, of an adapter.
        """
        if isinstance(self.network, T2IAdapter):
            return "features", self.features
        z, hint = z[:, : self.network.config.in_channels], np.concatenate([self.hint] * len(z))
        read = {name: value for name, value in arrays.items() if name != "guidance"}  # that one is the UNet's alone
        return "residuals", self.network(z, float(t), context, hint, self.scale, **read)

    @cached_property
    def features(self) -> list[Array]:
        """What a T2I-Adapter says of the picture, once for all calls: `[(1, C, h, w), …]`."""
        assert isinstance(self.network, T2IAdapter)
        return self.network(self.hint, self.scale)


class Guide:
    """What the controls of a run of so many calls of the UNet say to each of them, one after the other.

    `call` is the one that is made now, from 0; whoever takes the next of `counting` goes on to it.
    """

    def __init__(self, controls: Sequence[Control], calls: int) -> None:
        self.controls, self.calls, self.call = controls, calls, -1

    def counting(self, calls: Iterator[int]) -> Iterator[int]:
        """The same calls, counted, and more of them where they end early."""
        for call in range(self.calls):
            self.call = call
            yield next(calls, call)

    def __call__(
        self, z: Array, t: np.number[Any] | float, context: Array, arrays: Mapping[str, Array]
    ) -> dict[str, list[Array]]:
        """This call's further arguments, `residuals` and `features`: those of all that take part in it, added."""
        said: dict[str, list[Array]] = {}
        for control in self.controls:
            if control.takes_part(self.call, self.calls):
                name, levels = control.says(z, t, context, arrays)
                before = said.get(name, levels)
                said[name] = levels if before is levels else [a + b for a, b in zip(before, levels, strict=True)]
        return said


def check_fits(network: Reader, unet: Any, path: object) -> None:
    """Raise `CheckpointError` unless a network belongs to the kind of UNet that it is to guide."""
    if isinstance(network, T2IAdapter):
        check_adapter_fits(network, unet, path)
        return
    mine, its = network.config, unet.config
    latent = mine.in_channels if mine.in_channels == its.out_channels else its.in_channels  # a mask may stand behind it
    for what, own, wanted in (
        ("latent channels", mine.in_channels, latent),
        ("channels of the context", mine.context_dim, getattr(its, "context_dim", None)),
        ("skips", skip_widths(mine), skip_widths(its) if hasattr(its, "context_dim") else None),
    ):
        if own != wanted:
            raise CheckpointError(f"{path}: a ControlNet of a UNet with {what} {own}; this checkpoint's has {wanted}")


def check_adapter_fits(adapter: T2IAdapter, unet: Any, path: object) -> None:
    """Raise `CheckpointError` unless a UNet takes features of the channels and sizes that a T2I-Adapter gives."""
    gives = adapter.config.scales
    takes = taken_at(unet.config) if hasattr(unet.config, "context_dim") else []
    if gives not in (takes, takes[:-1]):
        own, wanted = (", ".join(f"{c} at 1/{scale}" for c, scale in each) or "none" for each in (gives, takes[:-1]))
        raise CheckpointError(f"{path}: a T2I-Adapter with channels {own}; this checkpoint's UNet takes {wanted}")


def to_hint(image: Image.Image | Array, network: Reader) -> Array:  # -> (1, C, H, W)
    """A picture as a network takes it: RGB or grey in [0, 1]; an array `(1, C, H, W)` is taken as it is.

    Raises `InputError` for another shape, values outside [0, 1], or a size that is no multiple of the network's.
    """
    channels, multiple = network.config.hint_channels, network.config.multiple
    if isinstance(image, Image.Image):
        levels = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.float32)
        image = np.moveaxis(levels.reshape(*levels.shape[:2], -1), -1, 0)[None] / 255
    hint = np.asarray(image, network.runtime.dtype)
    if hint.ndim != 4 or hint.shape[:2] != (1, channels) or 0 in hint.shape:
        raise InputError(f"control image: wanted a picture or an array (1, {channels}, H, W), not {hint.shape}")
    if hint.shape[2] % multiple or hint.shape[3] % multiple:
        raise InputError(
            f"control image: its size {hint.shape[3]}×{hint.shape[2]} must be a multiple of {multiple} pixels each way"
        )
    if not (np.isfinite(hint).all() and hint.min() >= 0 and hint.max() <= 1):
        raise InputError("control image: values of an array must be in [0, 1]")
    return hint
