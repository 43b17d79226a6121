"""Blockwise attention against the NumPy operator in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm import kernels, ops
from tinyldm.errors import InputError


def data(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def close(y, reference, tolerance=3e-6):
    assert y.dtype == np.float32
    assert y.shape == reference.shape
    np.testing.assert_allclose(y, reference, rtol=0, atol=tolerance)


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 2),
    st.integers(0, 150),
    st.integers(1, 600),
    st.integers(1, 3),
    st.integers(1, 50),
    st.integers(1, 50),
    st.sampled_from([None, 0.3]),
)
def test_attention(n, queries, keys, heads, d, d_v, scale):
    q, k, v = data(keys, (n, queries, heads * d), (n, keys, heads * d), (n, keys, heads * d_v))
    y = kernels.attention(q, k, v, heads, scale=scale)
    close(y, ops.attention(*(a.astype(float) for a in (q, k, v)), heads, scale=scale))


MASKS = [(70, 70), (1, 70, 70), (2, 1, 70, 70), (1, 3, 70, 70), (2, 3, 70, 70), (2, 1, 1, 70)]


@pytest.mark.parametrize("shape", MASKS)
def test_masks(shape):
    q, k, v, mask = data(0, (2, 70, 30), (2, 70, 30), (2, 70, 30), shape)
    mask[..., -1] = -np.inf
    exact = [a.astype(float) for a in (q, k, v)]
    close(kernels.attention(q, k, v, 3, mask), ops.attention(*exact, 3, mask.astype(float)))


@pytest.mark.parametrize("length", [1, 77, 300])
def test_causal(length):
    q, k, v = data(0, *[(1, length, 24)] * 3)
    mask = ops.causal_mask(length)
    close(kernels.attention(q, k, v, 2, mask), ops.attention(*(a.astype(float) for a in (q, k, v)), 2, mask))


@pytest.mark.parametrize("value", [1e-40, 30.0, -1e4])
def test_extreme_inputs(value):
    q, k, v = data(0, *[(1, 300, 16)] * 3)
    q[:] = value
    exact = [a.astype(float) for a in (q, k, v)]
    # Scores of size 1e4 carry a rounding of 1e-3 themselves.
    close(kernels.attention(q, k, v, 1), ops.attention(*exact, 1), 3e-6 + 1e-6 * abs(value))


def test_the_largest_of_huge_scores():
    q, k, v = data(0, *[(1, 300, 16)] * 3)
    k *= np.float32(1e12)
    np.testing.assert_array_equal(kernels.attention(q, k, v, 1), v[:, (q @ k[0].T).argmax(-1)[0]])


def test_misfits():
    q, k = data(0, (1, 4, 6), (1, 5, 6))
    with pytest.raises(InputError, match="heads"):
        kernels.attention(q, k, k, 4)
    with pytest.raises(InputError, match="fit together"):
        kernels.attention(q, k, k[:, :2], 1)
