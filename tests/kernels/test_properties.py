"""Every operator and every composite against float64, on any shape and on values that try to break it.

The bound of each comparison is a count of roundings, worked out in float64 beside the result itself: a sum of K
products may be off by some multiple of 2⁻²⁴ · Σ|x·w|, a normalised value by one of 2⁻²⁴ · (|x·g| + |s|), an activation
by as much as its argument is, and a few units in the last place more. What is below the smallest float32 is lost.
"""

from __future__ import annotations

import importlib
import os
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm import kernels, ops

UNIT = 2.0**-24  # the rounding of a float32
TINY = 2.0**-149  # the smallest of them
KINDS = ("normal", "small", "denormal", "large", "constant", "zero", "mixed")
SLOPE = 1.13  # no activation is steeper

EXAMPLES = int(os.environ.get("TINYLDM_TEST_EXAMPLES", "25"))

batch, few, side = st.integers(1, 3), st.integers(1, 5), st.integers(1, 13)
channels = st.sampled_from([1, 3, 5, 8, 17, 31, 33, 48, 65, 100])
precision = st.sampled_from(["fast", "strict"])
kind, seed = st.sampled_from(KINDS), st.integers(0, 2**32 - 1)
maybe = st.booleans()
property_test = settings(deadline=None, max_examples=EXAMPLES)


class Values(NamedTuple):
    """Where arrays come from: a kind of values, and a generator."""

    kind: str
    rng: np.random.Generator

    def __call__(self, *shape: int) -> np.ndarray:
        """Activations of this kind."""
        x = self.rng.standard_normal(shape)
        if self.kind == "denormal":
            x *= 1e-40
        elif self.kind == "small":  # of a variance as large as the epsilon of a norm
            x *= 2e-3
        elif self.kind == "large":
            x = np.where(x < 0, -1e4, 1e4)
        elif self.kind == "constant":
            x = np.full(shape, self.rng.choice([-1e4, -3.7, 1e-40, 1.0, 1e4]))
        elif self.kind == "zero":
            x *= 0
        elif self.kind == "mixed":
            x *= 10.0 ** self.rng.integers(-42, 5, shape)
        return x.astype(np.float32)

    def weights(self, *shape: int) -> np.ndarray:
        """Weights as a checkpoint has them."""
        return self.rng.standard_normal(shape).astype(np.float32)


values = st.builds(lambda kind, seed: Values(kind, np.random.default_rng(seed)), kind, seed)


def check(y: np.ndarray, oracle: np.ndarray, bound: np.ndarray | float) -> None:
    """Within the bound, and as many units of the result and of the smallest number as an expression may lose."""
    assert y.dtype == np.float32
    assert y.shape == oracle.shape
    assert np.isfinite(y).all()
    allowed = bound + 4 * UNIT * np.abs(oracle) + 4 * TINY
    worst = np.max(np.abs(y - oracle) / allowed, initial=0.0)
    assert worst <= 1, f"{worst:.2f} times what roundings explain"


def exact(*arrays: np.ndarray | None) -> list[np.ndarray | None]:
    return [None if a is None else a.astype(np.float64) for a in arrays]


# Bounds -------------------------------------------------------------------------------------------------------------


def chain(k: int) -> float:
    """Roundings in a sum of k products, made of chains of at most 192; bias and residual are two more."""
    return min(k, 192) + k / 192 + 2


def linear_bound(x, w, b=None, r=None):
    total = np.abs(x) @ np.abs(w).T + (0 if b is None else np.abs(b)) + (0 if r is None else np.abs(r))
    return chain(w.shape[1]) * (UNIT * total + TINY)


def conv_bound(x, w, b, stride, padding, fast: bool, r=None):
    """As of a linear layer; the transforms of Winograd's algorithm mix the values of a piece of the image."""
    k = w[0].size
    if fast:  # the largest value may stand for all that it is mixed with; a few additions in each transform
        x, w = np.full_like(x, np.abs(x).max(initial=0)), np.broadcast_to(np.abs(w).max((2, 3), keepdims=True), w.shape)
    total = ops.conv2d(np.abs(x), np.abs(w), stride=stride, padding=padding)
    total = total + (0 if b is None else np.abs(b)) + (0 if r is None else np.abs(r))
    return (chain(k) + 32 * fast) * (UNIT * total + 32 * TINY)


def activated(x, y, e=0.0):
    """The bound behind an activation y of x, where x is off by e.

    e^-x takes the rounding of its argument as a relative error; where it would be infinite, it is e^88, and the result
    a number of that size below nothing.
    """
    return SLOPE * e + (12 + 4 * np.minimum(np.abs(x), 100)) * UNIT * np.abs(y) + np.where(x - e < -10, 1e-32, TINY)


