"""The transposition that attention reads and writes by, through a kernel of its own, against NumPy's."""

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm import kernels, ops
from tinyldm.kernels.pool import run

attention = importlib.import_module("tinyldm.kernels.attention")


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), st.integers(1, 70), st.integers(1, 3), st.integers(1, 50), st.integers(0, 9))
def test_values_are_transposed(n, keys, heads, d, gap):
    wide = np.random.default_rng(keys).standard_normal((n, keys, heads * d + gap)).astype(np.float32)
    v = wide[..., : heads * d]
    rows = np.full((n * heads, d, keys + 3), np.nan, np.float32)
    run(attention.KERNELS[False][0], n * heads, 0, 16, v, wide.strides[1], heads, rows)
    wanted = v.reshape(n, keys, heads, d).transpose(0, 2, 3, 1).reshape(n * heads, d, keys)
    np.testing.assert_array_equal(rows[..., :keys], wanted)
    assert np.isnan(rows[..., keys:]).all()  # not a value more is written


@pytest.mark.parametrize("queries", [100, 300])  # whose values are transposed by each unit, and once for all
def test_slices_of_one_array(queries):
    qkv = np.random.default_rng(0).standard_normal((2, queries, 3 * 96)).astype(np.float32)
    q, k, v = np.split(qkv, 3, axis=-1)
    y = kernels.attention(q, k, v, 2)
    np.testing.assert_array_equal(y, kernels.attention(q.copy(), k.copy(), v.copy(), 2))
    np.testing.assert_allclose(y, ops.attention(*(a.astype(float) for a in (q, k, v)), 2), rtol=0, atol=3e-6)


def test_one_row_of_a_mask_for_all_queries_takes_no_more_memory():
    mask = np.where(np.arange(5000) % 7, 0, -np.inf).astype(np.float32)[None, None, None]
    columns, _, _ = attention._mask_columns(mask, (1, 2, 5000, 5000))
    assert columns.size <= 5000 * 64
    q, k = np.random.default_rng(0).standard_normal((2, 1, 200, 64)).astype(np.float32)
    few = mask[..., :200]
    exact = ops.attention(q.astype(float), k.astype(float), k.astype(float), 2, few.astype(float))
    np.testing.assert_allclose(kernels.attention(q, k, k, 2, few), exact, rtol=0, atol=3e-6)
