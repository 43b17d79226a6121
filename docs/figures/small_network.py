r"""A whole diffusion model in NumPy, training and all: numbers from a mixture, a small network, its gradient by hand.

The network sees a noisy number z, the timestep as waves, and which of the two normal distributions the number is from,
or that nobody says. It learns to tell the noise.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

ALPHA_BAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
MEANS, DEVIATIONS, WEIGHTS = np.array([-1.2, 0.8]), np.array([0.2, 0.3]), np.array([0.4, 0.6])
NOBODY = 2  # the class of a number whose class is not told


def features(z: Array, t: Array, k: Array) -> Array:  # (N,), (N,), (N,) -> (N, 12)
    """z, eight waves of the timestep, and a 1 in the place of the class."""
    angles = t[:, None] / 1000 * np.pi * 2.0 ** np.arange(-1, 3)
    return np.concatenate([z[:, None], np.cos(angles), np.sin(angles), np.eye(3)[k]], axis=1)


def forward(x: Array, w: dict[str, Array]) -> tuple[Array, tuple[Array, ...]]:  # (N, 12) -> (N,)
    """Two hidden layers with SiLU; also what the way back needs."""
    a1 = x @ w["w1"] + w["b1"]
    h1 = a1 / (1 + np.exp(-a1))
    a2 = h1 @ w["w2"] + w["b2"]
    h2 = a2 / (1 + np.exp(-a2))
    return (h2 @ w["w3"] + w["b3"])[:, 0], (x, a1, h1, a2, h2)


def silu_slope(a: Array) -> Array:
    r"""$\sigma(a) (1 + a (1 - \sigma(a)))$, the derivative of SiLU."""
    s = 1 / (1 + np.exp(-a))
    return s * (1 + a * (1 - s))


def gradient(epsilon: Array, guess: Array, kept: tuple[Array, ...], w: dict[str, Array]) -> dict[str, Array]:
    """The derivative of the mean of (guess - epsilon)² by every weight, by the chain rule from the last layer back."""
    x, a1, h1, a2, h2 = kept
    d3 = (2 * (guess - epsilon) / len(epsilon))[:, None]  # by the output, (N, 1)
    d2 = (d3 @ w["w3"].T) * silu_slope(a2)  # by a2, (N, H)
    d1 = (d2 @ w["w2"].T) * silu_slope(a1)  # by a1, (N, H)
    found = {"w3": h2.T @ d3, "b3": d3.sum(0), "w2": h1.T @ d2, "b2": d2.sum(0), "w1": x.T @ d1, "b1": d1.sum(0)}
    return {name: found[name] for name in w}


def batch(count: int, rng: np.random.Generator, dropped: float = 0.1) -> tuple[Array, Array]:  # -> (N, 12), (N,)
    """Clean numbers, each with a timestep and noise; of a tenth nobody tells the class."""
    k = (rng.random(count) > WEIGHTS[0]).astype(int)
    x0 = MEANS[k] + DEVIATIONS[k] * rng.standard_normal(count)
    t, epsilon = rng.integers(0, 1000, count), rng.standard_normal(count)
    z = np.sqrt(ALPHA_BAR[t]) * x0 + np.sqrt(1 - ALPHA_BAR[t]) * epsilon
    return features(z, t, np.where(rng.random(count) < dropped, NOBODY, k)), epsilon


def train(
    steps: int, seed: int = 0, rate: float = 3e-3, hidden: int = 64
) -> tuple[dict[str, Array], dict, list[float]]:
    """The weights, their running average, and the loss of every step, by Adam (Kingma and Ba 2014, arXiv:1412.6980)."""
    rng = np.random.default_rng(seed)
    sizes = {
        "w1": (12, hidden),
        "b1": (hidden,),
        "w2": (hidden, hidden),
        "b2": (hidden,),
        "w3": (hidden, 1),
        "b3": (1,),
    }
    w = {n: rng.standard_normal(s) / np.sqrt(s[0]) if n[0] == "w" else np.zeros(s) for n, s in sizes.items()}
    mean, square = ({name: np.zeros_like(a) for name, a in w.items()} for _ in (0, 1))
    average, losses = {name: a.copy() for name, a in w.items()}, []
    for step in range(1, steps + 1):
        x, epsilon = batch(256, rng)
        guess, kept = forward(x, w)
        losses.append(float(np.square(guess - epsilon).mean()))
        for name, g in gradient(epsilon, guess, kept, w).items():
            mean[name] = 0.9 * mean[name] + 0.1 * g
            square[name] = 0.999 * square[name] + 0.001 * g**2
            size = np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8
            w[name] = w[name] - rate * mean[name] / (1 - 0.9**step) / size
            average[name] = 0.998 * average[name] + 0.002 * w[name]
    return w, average, losses