def gated(a, g, ea=0.0, eg=0.0):
    gate = ops.gelu(g)
    return (np.abs(gate) + activated(g, gate, eg)) * ea + np.abs(a) * activated(g, gate, eg)


def norm_bound(x, w, b, mean, variance, eps):
    """Moments are float64 sums, so what is left of a deviation of zero is 2⁻⁵³ of the mean's square."""
    variance_error = 2.0**-50 * (np.square(mean) + variance)
    gain = np.abs(w) / np.sqrt(variance + eps)
    unit_error = np.abs(x - mean) * gain * np.minimum(variance_error / (variance + eps), 1)
    return 4 * UNIT * (np.abs(x) * gain + np.abs(b) + np.abs(mean) * gain) + unit_error + 4 * TINY


def group_norm_bound(x, w, b, groups, eps):
    split = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean, variance = split.mean((1, 3), keepdims=True), split.var((1, 3), keepdims=True)
    split_w, split_b = (a.reshape(groups, -1) for a in (w, b))
    return norm_bound(split, split_w, split_b, mean, variance, eps).reshape(x.shape)


# Activations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["silu", "gelu", "quick_gelu"])
@property_test
@given(values, batch, side, channels)
def test_activation(name, make, n, rows, c):
    x = make(n, rows, c)
    oracle = getattr(ops, name)(x.astype(float))
    check(getattr(kernels, name)(x), oracle, activated(x.astype(float), oracle))


@property_test
@given(values, batch, side, channels)
def test_geglu(make, n, rows, c):
    x = make(n, rows, 2 * c)
    a, g = np.split(x.astype(float), 2, axis=-1)
    check(kernels.geglu(x), a * ops.gelu(g), gated(a, g))


@property_test
@given(values, batch, side, channels, st.integers(0, 2))
def test_softmax(make, n, rows, c, axis):
    x = make(n, rows, c)
    oracle = ops.softmax(x.astype(float), axis)
    # Differences of large numbers are rounded, and e to the power of the rounding is what is left of it.
    shift = 2 * UNIT * np.abs(x.astype(float)).max(axis, keepdims=True)
    check(kernels.softmax(x, axis), oracle, oracle * (np.expm1(shift) + 16 * UNIT) + 2e-38)


# Products -----------------------------------------------------------------------------------------------------------


@property_test
@given(values, st.integers(1, 150), channels, channels, maybe, maybe)
def test_linear(make, tokens, c_in, c_out, with_bias, prepared):
    x, w = make(tokens, c_in), make.weights(c_out, c_in)
    b = make.weights(c_out) if with_bias else None
    y = kernels.linear(x, kernels.prepare_linear(w) if prepared else w, b)
    x, w, b = exact(x, w, b)
    check(y, ops.linear(x, w, b), linear_bound(x, w, b))


@property_test
@given(values, st.integers(1, 150), channels, st.lists(channels, min_size=1, max_size=3), maybe, maybe)
def test_linears(make, tokens, c_in, c_outs, with_bias, prepared):
    x, ws = make(tokens, c_in), [make.weights(c_out, c_in) for c_out in c_outs]
    bs = [make.weights(c_out) if with_bias else None for c_out in c_outs]
    ys = kernels.linears(x, kernels.prepare_linears(ws) if prepared else ws, bs)
    for y, w, b, oracle in zip(ys, ws, bs, ops.linears(exact(x)[0], exact(*ws), exact(*bs)), strict=True):
        np.testing.assert_array_equal(y, kernels.linear(x, w, b))
        check(y, oracle, linear_bound(*exact(x, w, b)))


@property_test
@given(values, st.integers(1, 150), channels, channels)
def test_linear_residual(make, tokens, c_in, c_out):
    x, w, b, r = make(tokens, c_in), make.weights(c_out, c_in), make.weights(c_out), make(tokens, c_out)
    y = kernels.linear_residual(x, w, b, r)
    x, w, b, r = exact(x, w, b, r)
    check(y, ops.linear_residual(x, w, b, r), linear_bound(x, w, b, r))


@property_test
@given(values, st.integers(1, 150), channels, channels, st.sampled_from(["silu", "gelu", "quick_gelu"]), maybe)
def test_linear_activation(make, tokens, c_in, c_out, name, with_bias):
    x, w = make(tokens, c_in), make.weights(c_out, c_in)
    b = make.weights(c_out) if with_bias else None
    y = kernels.linear_activation(x, w, b, name)
    x, w, b = exact(x, w, b)
    oracle = ops.linear_activation(x, w, b, name)
    check(y, oracle, activated(ops.linear(x, w, b), oracle, linear_bound(x, w, b)))


