"""Activations against SciPy in float64, relative to the value itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm import kernels, ops
from tinyldm.errors import InputError

NAMES = ("silu", "gelu", "quick_gelu")


@pytest.mark.parametrize("name", NAMES)
def test_over_the_whole_range(name):
    x = np.concatenate([np.linspace(-12, 100, 4001), [0.0, -0.0, 1e-40, -1e-40, 1e4]]).astype(np.float32)
    y = getattr(kernels, name)(x)
    np.testing.assert_allclose(y, getattr(ops, name)(x.astype(float)), rtol=2e-6, atol=1e-38)


@pytest.mark.parametrize("name", NAMES)
def test_far_below_zero(name):
    y = getattr(kernels, name)(np.array([-50, -1e4, -3e38], np.float32))
    np.testing.assert_allclose(y, 0, atol=3)
    assert np.all(np.abs(y[:2]) < 1e-15)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 5), st.integers(1, 70), st.integers(0, 99))
def test_shapes(rows, channels, seed):
    x = np.random.default_rng(seed).standard_normal((2, rows, 2 * channels)).astype(np.float32)
    for name in (*NAMES, "geglu", "softmax"):
        y = getattr(kernels, name)(x)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, getattr(ops, name)(x.astype(float)), rtol=3e-6, atol=1e-7)


def test_softmax_over_any_axis():
    x = np.random.default_rng(0).standard_normal((3, 5, 7)).astype(np.float32) * 20
    for axis in range(3):
        np.testing.assert_allclose(kernels.softmax(x, axis), ops.softmax(x.astype(float), axis), rtol=1e-5, atol=1e-9)


def test_misfits():
    with pytest.raises(InputError, match="even"):
        kernels.geglu(np.zeros((2, 3), np.float32))
    with pytest.raises(InputError, match="float32"):
        kernels.silu(np.zeros(3))
