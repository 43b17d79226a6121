"""`tinyldm.ops.upsample_nearest` and `avg_pool2d` against loops over pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.strategies import assert_close, dtypes, few, normal, seeds, size

from tinyldm.errors import InputError
from tinyldm.ops import avg_pool2d, upsample_nearest


@few
@given(seeds, dtypes, size(2), size(4), size(4), size(2))
def test_upsample_nearest_doubles(seed, dtype, n, height, width, channels):
    x = normal(seed, (n, height, width, channels), dtype)
    assert_close(upsample_nearest(x), np.repeat(np.repeat(x.astype(float), 2, axis=1), 2, axis=2), dtype)


@few
@given(seeds, dtypes, size(5, 1), size(5, 1), st.tuples(size(11, 1), size(11, 1)))
def test_upsample_nearest_takes_the_pixel_at_the_same_fraction(seed, dtype, height, width, target):
    x = normal(seed, (1, height, width, 2), dtype)
    wanted = np.zeros((1, *target, 2))
    for i, j in np.ndindex(*target):
        wanted[0, i, j] = x[0, (i * height) // target[0], (j * width) // target[1]]
    assert_close(upsample_nearest(x, target), wanted, dtype)


@few
@given(seeds, dtypes, size(2), size(6), size(6), size(2), size(3, 1))
def test_avg_pool2d_is_the_mean_of_windows(seed, dtype, n, height, width, channels, kernel):
    x = normal(seed, (n, height, width, channels), dtype)
    wanted = np.zeros((n, height // kernel, width // kernel, channels))
    for b, i, j, c in np.ndindex(wanted.shape):
        window = [float(x[b, i * kernel + u, j * kernel + v, c]) for u, v in np.ndindex(kernel, kernel)]
        wanted[b, i, j, c] = sum(window) / kernel**2
    assert_close(avg_pool2d(x, kernel), wanted, dtype)


def test_resampling_refuses():
    with pytest.raises(InputError, match="must be positive"):
        upsample_nearest(np.zeros((1, 2, 2, 1)), (0, 4))
    with pytest.raises(InputError, match="no pixels"):
        upsample_nearest(np.zeros((1, 0, 2, 1)), (2, 4))
    with pytest.raises(InputError, match="must be positive"):
        avg_pool2d(np.zeros((1, 2, 2, 1)), 0)
