"""Convolutions and their composites against the NumPy operators in float64, over shapes that fit no tile."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm import kernels, ops
from tinyldm.errors import InputError

pad = st.integers(0, 2)
PRECISIONS = st.sampled_from(["fast", "strict"])


def data(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def close(y, reference, scale=1.0):
    assert y.dtype == np.float32
    assert y.shape == reference.shape
    np.testing.assert_allclose(y, reference, rtol=0, atol=1e-5 * scale + 1e-30)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3),
    st.tuples(st.integers(3, 21), st.integers(3, 21)),
    st.integers(1, 70),
    st.integers(1, 40),
    st.sampled_from([(1, 1), (3, 3), (2, 2), (1, 3), (5, 3)]),
    st.integers(1, 2),
    st.tuples(pad, pad, pad, pad),
    PRECISIONS,
)
def test_conv2d(n, size, c_in, c_out, kernel, stride, padding, precision):
    padding = tuple(max(p, 1) for p in padding) if max(kernel) == 5 else padding
    x, w, b = data(c_in, (n, *size, c_in), (c_out, c_in, *kernel), (c_out,))
    prepared = kernels.prepare_conv2d(w, stride, precision)
    y = kernels.conv2d(x, prepared, b, stride=stride, padding=padding)
    reference = ops.conv2d(x.astype(float), w.astype(float), b.astype(float), stride=stride, padding=padding)
    close(y, reference, (c_in * kernel[0] * kernel[1]) ** 0.5)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 2), st.integers(1, 19), st.integers(1, 19), st.integers(1, 9), st.integers(1, 40), PRECISIONS)
def test_norm_silu_conv2d(n, height, width, per_group, c_out, precision):
    groups, c_in = 4, 4 * per_group
    x, gain, bias, w, b, shift, residual = data(
        height, (n, height, width, c_in), c_in, c_in, (c_out, c_in, 3, 3), c_out, (n, c_out), (n, height, width, c_out)
    )
    exact = [a.astype(float) for a in (x, gain, bias, w, b, shift, residual)]
    y = kernels.norm_silu_conv2d(
        x,
        gain,
        bias,
        groups,
        1e-6,
        kernels.prepare_conv2d(w, precision=precision),
        b,
        shift=shift,
        residual=residual,
    )
    reference = ops.norm_silu_conv2d(*exact[:3], groups, 1e-6, *exact[3:5], shift=exact[5], residual=exact[6])
    # x * gain + shift: both grow as 1 / deviation, which is 1e-3 where a group is a single value.
    deviation = (exact[0].reshape(n, -1, groups, per_group).var(axis=(1, 3)).min() + 1e-6) ** 0.5
    close(y, reference, 3 * c_in**0.5 * (1 + 0.03 / deviation))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 2), st.integers(1, 12), st.integers(1, 12), st.integers(1, 40), st.integers(1, 40), PRECISIONS)
def test_upsample_conv2d(n, height, width, c_in, c_out, precision):
    x, w, b = data(height, (n, height, width, c_in), (c_out, c_in, 3, 3), c_out)
    prepared = kernels.prepare_upsample_conv2d(w, precision)
    exact = [a.astype(float) for a in (x, w, b)]
    for size in (None, (2 * height + 1, 2 * width - 1)):
        close(kernels.upsample_conv2d(x, prepared, b, size), ops.upsample_conv2d(*exact, size), 3 * c_in**0.5)
    close(kernels.upsample_conv2d(x, w, b), ops.upsample_conv2d(*exact), 3 * c_in**0.5)


def test_the_phases_of_an_upsampling_add_the_taps_that_coincide():
    w = np.arange(18, dtype=np.float32).reshape(2, 1, 3, 3)
    phases = kernels.prepare_upsample_conv2d(w, "strict").phases
    assert [phase.shape for phase in phases] == [(2, 1, 2, 2)] * 4
    for phase in phases:
        taps = phase.panels[0, :, 0, :2].T  # (C_out, taps)
        np.testing.assert_array_equal(taps.sum(axis=1), w.sum(axis=(1, 2, 3)))
    assert phases[0].panels[0, 0, 0, 0] == w[0, 0, 0, 0]
    assert phases[3].panels[0, 3, 0, 0] == w[0, 0, 2, 2]


@settings(deadline=None, max_examples=5)
@given(st.integers(1, 9), st.integers(1, 40))
def test_conv2d_residual(size, channels):
    x, w, b, r = data(size, (2, size, size, channels), (7, channels, 1, 1), 7, (2, size, size, 7))
    exact = [a.astype(float) for a in (x, w, b, r)]
    close(kernels.conv2d_residual(x, w, b, r), ops.conv2d_residual(*exact), channels**0.5)


@pytest.mark.parametrize("precision", ["fast", "strict"])
@pytest.mark.parametrize("value", [1e-40, 1e4, -1e4, 0.0])
def test_extreme_inputs(value, precision):
    w, b = data(0, (20, 64, 3, 3), 20)
    x = np.full((1, 9, 10, 64), value, np.float32)
    y = kernels.conv2d(x, kernels.prepare_conv2d(w, precision=precision), b, padding=1)
    reference = ops.conv2d(x.astype(float), w.astype(float), b.astype(float), padding=1)
    close(y, reference, 24 * abs(value) + 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("precision", ["fast", "strict"])
def test_filters_of_any_float_dtype(dtype, precision):
    x, w = data(0, (1, 8, 8, 40), (24, 40, 3, 3))
    w = w.astype(dtype)
    w.setflags(write=False)
    y = kernels.conv2d(x, kernels.prepare_conv2d(w, precision=precision), padding=1)
    close(y, ops.conv2d(x.astype(float), w.astype(float), padding=1), 20)


def test_an_empty_batch():
    w, b = data(0, (5, 3, 3, 3), 5)
    assert kernels.conv2d(np.zeros((0, 4, 4, 3), np.float32), w, b, padding=1).shape == (0, 4, 4, 5)


def test_misfits():
    x, w = data(0, (1, 4, 4, 3), (5, 3, 3, 3))
    with pytest.raises(InputError, match="takes 3"):
        kernels.conv2d(x[..., :2], w)
    with pytest.raises(InputError, match="smaller than the filter"):
        kernels.conv2d(x[:, :2], w)
    with pytest.raises(InputError, match="residual"):
        kernels.conv2d_residual(x, w, None, x)
    with pytest.raises(InputError, match="stride"):
        kernels.conv2d(x, w, stride=0)
