r"""A distribution whose every answer is known: numbers from a mixture of two normal distributions.

With noise, $z = a\,x_0 + s\,\epsilon$, it is a mixture again, of the means $a\,m_k$ and the variances
$a^2 d_k^2 + s^2$, so that its density, its score and the best guess of the noise have closed forms.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

WEIGHTS, MEANS, DEVIATIONS = np.array([0.4, 0.6]), np.array([-1.2, 0.8]), np.array([0.2, 0.3])


def parts(z: Array, a: float, s: float) -> tuple[Array, Array, Array]:  # (…) -> (…, 2) each
    """Of each normal distribution: the density at z, the mean, the variance."""
    mean, variance = a * MEANS, a**2 * DEVIATIONS**2 + s**2
    density = WEIGHTS * np.exp(-((z[..., None] - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    return density, mean, variance


def density(z: Array, a: float = 1.0, s: float = 0.0) -> Array:
    """The density of z."""
    return parts(z, a, s)[0].sum(-1)


def score(z: Array, a: float, s: float) -> Array:
    r"""$\nabla_z \ln p(z)$: where the density grows, and how fast."""
    p, mean, variance = parts(z, a, s)
    return (p * (mean - z[..., None]) / variance).sum(-1) / p.sum(-1)


def best_x0(z: Array, a: float, s: float) -> Array:
    r"""$\mathbb E[x_0 \,|\, z]$, the best guess of the clean number."""
    p, mean, variance = parts(z, a, s)
    guess = MEANS + a * DEVIATIONS**2 / variance * (z[..., None] - mean)
    return (p * guess).sum(-1) / p.sum(-1)


def best_epsilon(z: Array, a: float, s: float) -> Array:
    r"""$\mathbb E[\epsilon \,|\, z]$, the best guess of the noise."""
    return (z - a * best_x0(z, a, s)) / s


def draw(count: int, rng: np.random.Generator) -> Array:  # -> (count,)
    """Numbers from the mixture."""
    k = (rng.random(count) > WEIGHTS[0]).astype(int)
    return MEANS[k] + DEVIATIONS[k] * rng.standard_normal(count)