@property_test
@given(values, st.integers(1, 100), channels, channels, maybe)
def test_linear_geglu(make, tokens, c_in, c_out, prepared):
    x, w, b = make(tokens, c_in), make.weights(2 * c_out, c_in), make.weights(2 * c_out)
    y = kernels.linear_geglu(x, kernels.prepare_linear(w, gated=True) if prepared else w, b)
    x, w, b = exact(x, w, b)
    a, g = np.split(ops.linear(x, w, b), 2, axis=-1)
    ea, eg = np.split(linear_bound(x, w, b), 2, axis=-1)
    check(y, ops.linear_geglu(x, w, b), gated(a, g, ea, eg))


@property_test
@given(
    values, batch, side, side, channels, channels, st.sampled_from([1, 2, 3, 5]), st.integers(1, 3), maybe, precision
)
def test_conv2d(make, n, height, width, c_in, c_out, size, stride, with_bias, precision):
    x, w = make(n, height, width, c_in), make.weights(c_out, c_in, size, size)
    b = make.weights(c_out) if with_bias else None
    padding = (size // 2, (size - 1) // 2 + 1, size - 1, 0)  # top, bottom, left, right
    if min(height + padding[0] + padding[1], width + padding[2]) < size:
        return
    prepared = kernels.prepare_conv2d(w, stride, precision)
    y = kernels.conv2d(x, prepared, b, stride=stride, padding=padding)
    x, w, b = exact(x, w, b)
    oracle = ops.conv2d(x, w, b, stride=stride, padding=padding)
    check(y, oracle, conv_bound(x, w, b, stride, padding, prepared.algorithm != "direct"))


@property_test
@given(values, batch, side, side, channels, channels, st.sampled_from([1, 3]), precision, maybe, maybe)
def test_conv2d_residual(make, n, height, width, c_in, c_out, size, precision, added, relu):
    x, w, b = make(n, height, width, c_in), make.weights(c_out, c_in, size, size), make.weights(c_out)
    r, padding = make(n, height, width, c_out) if added else None, size // 2
    prepared = kernels.prepare_conv2d(w, precision=precision)
    y = kernels.conv2d_residual(x, prepared, b, r, padding=padding, relu=relu)
    x, w, b, r = exact(x, w, b, r)
    oracle = ops.conv2d_residual(x, w, b, r, padding=padding, relu=relu)
    check(y, oracle, conv_bound(x, w, b, 1, padding, prepared.algorithm != "direct", r))


@property_test
@given(values, batch, side, side, channels, channels, maybe, precision)
def test_upsample_conv2d(make, n, height, width, c_in, c_out, odd, precision):
    x, w, b = make(n, height, width, c_in), make.weights(c_out, c_in, 3, 3), make.weights(c_out)
    to = (2 * height + 1, 2 * width - 1) if odd else None
    prepared = kernels.prepare_upsample_conv2d(w, precision)
    y = kernels.upsample_conv2d(x, prepared, b, to)
    x, w, b = exact(x, w, b)
    oracle = ops.upsample_conv2d(x, w, b, to)
    bound = conv_bound(ops.upsample_nearest(x, to), w, b, 1, 1, precision == "fast")
    check(y, oracle, 4 * bound)  # filters may be added up before they are multiplied
    first, last = 2 * (height // 3), 2 * height - height // 2
    inner = kernels.upsample_conv2d(x.astype(np.float32), prepared, b.astype(np.float32), to, slice(first, last))
    check(inner, oracle[:, first:last], 4 * bound[:, first:last])
    np.testing.assert_array_equal(ops.upsample_conv2d(x, w, b, to, slice(first, last)), oracle[:, first:last])


# Normalisation ------------------------------------------------------------------------------------------------------

eps = st.sampled_from([1e-5, 1e-6])


@property_test
@given(values, batch, side, side, few, st.integers(1, 9), eps)
def test_group_norm(make, n, height, width, groups, per_group, eps):
    c = groups * per_group
    x, w, b = make(n, height, width, c), make.weights(c), make.weights(c)
    y, with_silu = kernels.group_norm(x, w, b, groups, eps), kernels.norm_silu(x, w, b, groups, eps)
    x, w, b = exact(x, w, b)
    bound = group_norm_bound(x, w, b, groups, eps)
    normal = ops.group_norm(x, w, b, groups, eps)
    check(y, normal, bound)
    oracle = ops.norm_silu(x, w, b, groups, eps)
    check(with_silu, oracle, activated(normal, oracle, bound))


@property_test
@given(values, batch, side, side, channels, st.integers(0, 4))
def test_moments(make, n, height, width, c, rows):
    """Of the whole, and of two parts added up."""
    x = make(n, height, width, c)
    y, oracle = kernels.moments(x), ops.moments(x)
    assert y.dtype == oracle.dtype == np.float64
    wide = x.astype(np.float64)
    naive = np.stack([wide.sum((1, 2)), (wide * wide).sum((1, 2))], 1)
    tolerance = 1e-12 * np.stack([np.abs(wide).sum((1, 2)), (wide * wide).sum((1, 2))], 1)
    parts = [np.ascontiguousarray(part) for part in (x[:, :rows], x[:, rows:])]
    for found in (y, oracle, sum(map(kernels.moments, parts)), sum(map(ops.moments, parts))):
        assert (np.abs(found - naive) <= tolerance).all()


@property_test
@given(values, batch, side, side, few, st.integers(1, 9), eps)
def test_gain_and_shift(make, n, height, width, groups, per_group, eps):
    """They are the group norm, in the rounding that float64 leaves to a deviation that is small beside the mean."""
    c = groups * per_group
    x, w, b = exact(make(n, height, width, c), make.weights(c), make.weights(c))
    gain, shift = ops.gain_and_shift(ops.moments(x), height * width, w, b, groups, eps)
    error = np.abs(x * gain[:, None, None] + shift[:, None, None] - ops.group_norm(x, w, b, groups, eps))
    assert (error <= group_norm_bound(x, w, b, groups, eps)).all()


@property_test
@given(values, batch, side, side, channels, channels, precision, maybe, st.integers(0, 1), st.integers(0, 1))
def test_affine_silu_conv2d(make, n, height, width, c, c_out, precision, added, top, bottom):
    if height + top + bottom < 3:
        return
    x, gain, shift = make(n, height, width, c), make.weights(n, c), make.weights(n, c)
    w, b = make.weights(c_out, c, 3, 3), make.weights(c_out)
    padding = (top, bottom, 1, 1)
    r = make.weights(n, height + top + bottom - 2, width, c_out) if added else None
    prepared = kernels.prepare_conv2d(w, 1, precision)
    y = kernels.affine_silu_conv2d(x, gain, shift, prepared, b, padding=padding, residual=r)
    x, gain, shift, w, b, r = exact(x, gain, shift, w, b, r)
    affine = x * gain[:, None, None] + shift[:, None, None]
    h = ops.silu(affine)
    off = activated(affine, h, 2 * UNIT * (np.abs(x * gain[:, None, None]) + np.abs(shift[:, None, None])))
    bound = conv_bound(h, w, b, 1, padding, prepared.algorithm != "direct", r)
    bound = bound + conv_bound(off, w, None, 1, padding, prepared.algorithm != "direct") / UNIT
    check(y, ops.affine_silu_conv2d(x, gain, shift, w, b, padding=padding, residual=r), bound)


@property_test
@given(values, st.integers(1, 60), channels, eps)
def test_layer_norm(make, tokens, c, eps):
    x, w, b = make(tokens, c), make.weights(c), make.weights(c)
    y = kernels.layer_norm(x, w, b, eps)
    x, w, b = exact(x, w, b)
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    check(y, ops.layer_norm(x, w, b, eps), norm_bound(x, w, b, mean, variance, eps))


@property_test
@given(values, batch, side, side, few, st.integers(1, 12), channels, st.integers(1, 2), precision, maybe, maybe)
def test_norm_silu_conv2d(make, n, height, width, groups, per_group, c_out, stride, precision, shifted, added):
    c = groups * per_group
    x, gain, offset = make(n, height, width, c), make.weights(c), make.weights(c)
    w, b = make.weights(c_out, c, 3, 3), make.weights(c_out)
    out = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    shift = make.weights(n, c_out) if shifted else None
    r = make.weights(n, *out, c_out) if added else None
    prepared = kernels.prepare_conv2d(w, stride, precision)
    y = kernels.norm_silu_conv2d(x, gain, offset, groups, 1e-5, prepared, b, stride=stride, shift=shift, residual=r)
    x, gain, offset, w, b, shift, r = exact(x, gain, offset, w, b, shift, r)
    oracle = ops.norm_silu_conv2d(x, gain, offset, groups, 1e-5, w, b, stride=stride, shift=shift, residual=r)
    h = ops.norm_silu(x, gain, offset, groups, 1e-5)
    normal, off = ops.group_norm(x, gain, offset, groups, 1e-5), group_norm_bound(x, gain, offset, groups, 1e-5)
    before = activated(normal, h, off)
    passed = ops.conv2d(before, np.abs(w), stride=stride, padding=1)
    both = np.abs(0 if r is None else r) + np.abs(0 if shift is None else shift[:, None, None, :])
    check(y, oracle, passed + conv_bound(h, w, b, stride, 1, prepared.algorithm != "direct", both))


# Attention, resampling, embeddings ----------------------------------------------------------------------------------

MASKS = (None, "causal", "padding", "head")


@property_test
@given(values, batch, st.integers(1, 120), st.integers(1, 300), st.integers(1, 3), channels, st.sampled_from(MASKS))
def test_attention(make, n, queries, keys, heads, d, masked):
    keys = queries if masked == "causal" else keys
    q, k, v = make(n, queries, heads * d), make.weights(n, keys, heads * d), make(n, keys, heads * d)
    mask = {
        None: None,
        "causal": ops.causal_mask(queries),
        "padding": np.where(np.arange(keys) <= keys // 2, 0, -np.inf)[None, None, None, :].astype(np.float32),
        "head": make.weights(1, heads, queries, keys),
    }[masked]
    y = kernels.attention(q, k, v, heads, mask)
    q, k, v = exact(q, k, v)
    oracle = ops.attention(q, k, v, heads, None if mask is None else mask.astype(float))
    # Scores are off by their own roundings, and every weight by e to that power; more than all weights can't move.
    split = [np.abs(a).reshape(n, -1, heads, d).swapaxes(1, 2) for a in (q, k)]
    scores = (split[0] @ split[1].swapaxes(2, 3)).max(initial=0) / np.sqrt(d)
    moved = min(np.expm1(min(2 * (chain(d) + 4) * UNIT * scores + 2 * UNIT * scores, 1)) + (64 + keys) * UNIT, 2)
    largest = np.abs(v).max((1,), keepdims=True)
    check(y, oracle, moved * largest + keys * TINY)
    assert (np.abs(y) <= largest * (1 + (64 + keys) * UNIT) + keys * TINY).all()


@property_test
@given(values, batch, side, side, few, st.one_of(st.none(), st.tuples(side, side)))
def test_upsample_nearest(make, n, height, width, c, to):
    x = make(n, height, width, c)
    np.testing.assert_array_equal(kernels.upsample_nearest(x, to), ops.upsample_nearest(x, to))


@property_test
@given(values, batch, side, side, few, st.integers(1, 3))
def test_avg_pool2d(make, n, height, width, c, size):
    x = make(n, height, width, c)
    oracle = ops.avg_pool2d(x.astype(float), size)
    check(kernels.avg_pool2d(x, size), oracle, 9 * UNIT * ops.avg_pool2d(np.abs(x.astype(float)), size))


@property_test
@given(values, st.integers(1, 50), channels, st.sampled_from([np.float16, np.float32]))
def test_embedding(make, rows, c, dtype):
    table = make(rows, c).astype(dtype)
    ids = make.rng.integers(0, rows, (2, 7))
    np.testing.assert_array_equal(kernels.embedding(ids, table), table[ids].astype(np.float32))


@property_test
@given(st.lists(st.floats(0, 1000), min_size=1, max_size=5), st.integers(2, 400), maybe, st.sampled_from([0, 1]))
def test_timestep_embedding(times, dim, flip, shift):
    if dim // 2 <= shift:
        return
    t = np.array(times)
    y = kernels.timestep_embedding(t, dim, flip_sin_to_cos=flip, freq_shift=shift)
    check(y, ops.timestep_embedding(t, dim, flip_sin_to_cos=flip, freq_shift=shift, dtype=np.float64), 2 * UNIT)


# Nothing is left out ------------------------------------------------------------------------------------------------


def test_every_operator_is_checked_here():
    both = set(ops.__all__) & set(kernels.__all__)
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    elsewhere = {"silu": "activation", "gelu": "activation", "quick_gelu": "activation", "norm_silu": "group_norm"}
    assert {elsewhere.get(name, name) for name in both} <= tested
    assert set(ops.__all__) - both == {"causal_mask", "gain_and_shift"}  # made once, and read by the kernel as it is


@pytest.mark.parametrize(
    "file",
    "activation attention conv embedding linear matmul norm ordered resample rounding tiles transpose winograd".split(),
)
def test_every_file_of_operators_states_its_error(file):
    module = importlib.import_module(f"tinyldm.kernels.{file}")
    assert "Error: " in module.__doc__ or "Error:\n" in module.__doc__
