"""Row k of a batch is the row alone, bit for bit: picture k of a run is the picture that its own seed gives.

Sizes are drawn odd and small, where tiles, blocks and regions are cut otherwise for a batch than for one of its rows.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm import kernels, ops
from tinyldm.kernels import pool

batches, side, few = st.integers(2, 6), st.integers(1, 19), st.integers(1, 6)
channels = st.sampled_from([1, 4, 16, 17, 33, 48, 96])
precision = st.sampled_from(["fast", "strict", "bf16"])
seeds = st.integers(0, 2**32 - 1)
maybe = st.booleans()
property_test = settings(deadline=None, max_examples=25)
TESTED: set[str] = set()


@pytest.fixture(autouse=True, scope="module")
def _threads_for_any_work():
    before, pool.WORTH_A_THREAD = pool.WORTH_A_THREAD, 0
    yield
    pool.WORTH_A_THREAD = before


def same_alone(operator, call, *batched):
    """`call(operator, *batched)` gives in row k what it gives for row k, with one thread and two; None stays None."""
    function = getattr(kernels, operator)
    TESTED.add(operator)
    with kernels.using_threads(2):
        whole = call(function, *batched)
    for threads in (1, 2):
        with kernels.using_threads(threads):
            for k in range(len(batched[0])):
                alone = call(function, *[None if a is None else a[k : k + 1] for a in batched])
                for y, own in zip(*[a if isinstance(a, list) else [a] for a in (whole, alone)], strict=True):
                    assert y[k : k + 1].tobytes() == own.tobytes(), f"{operator}: row {k}, {threads} threads"


def normal(seed, *shape):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


@property_test
@given(seeds, batches, side, side, channels, channels, st.sampled_from([1, 2, 3, 4]), st.integers(1, 2), precision)
def test_conv2d(seed, n, height, width, c_in, c_out, size, stride, precision):
    x, w = normal(seed, n, height, width, c_in), normal(seed, c_out, c_in, size, size)
    w, b = kernels.prepare_conv2d(w, stride, precision), normal(seed, c_out)
    same_alone("conv2d", lambda f, x: f(x, w, b, stride=stride, padding=size // 2 + 1), x)


@property_test
@given(seeds, batches, side, side, channels, channels, precision, maybe)
def test_conv2d_residual(seed, n, height, width, c_in, c_out, precision, relu):
    x, r = normal(seed, n, height, width, c_in), normal(seed, n, height, width, c_out)
    w, b = kernels.prepare_conv2d(normal(seed, c_out, c_in, 3, 3), precision=precision), normal(seed, c_out)
    same_alone("conv2d_residual", lambda f, x, r: f(x, w, b, r, padding=1, relu=relu), x, r)


@property_test
@given(seeds, batches, side, side, few, few, channels, precision, maybe, maybe, maybe)
def test_norm_silu_conv2d(seed, n, height, width, groups, per_group, c_out, precision, wide, shifted, added):
    c_in = groups * per_group * (4 if wide else 1)
    x, gain, offset = normal(seed, n, height, width, c_in), normal(seed, c_in), normal(seed + 1, c_in)
    w, b = kernels.prepare_conv2d(normal(seed, c_out, c_in, 3, 3), precision=precision), normal(seed, c_out)
    shift = normal(seed, n, c_out) if shifted else None
    r = normal(seed, n, height, width, c_out) if added else None
    norm = gain, offset, groups, 1e-5
    same_alone("norm_silu_conv2d", lambda f, x, s, r: f(x, *norm, w, b, shift=s, residual=r), x, shift, r)


@property_test
@given(seeds, batches, side, side, channels, channels, precision)
def test_affine_silu_conv2d(seed, n, height, width, c_in, c_out, precision):
    x, r = normal(seed, n, height, width, c_in), normal(seed, n, height, width, c_out)
    gain, shift = normal(seed, n, c_in), normal(seed + 1, n, c_in)
    w, b = kernels.prepare_conv2d(normal(seed, c_out, c_in, 3, 3), precision=precision), normal(seed, c_out)
    same_alone("affine_silu_conv2d", lambda f, x, g, s, r: f(x, g, s, w, b, residual=r), x, gain, shift, r)


@property_test
@given(seeds, batches, side, side, channels, channels, maybe, precision)
def test_upsample_conv2d(seed, n, height, width, c_in, c_out, odd, precision):
    x, b = normal(seed, n, height, width, c_in), normal(seed, c_out)
    w = kernels.prepare_upsample_conv2d(normal(seed, c_out, c_in, 3, 3), precision)
    to = (2 * height + 1, 2 * width - 1) if odd else None
    same_alone("upsample_conv2d", lambda f, x: f(x, w, b, to), x)


@property_test
@given(seeds, batches, st.integers(1, 150), channels, channels, maybe, precision)
def test_linears(seed, n, tokens, c_in, c_out, flat, precision):
    """Every composite of a linear layer, on tokens and on one vector a sample (the time embedding)."""
    between = () if flat else (tokens,)
    x, r = normal(seed, n, *between, c_in), normal(seed, n, *between, c_out)
    w, b = normal(seed, 2 * c_out, c_in), normal(seed, 2 * c_out)
    single, gated = (kernels.prepare_linear(*how, precision) for how in ((w[:c_out], False), (w, True)))
    same_alone("linear", lambda f, x: f(x, single, b[:c_out]), x)
    same_alone("linear_geglu", lambda f, x: f(x, gated, b), x)
    same_alone("linear_activation", lambda f, x: f(x, single, b[:c_out], "quick_gelu"), x)
    both = kernels.prepare_linears([w[:c_out], w[c_out:]], precision)
    same_alone("linears", lambda f, x: f(x, both, [None, None]), x)
    same_alone("linear_residual", lambda f, x, r: f(x, single, None, r), x, r)


@property_test
@given(seeds, batches, side, side, few, few)
def test_norms(seed, n, height, width, groups, per_group):
    c = groups * per_group
    x, gain, offset = normal(seed, n, height, width, c), normal(seed, c), normal(seed + 1, c)
    same_alone("group_norm", lambda f, x: f(x, gain, offset, groups, 1e-5), x)
    same_alone("norm_silu", lambda f, x: f(x, gain, offset, groups, 1e-5), x)
    same_alone("layer_norm", lambda f, x: f(x, gain, offset, 1e-5), x)


def test_a_norm_of_many_chunks():
    same_alone("group_norm", lambda f, x: f(x, normal(1, 64), normal(2, 64), 4, 1e-5), normal(0, 3, 70, 61, 64))


@property_test
@given(seeds, batches, st.integers(1, 150), st.integers(0, 300), st.integers(1, 3), channels, maybe, precision)
def test_attention(seed, n, queries, keys, heads, d, masked, precision):
    q, k, v = (normal(seed + i, n, length, heads * d) for i, length in enumerate((queries, keys, keys)))
    mask = np.where(normal(seed, 1, heads, queries, keys) < 0, -np.inf, 0).astype(np.float32) if masked else None
    same_alone("attention", lambda f, q, k, v: f(q, k, v, heads, mask, precision=precision), q, k, v)


@property_test
@given(seeds, batches, side, side, channels)
def test_pixelwise(seed, n, height, width, c):
    x = normal(seed, n, height, width, 2 * c)
    for operator in ("silu", "gelu", "quick_gelu", "geglu", "softmax", "upsample_nearest", "avg_pool2d", "moments"):
        same_alone(operator, lambda f, x: f(x), x)


@property_test
@given(st.lists(st.integers(0, 1000), min_size=2, max_size=9), st.integers(2, 330))
def test_embeddings(times, dim):
    same_alone("timestep_embedding", lambda f, t: f(t, dim), np.array(times))
    same_alone("embedding", lambda f, ids: f(ids, normal(dim, 1001, 5)), np.array(times)[:, None])


def test_every_operator_is_checked_here():
    """Last in the file: what the tests above called."""
    assert set(ops.__all__) & set(kernels.__all__) <= TESTED
