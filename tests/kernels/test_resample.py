"""Resampling and embeddings against the NumPy operators."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm import kernels, ops
from tinyldm.errors import InputError

size = st.integers(1, 9)


@settings(deadline=None, max_examples=15)
@given(size, size, st.one_of(st.none(), st.tuples(size, size)))
def test_upsample_nearest(height, width, to):
    x = np.random.default_rng(0).standard_normal((2, height, width, 3)).astype(np.float32)
    np.testing.assert_array_equal(kernels.upsample_nearest(x, to), ops.upsample_nearest(x, to))


@settings(deadline=None, max_examples=15)
@given(size, size, st.integers(1, 3))
def test_avg_pool2d(height, width, kernel):
    x = np.random.default_rng(0).standard_normal((2, height, width, 3)).astype(np.float32)
    y = kernels.avg_pool2d(x, kernel)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, ops.avg_pool2d(x.astype(float), kernel), atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("dim", [7, 320])
def test_timestep_embedding(flip, dim):
    t = np.array([0, 1, 500.5, 999])
    y = kernels.timestep_embedding(t, dim, flip_sin_to_cos=flip, freq_shift=1)
    np.testing.assert_array_equal(y, ops.timestep_embedding(t, dim, flip_sin_to_cos=flip, freq_shift=1))


def test_embedding():
    table = np.arange(12, dtype=np.float16).reshape(4, 3)
    y = kernels.embedding(np.array([[3, 0]]), table)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, table[[[3, 0]]])
    with pytest.raises(InputError, match="fit"):
        kernels.embedding(np.array([4]), table)
