"""Solutions to the exercises of chapter 10, numerics."""

import numpy as np
import pytest

from tinyldm import ops
from tinyldm.diffusion import schedule
from tinyldm.diffusion.prediction import to_sample, to_velocity

rng = np.random.default_rng(0)
F32 = np.float32
U = 2.0**-24


def test_1_a_sum_that_forgets_nothing():
    def compensated(x):  # (n, trials) -> (trials,)
        total, lost = np.zeros(x.shape[1], F32), np.zeros(x.shape[1], F32)
        for term in x:
            term = term + lost
            after = total + term
            lost = term - (after - total)  # exact in theory 0; what the addition rounded off
            total = after
        return total

    errors = []
    for n in (256, 16384):
        x = rng.random((n, 40)).astype(F32)
        exact = x.sum(0, dtype=np.float64)
        plain, better = np.cumsum(x, axis=0, dtype=F32)[-1], compensated(x)
        errors.append([np.abs(y / exact - 1).max() for y in (plain, better)])
    assert errors[1][0] > 3 * errors[0][0]  # one by one it grows
    assert max(errors[0][1], errors[1][1]) <= 2 * U


def test_2_where_one_pass_fails():
    """E[x²] is about μ², and rounded by about u μ². That is all of σ² where μ / σ = 1 / √u = 4096."""

    def error(ratio):
        x = (ratio + rng.standard_normal((100, 1024))).astype(F32)
        found = np.square(x).mean(1) - x.mean(1) ** 2
        exact = x.astype(np.float64).var(1)
        return np.sqrt(np.mean((found / exact - 1) ** 2))

    assert error(1 / np.sqrt(U) / 40) < 0.01
    assert error(1 / np.sqrt(U) * 4) > 1


def test_3_how_far_float16_goes():
    """The sum of two exponentials must stay below 65520, which rounds to infinity: x < ln 32760 = 10.40."""

    def as_defined(x):
        powers = np.exp(x)
        return powers / (powers[0] + powers[1])

    scores = np.arange(0, 16, 1 / 64).astype(np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        right = [abs(as_defined(np.array([x, x]))[0] - 0.5) < 1e-3 for x in scores]
    assert scores[right.index(False)] == pytest.approx(np.log(32760), abs=0.03)
    assert ops.softmax(np.array([6e4, 6e4], np.float16))[0] == 0.5  # as far as the type itself


def test_4_without_a_division():
    """The clean latent is a z - s v: an error of v counts s times, and s is at most 1."""
    alpha_bar = schedule.alpha_bar(schedule.make_betas("scaled_linear", 0.00085, 0.012, 1000)).astype(np.float64)
    z, x0, error = rng.standard_normal((3, 50))
    for a_bar in alpha_bar[::100]:
        a, s = np.sqrt(a_bar), np.sqrt(1 - a_bar)
        epsilon = (z - a * x0) / s
        v = to_velocity("epsilon", epsilon, z, a, s)
        moved = to_sample("v_prediction", v + error, z, a, s) - x0
        np.testing.assert_allclose(moved, -s * error, atol=1e-9)
        assert np.abs(moved).max() <= np.abs(error).max()
        moved = to_sample("epsilon", epsilon + error, z, a, s) - x0
        np.testing.assert_allclose(moved, -s / a * error, rtol=1e-6, atol=1e-9)


def test_5_as_many_threads_as_you_like():
    x = rng.standard_normal(1_000_000).astype(F32)

    def one_by_one(values):
        return np.cumsum(values, dtype=F32)[-1]

    def sliced(workers):
        return one_by_one(np.array([one_by_one(part) for part in np.array_split(x, workers)], F32))

    def blocked(workers, block=4096):
        starts, sums = range(0, len(x), block), {}
        for worker in range(workers):  # in whatever order they get to it
            for start in starts[worker::workers]:
                sums[start] = one_by_one(x[start : start + block])
        return one_by_one(np.array([sums[start] for start in starts], F32))

    assert len({sliced(n).tobytes() for n in (1, 3, 8)}) > 1
    assert len({blocked(n).tobytes() for n in (1, 3, 8)}) == 1
