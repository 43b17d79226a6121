"""The latent on its way from the UNet to the decoder, changed: scaled, shifted, made noisy, its channels exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyldm.diffusion.random import torch_randn
from tinyldm.server.refusals import Refusal
from tinyldm.typing import Array

NOTHING = "-"  # in the place of a channel's number: zeros


@dataclass(frozen=True)
class Changes:
    """What is done to a latent: its channels first, then scale, shift and noise.

    `channels` has for each channel the number of the one that comes there, or None for zeros; None is as they are. The
    other three are done to the channel `only`, or where that is None to all.
    """

    scale: float = 1.0
    shift: float = 0.0
    noise: float = 0.0
    only: int | None = None
    channels: tuple[int | None, ...] | None = None


def changed(z: Array, changes: Changes, seed: int = 0) -> Array:  # (C, h, w) -> (C, h, w)
    """The latent changed; the noise is normal, of the deviation `changes.noise`, drawn from a seed."""
    z = z.copy() if changes.channels is None else exchanged(z, changes.channels)
    rows = slice(None) if changes.only is None else slice(changes.only, changes.only + 1)
    z[rows] = changes.scale * z[rows] + changes.shift
    if changes.noise:
        z[rows] += changes.noise * torch_randn(z.shape, seed=seed)[rows].astype(z.dtype)
    return z


def exchanged(z: Array, channels: Sequence[int | None]) -> Array:  # (C, h, w) -> (C, h, w)
    """The channels of a latent in another order; None is zeros."""
    moved = z[[0 if k is None else k for k in channels]]
    moved[[k is None for k in channels]] = 0
    return moved


def read_channels(text: str, count: int) -> tuple[int | None, ...] | None:
    """The channels of a text such as `1 0 2 -`; None where all are as they are. Raises `Refusal` for another text."""
    words = text.split()
    known = {NOTHING: None} | {str(k): k for k in range(count)}
    if words and (len(words) != count or not set(words) <= set(known)):
        raise Refusal(f"channels must be {count} numbers from 0 to {count - 1}, or {NOTHING}, not {text!r}", "channels")
    read = tuple(known[word] for word in words)
    return None if read in ((), tuple(range(count))) else read
