"""The activations of `tinyldm.ops` against Python's `math`, one value at a time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.strategies import DTYPES, assert_close, dtypes, few, fewer, normal, seeds, size
from scipy import special

from tinyldm.errors import InputError
from tinyldm.ops import geglu, gelu, quick_gelu, silu, softmax

NAIVE = {
    silu: lambda v: v / (1 + math.exp(-v)),
    gelu: lambda v: v * math.erfc(-v / math.sqrt(2)) / 2,
    quick_gelu: lambda v: v / (1 + math.exp(-1.702 * v)),
}
shapes = st.lists(size(4), min_size=0, max_size=3).map(tuple)


def each(function, x):
    return np.array([function(float(v)) for v in x.ravel()]).reshape(x.shape)


@pytest.mark.parametrize("activation", NAIVE, ids=lambda f: f.__name__)
@few
@given(seeds, dtypes, shapes, st.sampled_from([0.1, 1.0, 30.0]))
def test_activation_is_the_formula(activation, seed, dtype, shape, spread):
    x = np.asarray(normal(seed, shape, dtype) * dtype(spread))
    found = np.asarray(activation(x))
    assert_close(found, each(NAIVE[activation], x), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", NAIVE, ids=lambda f: f.__name__)
def test_far_values_neither_overflow_nor_turn_nan(activation, dtype):
    far = dtype(np.finfo(dtype).max / 2)
    np.testing.assert_array_equal(activation(np.array([-far, -1e4, 0, 1e4, far], dtype)), [0, 0, 0, 1e4, far])


@fewer
@given(seeds, dtypes, shapes, size(4))
def test_geglu_gates_the_first_half_by_the_second(seed, dtype, batch, channels):
    x = normal(seed, (*batch, 2 * channels), dtype)
    a, g = x[..., :channels].astype(float), x[..., channels:]
    assert_close(geglu(x), a * each(NAIVE[gelu], g), dtype)


def test_geglu_refuses_an_odd_axis():
    with pytest.raises(InputError, match="must be even, not 3"):
        geglu(np.zeros((2, 3)))


@few
@given(
    seeds, dtypes, st.lists(size(4), min_size=1, max_size=3).map(tuple), st.integers(0, 2), st.sampled_from([1, 100])
)
def test_softmax_is_scipys(seed, dtype, shape, axis, spread):
    axis = axis % len(shape) - (axis % 2) * len(shape)
    x = normal(seed, shape, dtype) * dtype(spread)
    wanted = special.softmax(x.astype(float), axis=axis) if x.size else np.zeros(shape)
    assert_close(softmax(x, axis), wanted, dtype)


@fewer
@given(seeds, size(6, 1), st.data())
def test_softmax_leaves_out_what_is_masked(seed, length, data):
    x = normal(seed, (length,), float).copy()
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=length, max_size=length).filter(any)))
    x[~keep] = -np.inf
    wanted = np.zeros(length)
    wanted[keep] = special.softmax(x[keep])
    assert_close(softmax(x), wanted, float)
