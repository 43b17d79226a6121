"""The product that adds term by term, bit by bit against the naive loop that is its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm import kernels
from tinyldm.kernels import pool
from tinyldm.kernels.ordered import COLUMNS, DEPTH, ROWS, STEPS, ordered_matmul

SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-42, 1.0], np.float32)


def naive(a, b, order):
    """Every product rounded, then every sum; `order` says which term comes when."""
    y = np.zeros((len(a), b.shape[1]), np.float32)
    with np.errstate(all="ignore"):
        for i in range(y.shape[0]):
            for j in range(y.shape[1]):
                for k in order:
                    y[i, j] = np.float32(y[i, j] + np.float32(a[i, k] * b[k, j]))
    return y


def assert_same_bits(found, wanted):
    """NaN in the same places, and elsewhere the same bits, the sign of zero among them."""
    assert found.dtype == np.float32
    assert found.shape == wanted.shape
    number = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(found), ~number)
    np.testing.assert_array_equal(found[number].view(np.int32), wanted[number].view(np.int32))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 4), st.integers(0, 20), st.integers(0, 5), st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_it_is_the_naive_loop(m, k, n, transposed, special, seed):
    random = np.random.default_rng(seed)
    a, b = random.standard_normal((m, k), np.float32), random.standard_normal((k, n), np.float32)
    if special:
        a, b = (np.where(random.random(x.shape) < 0.1, random.choice(SPECIAL, x.shape), x) for x in (a, b))
    order = random.permutation(k)
    given_b = np.ascontiguousarray(b.T).T if transposed else b
    assert_same_bits(ordered_matmul(a, given_b, order), naive(a, b, order))


EDGES = [(1, 1), (ROWS - 1, DEPTH + 1), (ROWS + 1, 2 * DEPTH), (3, DEPTH + STEPS - 1)]


@pytest.mark.parametrize("columns", [1, COLUMNS - 1, COLUMNS, COLUMNS + 1, 3 * COLUMNS])
@pytest.mark.parametrize(("m", "k"), EDGES)
@pytest.mark.parametrize("transposed", [False, True])
def test_blocks_panels_and_batches_end_anywhere(m, k, columns, transposed):
    """Against a sum over whole matrices, a term after the other: NumPy rounds each as the naive loop does."""
    random = np.random.default_rng([m, k, columns])
    a = random.standard_normal((2, 3, m, k), np.float32)
    b = random.standard_normal((2, 3, columns, k) if transposed else (2, 3, k, columns), np.float32)
    b = b.swapaxes(-1, -2) if transposed else b
    order = random.permutation(k)
    wanted = np.zeros((2, 3, m, columns), np.float32)
    for term in order:
        wanted += a[..., :, term, None] * b[..., term, None, :]
    assert_same_bits(ordered_matmul(a, b, order), wanted)


def test_strided_operands_and_any_number_of_threads():
    random = np.random.default_rng(0)
    a = random.standard_normal((400, 2, 90), np.float32).swapaxes(0, 1)
    b = random.standard_normal((2, 180, 300), np.float32)[:, ::2, ::2]
    order = random.permutation(90)
    found = []
    for count in (1, 2, 3):
        with kernels.using_threads(count):
            found.append(ordered_matmul(a, b, order).tobytes())
    assert found == [ordered_matmul(a.copy(), b.copy(), order).tobytes()] * 3


@pytest.mark.parametrize("spare", [1, 100_000])
def test_a_thread_s_memory_may_be_larger(spare, monkeypatch):
    """It is that of whichever kernel wanted the most."""
    monkeypatch.setattr(pool._local, "buffer", pool.aligned((DEPTH + ROWS) * COLUMNS + spare), raising=False)
    a, b = np.ones((3, 5), np.float32), np.ones((5, 7), np.float32)
    assert (ordered_matmul(a, b, np.arange(5)) == 5).all()
