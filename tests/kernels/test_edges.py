"""Zeros, ones, infinities, arrays without elements and without axes: every operator, kernels and reference alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm import kernels, ops
from tinyldm.errors import InputError

BOTH = pytest.mark.parametrize("module", [ops, kernels], ids=["reference", "kernels"])
INF = float("inf")
F, W, B, G = (np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in (
    (6, 4, 3, 3), (6, 4), 6, 4))  # fmt: skip
W2 = np.concatenate([W, W])

# Every operator as a function of activations, with the shapes of those.
IMAGE, TOKENS = (2, 5, 6, 4), (2, 7, 4)
CALLS = {
    "silu": (lambda m, x: m.silu(x), [TOKENS]),
    "gelu": (lambda m, x: m.gelu(x), [TOKENS]),
    "quick_gelu": (lambda m, x: m.quick_gelu(x), [TOKENS]),
    "geglu": (lambda m, x: m.geglu(x), [TOKENS]),
    "softmax": (lambda m, x: m.softmax(x), [TOKENS]),
    "linear": (lambda m, x: m.linear(x, W, B), [TOKENS]),
    "linear_activation": (lambda m, x: m.linear_activation(x, W, B, "gelu"), [TOKENS]),
    "linear_geglu": (lambda m, x: m.linear_geglu(x, W, B), [TOKENS]),
    "linear_residual": (lambda m, x, r: m.linear_residual(x, W, None, r), [TOKENS, (2, 7, 6)]),
    "linears": (lambda m, x: np.concatenate(m.linears(x, [W, W2], [None, None]), -1), [TOKENS]),
    "layer_norm": (lambda m, x: m.layer_norm(x, G, G, 1e-5), [TOKENS]),
    "group_norm": (lambda m, x: m.group_norm(x, G, G, 2, 1e-5), [IMAGE]),
    "norm_silu": (lambda m, x: m.norm_silu(x, G, G, 2, 1e-5), [IMAGE]),
    "conv2d": (lambda m, x: m.conv2d(x, F, B, padding=1), [IMAGE]),
    "conv2d_residual": (lambda m, x, r: m.conv2d_residual(x, F, B, r, padding=1, relu=True), [IMAGE, (2, 5, 6, 6)]),
    "upsample_conv2d": (lambda m, x: m.upsample_conv2d(x, F, B), [IMAGE]),
    "norm_silu_conv2d": (
        lambda m, x, s, r: m.norm_silu_conv2d(x, G, G, 2, 1e-5, F, B, shift=s, residual=r),
        [IMAGE, (2, 6), (2, 5, 6, 6)],
    ),
    "affine_silu_conv2d": (
        lambda m, x, g, s, r: m.affine_silu_conv2d(x, g, s, F, B, residual=r),
        [IMAGE, (2, 4), (2, 4), (2, 5, 6, 6)],
    ),
    "attention": (lambda m, q, k, v: m.attention(q, k, v, 2), [TOKENS, (2, 9, 4), (2, 9, 6)]),
    "upsample_nearest": (lambda m, x: m.upsample_nearest(x), [IMAGE]),
    "avg_pool2d": (lambda m, x: m.avg_pool2d(x), [IMAGE]),
}
SINGLE = {"silu", "gelu", "quick_gelu"}  # take a number without axes
names = st.sampled_from(sorted(CALLS))
fills = st.sampled_from([0.0, 1.0, -1.0, INF, -INF, float("nan")])


def both(name, inputs):
    """What the kernels give, and the reference in float64."""
    call = CALLS[name][0]
    with np.errstate(all="ignore"):
        return call(kernels, *inputs), call(ops, *[a.astype(np.float64) for a in inputs])


def test_every_operator_is_here():
    elsewhere = {"embedding", "timestep_embedding", "moments"}  # the same functions in both, or below
    assert set(CALLS) == set(ops.__all__) & set(kernels.__all__) - elsewhere


@settings(deadline=None, max_examples=300)
@given(names, fills, st.booleans(), st.integers(0, 10**6), st.integers(0, 2))
def test_values(name, value, everywhere, place, which):
    """One value everywhere or in one place: as in the reference, and infinite or no number just where that is."""
    _, shapes = CALLS[name]
    inputs = [np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)]
    filled = inputs[which % len(inputs)].reshape(-1)
    filled[:] = np.full_like(filled, value) if everywhere else filled
    filled[place % filled.size] = value
    found, wanted = both(name, inputs)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1)
    np.testing.assert_allclose(*(np.nan_to_num(a, posinf=0, neginf=0) for a in (found, wanted)), atol=1e-5 * scale)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("name", CALLS)
def test_no_elements(name, axes):
    """No samples, no tokens or rows of pixels, or neither: an empty result of the same shape, or the same refusal."""
    call, shapes = CALLS[name]
    inputs = [np.ones([0 if i in axes and not (len(s) == 2 and i == 1) else n for i, n in enumerate(s)], np.float32)
              for s in shapes]  # fmt: skip
    found, wanted = outcome(call, kernels, inputs), outcome(call, ops, inputs)
    np.testing.assert_array_equal(found, wanted)


def outcome(call, module, inputs):
    """What comes out, or why not; a composite of the reference refuses by the name of its part."""
    try:
        return call(module, *inputs)
    except InputError as error:
        return str(error).partition(": ")[2]


@BOTH
@pytest.mark.parametrize("name", CALLS)
def test_no_axes(module, name):
    call, shapes = CALLS[name]
    number = np.array(-1.5, np.float32)
    if name in SINGLE:
        y = call(module, number)
        assert np.shape(y) == ()
        np.testing.assert_allclose(y, call(ops, np.array([-1.5]))[0], rtol=1e-6)
        return
    inputs = [number, *[np.ones(shape, np.float32) for shape in shapes[1:]]]
    with pytest.raises(InputError, match=f"^{'linear' if name.startswith('linear') else ''}"):
        call(module, *inputs)


@BOTH
def test_embeddings_without_axes_or_elements(module):
    with pytest.raises(InputError, match="timesteps must be"):
        module.timestep_embedding(np.array(3), 8)
    assert module.timestep_embedding(np.array([]), 8).shape == (0, 8)
    table = np.ones((3, 5), np.float32)
    assert module.embedding(np.array(2), table).shape == (5,)
    assert module.embedding(np.zeros((2, 0), int), table).shape == (2, 0, 5)


@BOTH
def test_moments_of_nothing(module):
    for shape in ((0, 3, 3, 4), (2, 0, 3, 4)):
        np.testing.assert_array_equal(module.moments(np.ones(shape, np.float32)), np.zeros((shape[0], 2, 4)))


@BOTH
@pytest.mark.parametrize("name", sorted(SINGLE))
def test_the_limit_of_an_activation(module, name):
    """-0 at minus infinity, infinity at infinity, and nothing large in between."""
    x = np.array([-INF, INF, -3e38, -1e30, -1e4], np.float32)
    with np.errstate(over="ignore"):
        y = getattr(module, name)(x)
    assert y[1] == INF
    assert (y[[0, 2, 3, 4]] == 0).all()
    assert np.signbit(y[[0, 2, 3, 4]]).all()


@BOTH
def test_attention_without_keys(module):
    q, none = np.ones((2, 3, 8), np.float32), np.ones((2, 0, 8), np.float32)
    np.testing.assert_array_equal(module.attention(q, none, none, 2), np.zeros((2, 3, 8)))


@BOTH
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 70), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_queries_that_may_look_nowhere(module, queries, keys, seed):
    """They gather nothing, whatever their neighbours do (the ONNX standard says so too)."""
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((2, n, 8)).astype(np.float32) for n in (queries, keys, keys))
    mask = np.where(rng.random((1, 2, queries, keys)) < 0.3, -INF, 0).astype(np.float32)
    blind = rng.random((2, queries)) < 0.5
    mask[0, blind] = -INF
    y = module.attention(q, k, v, 2, mask).reshape(2, queries, 2, 4)
    for head in (0, 1):
        assert (y[:, blind[head], head] == 0).all()
        dark = np.isneginf(mask[0, head]).all(-1)
        assert (y[:, ~dark, head] != 0).all()


@BOTH
def test_a_linear_layer_without_inputs(module):
    x, weight = np.ones((3, 0), np.float32), np.ones((6, 0), np.float32)
    np.testing.assert_array_equal(module.linear(x, weight, B), np.broadcast_to(B, (3, 6)))
    y = module.linear_residual(x, weight, B, np.ones((3, 6), np.float32))
    np.testing.assert_array_equal(y, np.broadcast_to(B + np.float32(1), (3, 6)))


@BOTH
def test_no_image_can_be_enlarged_to_some(module):
    with pytest.raises(InputError, match="no pixels to enlarge"):
        module.upsample_nearest(np.ones((1, 0, 3, 4), np.float32), (2, 2))


@BOTH
@pytest.mark.parametrize("value", [1000.1, -3e4, 1e-40])
def test_a_norm_of_a_constant(module, value):
    """The mean of equal values is that value: what is left is the bias, but for what a float32 times a gain rounds."""
    x, bias = np.full((1, 33, 35, 8), value, np.float32), np.arange(8, dtype=np.float32)
    gain = np.ones(8, np.float32)
    lost = abs(value) / np.sqrt(1e-5) * 2.0**-24 * (module is kernels) * 2
    for y in (module.group_norm(x, gain, bias, 2, 1e-5), module.layer_norm(x, gain, bias, 1e-5)):
        assert np.abs(y - bias).max() <= lost
