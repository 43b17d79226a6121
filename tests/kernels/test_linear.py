"""Linear layers and their composites against the NumPy operators in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm import kernels, ops
from tinyldm.errors import InputError

sizes = st.integers(1, 70)


def close(y, reference, scale):
    """Within a few roundings of the largest sum of magnitudes."""
    assert y.dtype == np.float32
    assert y.shape == reference.shape
    np.testing.assert_allclose(y, reference, rtol=0, atol=4e-6 * scale + 1e-30)


def data(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 300), st.integers(1, 600), sizes, st.booleans(), st.booleans())
def test_linear(tokens, c_in, c_out, with_bias, prepared):
    x, w, b = data(tokens, (tokens, c_in), (c_out, c_in), (c_out,))
    bias = b if with_bias else None
    y = kernels.linear(x, kernels.prepare_linear(w) if prepared else w, bias)
    close(y, ops.linear(x.astype(float), w.astype(float), None if bias is None else bias.astype(float)), c_in**0.5)


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 40), st.integers(1, 300), sizes)
def test_composites(tokens, c_in, c_out):
    x, w, b, r = data(tokens, (2, tokens, c_in), (2 * c_out, c_in), (2 * c_out,), (2, tokens, 2 * c_out))
    w /= np.float32(c_in**0.5)
    exact = [a.astype(float) for a in (x, w, b, r)]
    close(kernels.linear_geglu(x, w, b), ops.linear_geglu(*exact[:3]), 10)
    close(kernels.linear_geglu(x, kernels.prepare_linear(w, gated=True)), ops.linear_geglu(*exact[:2]), 10)
    close(kernels.linear_residual(x, w, b, r), ops.linear_residual(*exact), 4)
    for activation in ("silu", "gelu", "quick_gelu"):
        y = kernels.linear_activation(x, w, b, activation)
        close(y, ops.linear_activation(*exact[:3], activation), 4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_weights_of_any_float_dtype(dtype):
    x, w = data(0, (5, 33), (19, 33))
    w = w.astype(dtype)
    w.setflags(write=False)
    close(kernels.linear(x, w), ops.linear(x.astype(float), w.astype(float)), 6)


@pytest.mark.parametrize("value", [1e-40, 1e4, -1e4, 0.0])
def test_extreme_inputs(value):
    _, w, b = data(0, (1,), (50, 700), (50,))
    x = np.full((13, 700), value, np.float32)
    close(kernels.linear(x, w, b), ops.linear(x.astype(float), w.astype(float), b.astype(float)), 30 * abs(value) + 1)


def test_misfits():
    x, w = data(0, (3, 5), (4, 5))
    with pytest.raises(InputError, match="takes 5"):
        kernels.linear(x[:, :4], w)
    with pytest.raises(InputError, match="float32"):
        kernels.linear(x.astype(float), w)
    with pytest.raises(InputError, match="gated"):
        kernels.linear_geglu(x, kernels.prepare_linear(w))
    with pytest.raises(InputError, match="unknown activation"):
        kernels.linear_activation(x, w, None, "tanh")
    with pytest.raises(InputError, match="residual"):
        kernels.linear_residual(x, w, None, x)
