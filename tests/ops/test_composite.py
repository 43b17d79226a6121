"""Every composite of `tinyldm.ops` against its definition, written out with the plain operators' naive versions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.strategies import assert_close, dtypes, eps, fewer, normal, seeds, size
from ops.test_activation import NAIVE, each
from ops.test_conv import naive_conv2d, sides
from ops.test_linear import naive_linear
from ops.test_norm import naive_group_norm

from tinyldm import kernels, ops
from tinyldm.errors import InputError

SILU, GELU = NAIVE[ops.silu], NAIVE[ops.gelu]


@fewer
@given(seeds, dtypes, size(2), size(3, 1), size(3, 1), size(2, 1), size(2, 1), size(3), eps, st.booleans(), sides)
def test_norm_silu_conv2d(seed, dtype, n, height, width, groups, per_group, c_out, epsilon, around, padding):
    c_in = groups * per_group
    x, weight = normal(seed, (n, height + 1, width + 1, c_in), dtype), normal(seed, (c_out, c_in, 2, 2), dtype)
    gain, offset, bias = (normal(seed + i, (c,), dtype) for i, c in enumerate((c_in, c_in, c_out)))
    h = each(SILU, naive_group_norm(x, gain, offset, groups, epsilon))
    assert_close(ops.norm_silu(x, gain, offset, groups, epsilon), h, dtype, slack=30)
    wanted = naive_conv2d(h, weight, bias, 1, padding)
    shift = normal(seed, (n, c_out), dtype) if around else None
    residual = normal(seed, wanted.shape, dtype) if around else None
    if around:
        wanted = wanted + shift.astype(float)[:, None, None, :] + residual.astype(float)
    found = ops.norm_silu_conv2d(
        x, gain, offset, groups, epsilon, weight, bias, padding=padding, shift=shift, residual=residual
    )
    assert_close(found, wanted, dtype, slack=30)


@fewer
@given(seeds, dtypes, size(2), size(3, 1), size(3, 1), size(3, 1), size(3), st.booleans(), sides)
def test_affine_silu_conv2d(seed, dtype, n, height, width, c_in, c_out, around, padding):
    x, weight = normal(seed, (n, height + 1, width + 1, c_in), dtype), normal(seed, (c_out, c_in, 2, 2), dtype)
    gain, shift, bias = (normal(seed + i, shape, dtype) for i, shape in enumerate(((n, c_in), (n, c_in), (c_out,))))
    affine = x.astype(float) * gain.astype(float)[:, None, None] + shift.astype(float)[:, None, None]
    wanted = naive_conv2d(each(SILU, affine), weight, bias, 1, padding)
    residual = normal(seed, wanted.shape, dtype) if around else None
    wanted = wanted + residual.astype(float) if around else wanted
    found = ops.affine_silu_conv2d(x, gain, shift, weight, bias, padding=padding, residual=residual)
    assert_close(found, wanted, dtype, slack=30)


@fewer
@given(seeds, dtypes, size(2), size(4, 1), size(4, 1), size(2, 1), sides, st.booleans(), st.booleans())
def test_conv2d_residual(seed, dtype, n, height, width, stride, padding, added, relu):
    x, weight, bias = normal(seed, (n, height, width, 2), dtype), normal(seed, (3, 2, 1, 1), dtype), None
    wanted = naive_conv2d(x, weight, bias, stride, padding)
    residual = normal(seed, wanted.shape, dtype) if added else None
    wanted = wanted + residual if added else wanted
    found = ops.conv2d_residual(x, weight, bias, residual, stride=stride, padding=padding, relu=relu)
    assert_close(found, wanted.clip(0) if relu else wanted, dtype, slack=2)


@fewer
@given(seeds, dtypes, size(2), size(3, 1), size(3, 1), st.none() | st.tuples(size(6, 1), size(6, 1)))
def test_upsample_conv2d(seed, dtype, n, height, width, target):
    x = normal(seed, (n, height, width, 2), dtype)
    weight, bias = normal(seed, (3, 2, 3, 3), dtype), normal(seed, (3,), dtype)
    rows, columns = target or (2 * height, 2 * width)
    large = np.zeros((n, rows, columns, 2))
    for i, j in np.ndindex(rows, columns):
        large[:, i, j] = x[:, i * height // rows, j * width // columns]
    assert_close(
        ops.upsample_conv2d(x, weight, bias, target), naive_conv2d(large, weight, bias, 1, (1, 1, 1, 1)), dtype, slack=3
    )


@fewer
@given(seeds, dtypes, size(3), size(4), size(4), st.booleans())
def test_linear_composites(seed, dtype, tokens, c_in, c_out, biased):
    x, weight = normal(seed, (2, tokens, c_in), dtype), normal(seed, (2 * c_out, c_in), dtype)
    bias = normal(seed, (2 * c_out,), dtype) if biased else None
    h = naive_linear(x, weight, bias)
    residual = normal(seed + 1, h.shape, dtype)
    assert_close(ops.linear_residual(x, weight, bias, residual), h + residual, dtype)
    assert_close(ops.linear_geglu(x, weight, bias), h[..., :c_out] * each(GELU, h[..., c_out:]), dtype, slack=3)
    for activation in ("silu", "gelu", "quick_gelu"):
        wanted = each(NAIVE[getattr(ops, activation)], h)
        assert_close(ops.linear_activation(x, weight, bias, activation), wanted, dtype, slack=2)


@pytest.mark.parametrize("module", [ops, kernels])
def test_affine_silu_conv2d_refuses_another_shape(module):
    x, right, wrong = (np.zeros(shape, np.float32) for shape in ((2, 3, 3, 4), (2, 4), (4,)))
    filters = np.zeros((5, 4, 3, 3), np.float32)
    for name, affine in (("gain", (wrong, right)), ("shift", (right, wrong))):
        with pytest.raises(InputError, match=rf"affine_silu_conv2d: the {name} of x \(2, 3, 3, 4\) has the shape"):
            module.affine_silu_conv2d(x, *affine, filters)


def test_linear_activation_refuses_an_unknown_name():
    with pytest.raises(InputError, match="unknown activation 'relu'; known are silu, gelu, quick_gelu"):
        ops.linear_activation(np.zeros((1, 2)), np.zeros((2, 2)), None, "relu")
