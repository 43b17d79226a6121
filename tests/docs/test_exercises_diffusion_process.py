"""Solutions to the exercises of chapter 4, the diffusion process."""

import numpy as np
import pytest

from tinyldm.diffusion import schedule

W, M, D = np.array([0.4, 0.6]), np.array([-1.2, 0.8]), np.array([0.2, 0.3])
BETAS = schedule.make_betas("scaled_linear", 0.00085, 0.012, 1000).astype(np.float64)
ALPHA_BAR = np.cumprod(1 - BETAS)


def best_x0(z, a, s):
    mean, variance = a * M, a**2 * D**2 + s**2
    p = W * np.exp(-((z[:, None] - mean) ** 2) / (2 * variance)) / np.sqrt(variance)
    return (p * (M + a * D**2 / variance * (z[:, None] - mean))).sum(-1) / p.sum(-1)


def posterior(t, z, x0):
    """Mean and variance of z_{t-1}, given z_t and x0; before the first step nothing is left to guess."""
    before = ALPHA_BAR[t - 1] if t else 1.0
    mean = np.sqrt(before) * BETAS[t] * x0 + np.sqrt(1 - BETAS[t]) * (1 - before) * z
    return mean / (1 - ALPHA_BAR[t]), (1 - before) / (1 - ALPHA_BAR[t]) * BETAS[t]


def test_1_normal_is_a_fixed_point():
    """z is standard normal for every t, so the score is -z, the guess of the noise s z, and the loss a²."""
    rng = np.random.default_rng(0)
    x0, epsilon = rng.standard_normal((2, 200_000))
    for t in (50, 400, 900):
        a, s = np.sqrt(ALPHA_BAR[t]), np.sqrt(1 - ALPHA_BAR[t])
        z = a * x0 + s * epsilon
        assert z.var() == pytest.approx(1, abs=0.02)
        assert np.polyfit(z, epsilon, 1)[0] == pytest.approx(s, abs=0.01)  # the best guess that is linear
        assert np.square(epsilon - s * z).mean() == pytest.approx(a**2, abs=0.02)


def test_2_the_posterior():
    t, z, x0 = 300, 0.4, 0.9
    grid = np.linspace(-3, 3, 200_001)
    log_q = -((z - np.sqrt(1 - BETAS[t]) * grid) ** 2) / (2 * BETAS[t])  # q(z_t | z_{t-1})
    log_q -= (grid - np.sqrt(ALPHA_BAR[t - 1]) * x0) ** 2 / (2 * (1 - ALPHA_BAR[t - 1]))  # q(z_{t-1} | x0)
    q = np.exp(log_q - log_q.max())
    mean = (q * grid).sum() / q.sum()
    variance = (q * (grid - mean) ** 2).sum() / q.sum()
    assert (mean, variance) == pytest.approx(posterior(t, z, x0), rel=1e-6)


def test_3_a_bad_guess_and_where_it_hurts():
    a, s = np.sqrt(ALPHA_BAR), np.sqrt(1 - ALPHA_BAR)
    error_of_x0 = s / a  # for an error of 1 in the noise
    assert error_of_x0[950] / error_of_x0[50] > 40


def test_4_from_noise_to_data():
    rng = np.random.default_rng(0)
    z = rng.standard_normal(5000)
    for t in range(999, -1, -1):
        guess = best_x0(z, np.sqrt(ALPHA_BAR[t]), np.sqrt(1 - ALPHA_BAR[t]))
        mean, variance = posterior(t, z, guess)
        z = mean + np.sqrt(variance) * rng.standard_normal(z.shape)
    assert z.mean() == pytest.approx((W * M).sum(), abs=0.06)
    assert z.var() == pytest.approx((W * (D**2 + M**2)).sum() - (W * M).sum() ** 2, abs=0.08)
    assert (z < -0.3).mean() == pytest.approx(W[0], abs=0.03)


def test_5_not_an_update():
    """All noise is taken away at once, and with it what makes one picture another: all end at the same number."""
    z = np.random.default_rng(0).standard_normal(1000)
    for t in range(999, -1, -1):
        a, s = np.sqrt(ALPHA_BAR[t]), np.sqrt(1 - ALPHA_BAR[t])
        z = z - (z - a * best_x0(z, a, s)) / s
    assert np.ptp(z) < 1e-9
