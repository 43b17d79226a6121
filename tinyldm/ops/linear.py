"""The linear layer: a matrix product over the last axis."""

from __future__ import annotations

import numpy as np

from tinyldm.errors import InputError
from tinyldm.ops.shapes import channels_of


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    r"""$y = x W^{\mathsf T} + b$ over the last axis: `(…, C_in) -> (…, C_out)`.

    `weight` is `(C_out, C_in)`, or a 1×1 convolution's `(C_out, C_in, 1, 1)`, which is the same matrix; `bias` is
    `(C_out,)`. Raises `InputError` for another weight, or where the channels do not agree.
    """
    if weight.shape[2:] not in ((), (1, 1)):
        raise InputError(f"linear: the weight is (C_out, C_in), or that of a 1×1 convolution, not {weight.shape}")
    channels = channels_of("linear", x)
    if channels != weight.shape[1]:
        raise InputError(
            f"linear: x has {channels} channels, the weight of shape {weight.shape} takes {weight.shape[1]}"
        )
    y: np.ndarray = x @ weight.reshape(weight.shape[:2]).T
    return y if bias is None else y + bias
