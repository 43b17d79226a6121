"""Variations of a picture, and the way from one picture to another: prompts and noises between those of two.

Contexts are mixed along a straight line, noises along the arc between them (`diffusion.slerp`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinyldm.diffusion.random import check_seed
from tinyldm.errors import InputError
from tinyldm.pipelines.conditioners import Conditioning
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.request import Request, request
from tinyldm.pipelines.walk import condition_of
from tinyldm.typing import Array


def between(parts: Parts, prompts: Sequence[str | None], frames: int, to_seed: int | None, **settings: Any) -> Request:
    """The request for a way through `prompts`, from the noise of `seed` to that of `to_seed`, in `frames` pictures.

    The first is the picture of the first prompt and `seed`, the last that of the last prompt and `to_seed`, but for
    what a sampler draws on the way, which is the same in all. Prompts are as far from each other as the next.
    `settings` are arguments of `request`. Raises `InputError` where there is no way, and for what the model can't
    honour.
    """
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < max(2, len(prompts)):
        raise InputError(f"frames must be {max(2, len(prompts))} or more, one for each prompt at least, not {frames!r}")
    if len(prompts) < 2 and to_seed is None:
        raise InputError("interpolation wants two prompts at least, or a second seed")
    whole = request(list(prompts), **settings).resolved(parts)
    if whole.variation_strength:
        raise InputError("variation_strength: pictures on a way between seeds are no variations of one")
    places = np.linspace(0, 1, frames)
    steps = places * (len(prompts) - 1)
    shares = np.clip(1 - np.abs(steps[:, None] - np.arange(len(prompts))), 0, 1)  # (frames, prompts): a mix of two
    nearest = [int(k) for k in shares.argmax(axis=1)]
    return replace(
        whole,
        prompts=tuple(whole.prompts[k] for k in nearest),
        negative_prompts=tuple(whole.negative_prompts[k] for k in nearest),
        seeds=(whole.seeds[0],) * frames,
        conditions=mixed(condition_of(parts, whole, range(len(prompts))), shares),
        way=None if to_seed is None else (check_seed(to_seed), tuple(float(place) for place in places)),
    )


def mixed(condition: Conditioning, shares: Array) -> Conditioning:
    """The conditions of pictures each of which is a mix of those of others: `shares` `(pictures, others)`."""
    condition.check_fixed("an interpolation")

    def rows(array: Array) -> Array:
        halves = np.split(array, 2) if condition.guided else [array]
        return np.concatenate([np.tensordot(shares, half, axes=1).astype(array.dtype, copy=False) for half in halves])

    return condition.each(rows)
