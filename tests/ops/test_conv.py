"""`tinyldm.ops.conv2d` against seven nested loops and against SciPy's correlation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.strategies import assert_close, dtypes, few, fewer, normal, seeds, size
from scipy import signal

from tinyldm.errors import InputError
from tinyldm.ops import conv2d

sides = st.tuples(*[st.integers(0, 2)] * 4)


def naive_conv2d(x, weight, bias, stride, padding):
    """The equation of the docstring, index by index; pixels outside the image are skipped, nothing is padded."""
    top, bottom, left, right = padding
    n, height, width, c_in = x.shape
    c_out, _, k_h, k_w = weight.shape
    out_h = (height + top + bottom - k_h) // stride + 1
    out_w = (width + left + right - k_w) // stride + 1
    y = np.zeros((n, out_h, out_w, c_out))
    for b, i, j, o in np.ndindex(y.shape):
        total = 0.0 if bias is None else float(bias[o])
        for u, v, c in np.ndindex(k_h, k_w, c_in):
            row, column = i * stride + u - top, j * stride + v - left
            if 0 <= row < height and 0 <= column < width:
                total += float(x[b, row, column, c]) * float(weight[o, c, u, v])
        y[b, i, j, o] = total
    return y


@few
@given(seeds, dtypes, size(2), size(4, 1), size(4, 1), size(3), size(3), size(3, 1), size(3, 1), size(3, 1), sides)
def test_conv2d_is_the_naive_loop(seed, dtype, n, height, width, c_in, c_out, k_h, k_w, stride, padding):
    height, width = max(height, k_h - padding[0] - padding[1]), max(width, k_w - padding[2] - padding[3])
    x, weight = normal(seed, (n, height, width, c_in), dtype), normal(seed, (c_out, c_in, k_h, k_w), dtype)
    bias = normal(seed, (c_out,), dtype) if seed % 2 else None
    y = conv2d(x, weight, bias, stride=stride, padding=padding)
    assert_close(y, naive_conv2d(x, weight, bias, stride, padding), dtype, slack=3)


@fewer
@given(seeds, size(9, 1), size(9, 1), size(5, 1), size(5, 1), size(3, 1), size(4), size(4))
def test_conv2d_is_scipys_correlation(seed, height, width, c_in, c_out, stride, pad_h, pad_w):
    k_h, k_w = min(3, height + 2 * pad_h), min(4, width + 2 * pad_w)
    x, weight = normal(seed, (1, height, width, c_in), float), normal(seed, (c_out, c_in, k_h, k_w), float)
    padded = np.pad(x[0], ((pad_h, pad_h), (pad_w, pad_w), (0, 0)))
    wanted = [sum(signal.correlate(padded[..., c], f[c], "valid") for c in range(c_in)) for f in weight]
    wanted = np.stack(wanted, axis=-1)[None, ::stride, ::stride]
    assert_close(conv2d(x, weight, stride=stride, padding=(pad_h, pad_h, pad_w, pad_w)), wanted, float)


@fewer
@given(seeds, size(5, 1), size(5, 1), size(2), size(3, 1))
def test_one_number_pads_every_side(seed, height, width, padding, stride):
    x, weight = normal(seed, (1, height, width, 2), float), normal(seed, (3, 2, 1, 1), float)
    np.testing.assert_array_equal(
        conv2d(x, weight, stride=stride, padding=padding), conv2d(x, weight, stride=stride, padding=(padding,) * 4)
    )


@pytest.mark.parametrize(
    ("x", "weight", "options", "message"),
    [
        ((1, 4, 4, 3), (2, 4, 3, 3), {}, "has 3 channels"),
        ((1, 2, 9, 3), (2, 3, 3, 3), {}, "smaller than the filter"),
        ((1, 9, 2, 3), (2, 3, 3, 3), {}, "smaller than the filter"),
        ((1, 4, 4, 3), (2, 3, 3, 3), {"stride": 0}, "must be positive"),
        ((1, 4, 4, 3), (2, 3, 3, 3), {"padding": (0, -1, 0, 0)}, "not negative"),
    ],
)
def test_conv2d_refuses(x, weight, options, message):
    with pytest.raises(InputError, match=message):
        conv2d(np.zeros(x), np.zeros(weight), **options)
