"""`tinyldm.ops.linear` against sums of single products."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.strategies import assert_close, dtypes, few, normal, seeds, size

from tinyldm.errors import InputError
from tinyldm.ops import linear


def naive_linear(x, weight, bias=None):
    y = np.zeros((*x.shape[:-1], len(weight)))
    for *at, o in np.ndindex(y.shape):
        y[(*at, o)] = sum(float(a) * float(b) for a, b in zip(x[tuple(at)], weight[o], strict=True))
        y[(*at, o)] += 0.0 if bias is None else float(bias[o])
    return y


@few
@given(seeds, dtypes, st.lists(size(3), min_size=0, max_size=3), size(5), size(5), st.booleans())
def test_linear_is_the_naive_sum(seed, dtype, batch, c_in, c_out, biased):
    x, weight = normal(seed, (*batch, c_in), dtype), normal(seed, (c_out, c_in), dtype)
    bias = normal(seed, (c_out,), dtype) if biased else None
    assert_close(linear(x, weight, bias), naive_linear(x, weight, bias), dtype)


def test_linear_refuses_other_channels():
    with pytest.raises(InputError, match=r"x has no channels, the weight of shape \(2, 4\) takes 4"):
        linear(np.zeros(()), np.zeros((2, 4)))
    with pytest.raises(InputError, match="x has 3 channels"):
        linear(np.zeros((2, 3)), np.zeros((3, 2)))


def test_linear_takes_a_1x1_convolution_as_the_matrix_that_it_is():
    x, weight = normal(0, (2, 5, 3), np.float64), normal(1, (4, 3), np.float64)
    np.testing.assert_array_equal(linear(x, weight[:, :, None, None]), linear(x, weight))
    with pytest.raises(InputError, match="1×1 convolution, not"):
        linear(x, np.zeros((4, 3, 3, 3)))
