"""What arrays every operator takes: any strides, read-only; and numbers that are none come out again, never hidden."""

from __future__ import annotations

import re

import numpy as np
import pytest
from golden.kernels.cases import CASES, arrays, call, prepared

from tinyldm import kernels, ops
from tinyldm.errors import InputError


def every_second(a):
    """The same values, with a gap behind each, read-only."""
    wide = np.repeat(a, 2, axis=-1)
    wide[..., 1::2] = np.nan
    wide.flags.writeable = False
    return wide[..., ::2]


def backwards(a):
    """The same values, the last one first in memory."""
    return np.ascontiguousarray(np.flip(a))[(slice(None, None, -1),) * a.ndim]


def axes_reversed(a):
    """The same values, in Fortran's order."""
    return np.asfortranarray(a)


@pytest.mark.parametrize("view", [every_second, backwards, axes_reversed])
@pytest.mark.parametrize("case", CASES)
def test_strides(case, view):
    inputs = arrays(case)
    views = [view(a) for a in inputs]
    for a, b in zip(inputs, views, strict=True):
        np.testing.assert_array_equal(a, b)
    before = [a.tobytes() for a in views]
    for precision in ("fast", "strict"):
        wanted = call(kernels, case, prepared(case, inputs, precision))
        assert call(kernels, case, prepared(case, views, precision)).tobytes() == wanted.tobytes()
    assert [a.tobytes() for a in views] == before


@pytest.mark.parametrize("shape", [(3, 1, 1, 64), (3, 1, 64), (1, 1, 64)])
def test_strides_of_axes_of_one_element_say_nothing(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    odd = np.lib.stride_tricks.as_strided(x, strides=(256, *[12_345] * (x.ndim - 2), 4))
    assert odd.flags.c_contiguous
    weight = np.random.default_rng(1).standard_normal((32, 64, 3, 3)).astype(np.float32)
    if x.ndim == 4:
        np.testing.assert_array_equal(kernels.conv2d(odd, weight, padding=1), kernels.conv2d(x, weight, padding=1))
    else:
        np.testing.assert_array_equal(kernels.attention(odd, odd, odd, 2), kernels.attention(x, x, x, 2))
    matrix = weight[:, :, 1, 1]
    np.testing.assert_array_equal(kernels.linear(odd, matrix), kernels.linear(x, matrix))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["fast", "strict"])
def test_what_is_no_number_is_not_hidden(case, precision, value):
    """Wherever the math has no finite result, the kernel has none: a model that overflows must be seen to."""
    _, shapes, _ = CASES[case]
    for i, name in enumerate(shapes):
        if "." in name:  # a weight
            continue
        inputs = arrays(case)
        inputs[i].reshape(-1)[inputs[i].size // 3] = value
        with np.errstate(all="ignore"):
            wanted = call(ops, case, [a.astype(np.float64) for a in inputs])
            found = call(kernels, case, prepared(case, inputs, precision))
        assert not np.isfinite(found[~np.isfinite(wanted)]).any()


@pytest.mark.parametrize("module", [ops, kernels])
@pytest.mark.parametrize("short", ["weight", "bias"])
def test_a_norm_s_parameters_are_one_number_a_channel(module, short):
    """A kernel would read on beyond the end of a shorter array."""
    x, whole = np.ones((2, 3, 3, 32), np.float32), np.ones(32, np.float32)
    for size in (1, 16, 33):
        given = {"weight": whole, "bias": whole, short: np.ones(size, np.float32)}
        with pytest.raises(InputError, match=f"the {short} has the shape"):
            module.layer_norm(x, **given, eps=1e-5)
        for operator in (module.group_norm, module.norm_silu):
            with pytest.raises(InputError, match=f"the {short} has the shape"):
                operator(x, **given, groups=4, eps=1e-5)


def test_ids_are_whole_numbers():
    with pytest.raises(InputError, match="integer"):
        kernels.embedding(np.array([0.5]), np.ones((3, 2), np.float16))


def array(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


X, FILTERS, GAIN = array(4, 8, 8, 32), array(32, 32, 3, 3), array(32)
MISFITS = {
    "the shift has shape (2, 32)": lambda: kernels.norm_silu_conv2d(
        X, GAIN, GAIN, 4, 1e-5, FILTERS, None, shift=array(2, 32)
    ),
    "the shift has shape (4, 16)": lambda: kernels.norm_silu_conv2d(
        X, GAIN, GAIN, 4, 1e-5, FILTERS, None, shift=array(4, 16)
    ),
    "the bias has shape (1,)": lambda: kernels.conv2d(X, FILTERS, array(1), padding=1),
    "the bias has shape (16,)": lambda: kernels.conv2d(X, FILTERS, array(16), padding=1),
    "the bias has shape (31,)": lambda: kernels.linear(X, FILTERS[:, :, 0, 0], array(31)),
    "a mask of shape (2, 1, 5, 5)": lambda: kernels.attention(*[array(3, 5, 8)] * 3, 2, array(2, 1, 5, 5)),
    "a mask of shape (3, 2, 5, 5)": lambda: kernels.attention(*[array(3, 5, 8)] * 3, 4, array(3, 2, 5, 5)),
    "a mask of shape (5, 6)": lambda: kernels.attention(*[array(3, 5, 8)] * 3, 4, array(5, 6)),
    "no two halves": lambda: kernels.linear_geglu(X, array(15, 32)),
    "a linear layer's weight": lambda: kernels.linear(X, FILTERS),
}


@pytest.mark.parametrize("message", MISFITS)
def test_what_does_not_fit_is_refused(message):
    """A kernel computes addresses from shapes: it would read past the end of such an array."""
    with pytest.raises(InputError, match=re.escape(message)):
        MISFITS[message]()
