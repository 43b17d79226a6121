"""Normalisation against the NumPy operators in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm import kernels, ops
from tinyldm.errors import InputError


def data(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def close(y, reference, tolerance=2e-6):
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, reference, rtol=tolerance, atol=tolerance)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 8))
def test_group_norm(n, height, width, per_group, groups):
    channels = per_group * groups
    x, w, b = data(height, (n, height, width, channels), channels, channels)
    x = 3 * x + 1
    exact = [a.astype(float) for a in (x, w, b)]
    tolerance = 2e-6 if height * width * per_group > 4 else 2e-3  # a few values may lie close together
    close(kernels.group_norm(x, w, b, groups, 1e-5), ops.group_norm(*exact, groups, 1e-5), tolerance)
    close(kernels.norm_silu(x, w, b, groups, 1e-5), ops.norm_silu(*exact, groups, 1e-5), tolerance)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 200), st.integers(4, 300))
def test_layer_norm(tokens, channels):
    x, w, b = data(tokens, (2, tokens, channels), channels, channels)
    y = kernels.layer_norm(x, w, b, 1e-5)
    close(y, ops.layer_norm(*[a.astype(float) for a in (x, w, b)], 1e-5), 5e-6)


@pytest.mark.parametrize("value", [0.0, 1e-40, 1e4, -1e4])
def test_constant_inputs_give_the_bias(value):
    x = np.full((1, 7, 5, 16), value, np.float32)
    w, b = data(0, 16, 16)
    bias = np.broadcast_to(b, x.shape)
    tolerance = 1e-6 * abs(value) * 316 + 1e-6  # 316 = 1/sqrt(eps) is what roundings are multiplied by
    np.testing.assert_allclose(kernels.group_norm(x, w, b, 4, 1e-5), bias, atol=tolerance)
    np.testing.assert_allclose(kernels.layer_norm(x, w, b, 1e-5), bias, atol=tolerance)


def test_misfits():
    x, w = data(0, (1, 4, 4, 6), 6)
    with pytest.raises(InputError, match="groups"):
        kernels.group_norm(x, w, w, 4, 1e-5)
    with pytest.raises(InputError, match="weight"):
        kernels.layer_norm(x, w[:3], w[:3], 1e-5)
