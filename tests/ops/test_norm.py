"""`tinyldm.ops.group_norm` and `layer_norm` against Python's `statistics`, one group at a time."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.strategies import assert_close, dtypes, eps, few, fewer, normal, seeds, size

from tinyldm.errors import InputError
from tinyldm.ops import group_norm, layer_norm


def naive_standardise(values, eps):
    """A flat list to zero mean and unit (biased) variance; the sums are exact, so the order cannot matter."""
    values = [float(value) for value in values]
    mean, variance = statistics.fmean(values), statistics.pvariance(values)
    return np.array([(value - mean) / math.sqrt(variance + eps) for value in values])


def naive_group_norm(x, weight, bias, groups, eps):
    y, width = np.zeros(x.shape), x.shape[-1] // groups
    for n in range(x.shape[0]):
        for g in range(groups):
            channels = slice(g * width, (g + 1) * width)
            part = x[n, ..., channels]
            if part.size:
                y[n, ..., channels] = naive_standardise(part.ravel(), eps).reshape(part.shape)
    return y * weight.astype(float) + bias.astype(float)


@few
@given(seeds, dtypes, size(2), st.lists(size(4), min_size=0, max_size=3), size(3, 1), size(3, 1), eps)
def test_group_norm_is_the_naive_one(seed, dtype, n, pixels, groups, width, epsilon):
    channels = groups * width
    x = normal(seed, (n, *pixels, channels), dtype) * dtype(2) + dtype(0.5)
    weight, bias = normal(seed, (channels,), dtype), normal(seed + 1, (channels,), dtype)
    wanted = naive_group_norm(x, weight, bias, groups, epsilon)
    # a group of one value, or of equal values but for rounding, divides that rounding by sqrt(epsilon)
    assert_close(group_norm(x, weight, bias, groups, epsilon), wanted, dtype, slack=30)


@few
@given(seeds, dtypes, st.lists(size(3), min_size=0, max_size=2), size(6), eps)
def test_layer_norm_is_the_naive_one(seed, dtype, batch, channels, epsilon):
    x = normal(seed, (*batch, channels), dtype) * dtype(2) + dtype(0.5)
    weight, bias = normal(seed, (channels,), dtype), normal(seed + 1, (channels,), dtype)
    wanted = np.zeros(x.shape)
    for at in np.ndindex(x.shape[:-1]) if channels else ():
        wanted[at] = naive_standardise(x[at], epsilon) * weight.astype(float) + bias.astype(float)
    assert_close(layer_norm(x, weight, bias, epsilon), wanted, dtype, slack=30)


@fewer
@given(seeds, st.floats(-1e4, 1e4))
def test_a_large_mean_costs_no_more_than_its_own_rounding(seed, mean):
    """The variance is not E[x²] - E[x]², which would cancel."""
    x, one, zero = normal(seed, (1, 5, 5, 4), float), np.ones(4), np.zeros(4)
    shifted = group_norm(x + mean, one, zero, 2, 1e-5)
    np.testing.assert_allclose(shifted, group_norm(x, one, zero, 2, 1e-5), atol=1e-10)


@pytest.mark.parametrize("groups", [0, -1, 3, 8])
def test_group_norm_refuses_groups_that_do_not_divide(groups):
    with pytest.raises(InputError, match=f"into {groups} groups"):
        group_norm(np.zeros((1, 2, 2, 4)), np.ones(4), np.zeros(4), groups, 1e-5)


def test_norms_refuse_a_weight_of_another_size():
    with pytest.raises(InputError, match="has 4 channels"):
        group_norm(np.zeros((1, 2, 2, 4)), np.ones(2), np.zeros(2), 2, 1e-5)
    with pytest.raises(InputError, match="has 4 channels"):
        layer_norm(np.zeros((1, 2, 4)), np.ones(1), np.zeros(1), 1e-5)
