"""The linear layer: a matrix product over the last axis."""

from __future__ import annotations

import numpy as np

from tinyldm.errors import InputError
from tinyldm.ops.shapes import channels_of


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    r"""$y = x W^{\mathsf T} + b$ over the last axis: `(…, C_in) -> (…, C_out)`.

    `weight` is `(C_out, C_in)`, `bias` is `(C_out,)`. Raises `InputError` where the channels do not agree.
    """
    channels = channels_of("linear", x)
    if channels != weight.shape[1]:
        raise InputError(
            f"linear: x has {channels} channels, the weight of shape {weight.shape} takes {weight.shape[1]}"
        )
    y: np.ndarray = x @ weight.T
    return y if bias is None else y + bias
