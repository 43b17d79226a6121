"""`tinyldm.ops.attention` against one query, one head, one key at a time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.strategies import assert_close, dtypes, few, fewer, normal, seeds, size

from tinyldm.errors import InputError
from tinyldm.ops import attention, causal_mask


def naive_attention(q, k, v, heads, mask, scale):
    """`mask` has the full shape (N, heads, L_q, L_k); a query without keys gets zeros."""
    q, k, v = (array.astype(float) for array in (q, k, v))
    d, d_v = q.shape[2] // heads, v.shape[2] // heads
    y = np.zeros((*q.shape[:2], v.shape[2]))
    for n, h, i in np.ndindex(q.shape[0], heads, q.shape[1]):
        seen = [j for j in range(k.shape[1]) if mask[n, h, i, j] > -np.inf]
        query = q[n, i, h * d : (h + 1) * d]
        scores = [scale * math.fsum(query * k[n, j, h * d : (h + 1) * d]) + mask[n, h, i, j] for j in seen]
        weights = [math.exp(score - max(scores)) for score in scores]
        for j, weight in zip(seen, weights, strict=True):
            y[n, i, h * d_v : (h + 1) * d_v] += weight / math.fsum(weights) * v[n, j, h * d_v : (h + 1) * d_v]
    return y


@few
@given(seeds, dtypes, size(2), size(4), size(4), size(3, 1), size(3, 1), size(3), st.sampled_from([None, 1.0, 0.3]))
def test_attention_is_the_naive_one(seed, dtype, n, queries, keys, heads, d, d_v, scale):
    q, k = normal(seed, (n, queries, heads * d), dtype), normal(seed + 1, (n, keys, heads * d), dtype)
    v = normal(seed, (n, keys, heads * d_v), dtype)
    wanted = naive_attention(q, k, v, heads, np.zeros((n, heads, queries, keys)), scale or 1 / math.sqrt(d))
    assert_close(attention(q, k, v, heads, scale=scale), wanted, dtype, slack=2)


@few
@given(seeds, dtypes, st.data())
def test_a_mask_broadcasts_and_hides(seed, dtype, data):
    n, heads, queries, keys = (data.draw(size(3, 1)) for _ in range(4))
    q, k = normal(seed, (n, queries, 2 * heads), dtype), normal(seed + 1, (n, keys, 2 * heads), dtype)
    v = normal(seed, (n, keys, heads), dtype)
    full = (n, heads, queries, keys)
    shape = tuple(axis if data.draw(st.booleans()) else 1 for axis in full)[data.draw(st.integers(0, 3)) :]
    rng = np.random.default_rng(seed)
    mask = np.where(rng.random(shape) < 0.4, -np.inf, rng.standard_normal(shape)).astype(dtype)
    mask[..., :1] = 0  # every query sees at least the first key
    wanted = naive_attention(q, k, v, heads, np.broadcast_to(mask, full).astype(float), 1 / math.sqrt(2))
    assert_close(attention(q, k, v, heads, mask), wanted, dtype, slack=2)


@fewer
@given(seeds, size(6, 1))
def test_under_the_causal_mask_the_future_changes_nothing(seed, length):
    x = normal(seed, (1, length, 4), float)
    y = attention(x, x, x, 2, causal_mask(length, np.float64))
    for i in range(length):
        part = x[:, : i + 1]
        np.testing.assert_allclose(y[:, i], attention(part[:, -1:], part, part, 2)[:, 0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("length", [0, 1, 5])
def test_causal_mask(length, dtype):
    mask = causal_mask(length, dtype)
    assert (mask.dtype, mask.shape) == (dtype, (length, length))
    for i, j in np.ndindex(length, length):
        assert mask[i, j] == (0 if j <= i else -np.inf)


@pytest.mark.parametrize(
    ("q", "k", "v", "heads", "message"),
    [
        ((1, 2, 4), (1, 2, 4), (1, 2, 4), 3, "3 heads do not divide"),
        ((1, 2, 4), (1, 2, 4), (1, 2, 3), 2, "2 heads do not divide"),
        ((1, 2, 4), (1, 2, 4), (1, 2, 4), 0, "0 heads do not divide"),
        ((1, 2, 4), (1, 2, 6), (1, 2, 4), 2, "do not fit together"),
        ((2, 2, 4), (1, 2, 4), (1, 2, 4), 2, "do not fit together"),
        ((1, 2, 4), (1, 2, 4), (1, 3, 4), 2, "do not fit together"),
    ],
)
def test_attention_refuses(q, k, v, heads, message):
    with pytest.raises(InputError, match=message):
        attention(np.zeros(q), np.zeros(k), np.zeros(v), heads)
