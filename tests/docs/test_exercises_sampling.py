"""Solutions to the exercises of chapter 7, samplers."""

from itertools import pairwise

import numpy as np
import pytest

ALPHA_BAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
W, M, D = np.array([0.4, 0.6]), np.array([-1.2, 0.8]), np.array([0.2, 0.3])


def best_x0(y, sigma):
    """E[x0 | y] for y = x0 + sigma epsilon."""
    variance = D**2 + sigma**2
    p = W * np.exp(-((y[:, None] - M) ** 2) / (2 * variance)) / np.sqrt(variance)
    return (p * (M + D**2 / variance * (y[:, None] - M))).sum(-1) / p.sum(-1)


def slope(y, sigma):
    return (y - best_x0(y, sigma)) / sigma


def euler(y, levels):
    for sigma, after in pairwise(levels):
        y = y + (after - sigma) * slope(y, sigma)
    return y


def heun(y, levels):
    for sigma, after in pairwise(levels):
        d = slope(y, sigma)
        y = y + (after - sigma) * (d + slope(y + (after - sigma) * d, after)) / 2
    return y


def levels(steps):
    """Even in the logarithm of sigma."""
    return np.exp(np.linspace(np.log(14), np.log(0.05), steps + 1))


@pytest.fixture(scope="module")
def start():
    return 14 * np.random.default_rng(0).standard_normal(2000)


@pytest.fixture(scope="module")
def exact(start):
    return heun(start, levels(3000))


def error(numbers, exact):
    return np.sqrt(np.mean((numbers - exact) ** 2))


def test_1_eta_is_one():
    t, after = 700, 660
    a_bar, a_bar_next = ALPHA_BAR[t], ALPHA_BAR[after]
    sigma = np.sqrt((1 - a_bar_next) / (1 - a_bar)) * np.sqrt(1 - a_bar / a_bar_next)
    beta = 1 - a_bar / a_bar_next  # of the one big step
    assert sigma**2 == pytest.approx((1 - a_bar_next) / (1 - a_bar) * beta)


def test_2_order_1(start, exact):
    """Even in the logarithm of sigma (which is -lambda), or in any smooth function of it: the order is the method's."""
    errors = [error(euler(start, levels(n)), exact) for n in (40, 80, 160)]
    assert [errors[k] / errors[k + 1] for k in (0, 1)] == pytest.approx([2, 2], abs=0.35)


def test_3_heun_by_hand(start, exact):
    by_euler, by_heun = error(euler(start, levels(80)), exact), error(heun(start, levels(40)), exact)
    assert by_heun < by_euler / 4  # 80 calls each


def test_4_the_wrong_limit():
    """The guess takes pure noise for a latent at 961 and finds a signal in it: a share of the mean is missing."""
    mean = 2.0
    a, s = np.sqrt(ALPHA_BAR[961]), np.sqrt(1 - ALPHA_BAR[961])
    rng = np.random.default_rng(0)
    z = rng.standard_normal(100_000)  # should have been a · 2 + s · noise
    variance = a**2 * 0.3**2 + s**2  # of data that are normal with mean 2 and deviation 0.3
    x0 = mean + a * 0.3**2 / variance * (z - a * mean)
    epsilon = (z - a * x0) / s
    assert epsilon.mean() == pytest.approx(
        -a * mean / s, abs=0.02
    )  # "noise" with a mean, which stays in all later steps
    assert abs(epsilon.mean()) > 0.1


def test_5_one_step(start):
    """The mean of all data that the noise could hide, which is nearly the mean of all data."""
    one = euler(start, np.array([14.0, 0.0]))
    assert one.mean() == pytest.approx((W * M).sum(), abs=0.05)
    assert one.std() < 0.15
