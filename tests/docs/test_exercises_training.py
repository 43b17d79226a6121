"""Solutions to the exercises of chapter 8, training."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "figures"))
import mixture
import small_network as net


@pytest.fixture(scope="module")
def average():
    return net.train(3000)[1]


def guess(z, t, k, w):
    return net.forward(net.features(z, np.full(len(z), t), np.full(len(z), k)), w)[0]


def test_1_check_the_chain():
    w, _, _ = net.train(5)
    x, epsilon = net.batch(64, np.random.default_rng(0))
    exact = net.gradient(epsilon, *net.forward(x, w), w)
    for name, array in w.items():
        index, found = tuple(size // 2 for size in array.shape), []
        for h in (1e-5, -1e-5):
            moved = {**w, name: array.copy()}
            moved[name][index] += h
            found.append(np.square(net.forward(x, moved)[0] - epsilon).mean())
        assert (found[0] - found[1]) / 2e-5 == pytest.approx(exact[name][index], rel=1e-4, abs=1e-9)


def test_2_the_best_constant():
    """The mean of the noise, which is 0; the loss is its variance, 1."""
    _, epsilon = net.batch(100_000, np.random.default_rng(0))
    losses = {c: np.square(c - epsilon).mean() for c in (-0.2, 0.0, 0.2)}
    assert min(losses, key=losses.get) == 0
    assert losses[0.0] == pytest.approx(1, abs=0.02)


def test_3_both_in_one(average):
    t, z = 300, np.linspace(-1.5, 1.5, 13)
    a, s = np.sqrt(net.ALPHA_BAR[t]), np.sqrt(1 - net.ALPHA_BAR[t])
    assert np.abs(guess(z, t, net.NOBODY, average) - mixture.best_epsilon(z, a, s)).mean() < 0.2
    for k in (0, 1):  # of one normal distribution the best guess is a straight line
        line = s * (z - a * net.MEANS[k]) / (a**2 * net.DEVIATIONS[k] ** 2 + s**2)
        near = np.abs(z - a * net.MEANS[k]) < 1  # where such numbers are
        assert np.abs(guess(z, t, k, average) - line)[near].mean() < 0.2


def test_4_from_noise_with_your_own_network(average):
    def sample(k):
        z, times = np.random.default_rng(0).standard_normal(2000), [*range(999, 0, -20)]
        for t, after in zip(times, [*times[1:], 0], strict=True):
            a, s = np.sqrt(net.ALPHA_BAR[t]), np.sqrt(1 - net.ALPHA_BAR[t])
            epsilon = guess(z, t, k, average)
            x0 = (z - s * epsilon) / a
            z = np.sqrt(net.ALPHA_BAR[after]) * x0 + np.sqrt(1 - net.ALPHA_BAR[after]) * epsilon
        return z

    assert (sample(net.NOBODY) < -0.3).mean() == pytest.approx(net.WEIGHTS[0], abs=0.08)
    for k in (0, 1):
        assert sample(k).mean() == pytest.approx(net.MEANS[k], abs=0.15)
