"""The honest evaluation: the operators of `tinyldm.ops`, rounded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm import ops
from tinyldm.errors import TinyldmError
from tinyldm.golden.rounding import (
    EVALUATIONS,
    ROUNDINGS,
    RoundedOps,
    order_of_terms,
    ordered_product,
    rounding,
    to_bfloat16,
    to_float16,
)

UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


X, IMAGE = normal(2, 6, 8), normal(2, 7, 5, 8)
GAIN, BIAS = normal(8), normal(8, seed=1)
CASES = {
    "linear": (X, normal(5, 8), normal(5)),
    "conv2d": (IMAGE, normal(3, 8, 3, 3), normal(3)),
    "group_norm": (IMAGE, GAIN, BIAS, 4, 1e-5),
    "layer_norm": (X, GAIN, BIAS, 1e-5),
    "silu": (X,),
    "gelu": (X,),
    "quick_gelu": (X,),
    "geglu": (X,),
    "attention": (X, normal(2, 4, 8), normal(2, 4, 6), 2),
    "upsample_nearest": (IMAGE,),
    "timestep_embedding": (np.array([0, 1, 20, 981]), 10),
}


@pytest.mark.parametrize("arithmetic", ROUNDINGS)
@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_that_of_ops_but_for_rounding(name, arithmetic):
    exact = getattr(ops, name)(*(a.astype(np.float64) if getattr(a, "dtype", None) == "f4" else a for a in CASES[name]))
    rounded = getattr(RoundedOps(ROUNDINGS[arithmetic]), name)(*CASES[name])
    assert rounded.dtype == np.float32
    assert rounded.shape == exact.shape
    np.testing.assert_array_equal(ROUNDINGS[arithmetic](rounded), rounded)
    u = 2.0**-15 if name == "timestep_embedding" and arithmetic == "float32" else UNIT[arithmetic]
    assert np.abs(rounded - exact).max() <= 60 * u * max(1, np.abs(exact).max())


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "padding": (0, 1, 0, 1)}, {"stride": 2}])
def test_convolutions_of_any_stride_and_padding(options):
    weight = normal(3, 8, 3, 3)
    rounded = RoundedOps(ROUNDINGS["float32"]).conv2d(IMAGE, weight, **options)
    np.testing.assert_allclose(rounded, ops.conv2d(IMAGE, weight, **options), atol=2e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(0, 9), st.integers(1, 4), st.integers(0, 99))
def test_sums_are_term_by_term(m, k, n, seed):
    a, b = normal(m, k, seed=seed), normal(k, n, seed=seed + 1)
    evaluation = seed % EVALUATIONS
    wanted = np.zeros((m, n), np.float32)
    for i in range(m):
        for j in range(n):
            for term in order_of_terms(evaluation, k):
                wanted[i, j] = np.float32(wanted[i, j] + np.float32(a[i, term] * b[term, j]))
    np.testing.assert_array_equal(ordered_product(a, b, evaluation), wanted)


@pytest.mark.parametrize("shape", [(2, 300, 7, 500), (1, 16, 50, 256), (3, 1, 40, 1)])
def test_sums_of_many_rows_terms_and_batches_are_too(shape):
    batch, m, k, n = shape
    a, b = normal(batch, m, k), normal(batch, k, n)
    wanted = np.zeros((batch, m, n), np.float32)
    for term in order_of_terms(3, k):
        wanted += a[:, :, term, None] * b[:, term, None, :]
    np.testing.assert_array_equal(ordered_product(a, b, 3), wanted)


def test_each_evaluation_has_an_order_of_its_own():
    orders = [order_of_terms(i, 9).tolist() for i in range(EVALUATIONS)]
    assert orders[0] == list(range(9))
    assert all(sorted(order) == orders[0] for order in orders)
    assert len({tuple(order) for order in orders}) == EVALUATIONS


def test_what_a_model_writes_out_is_rounded_too():
    """A residual stream: `x + f(x)` block after block, each sum rounded, into the operator and around it."""
    run = RoundedOps(to_bfloat16)
    x = run.silu(X)
    y = x + run.silu(X + 1)
    wanted = to_bfloat16(to_bfloat16(ops.silu(to_bfloat16(X))) + to_bfloat16(ops.silu(to_bfloat16(X + 1))))
    np.testing.assert_array_equal(np.asarray(y), wanted)
    z = y * (1 + x)[..., :1]
    np.testing.assert_array_equal(np.asarray(z), to_bfloat16(wanted * to_bfloat16(1 + np.asarray(x))[..., :1]))
    y += np.float32(1 / 3)
    np.testing.assert_array_equal(np.asarray(y), to_bfloat16(wanted + np.float32(1 / 3)))
    assert np.ascontiguousarray(y).__class__ is np.ndarray


def test_float16_overflows_to_infinity_and_bfloat16_keeps_8_bits():
    assert to_float16(np.array([7e4, 1.0], np.float32)).tolist() == [np.inf, 1.0]
    assert to_bfloat16(np.array([1 + 2**-8 + 2**-12, 7e4], np.float32)).tolist() == [1 + 2**-7, 70144.0]


def test_an_unknown_arithmetic_is_named():
    with pytest.raises(TinyldmError, match="float8"):
        rounding("float8")
