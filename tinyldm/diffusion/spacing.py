r"""Which noise levels a sampler of $\sigma$ visits; which timesteps the others do is `schedule.spaced_timesteps`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tinyldm.diffusion.types import Array

KARRAS_RHO = 7.0


def karras_sigmas(largest: float, smallest: float, steps: int) -> Array:  # -> (steps,)
    r"""Noise levels that are dense near zero (Karras et al. 2022, arXiv 2206.00364, eq. 5).

    $\big(\sigma_{max}^{1/\rho} + u\,(\sigma_{min}^{1/\rho} - \sigma_{max}^{1/\rho})\big)^\rho$ for $u$ from 0 to 1,
    $\rho = 7$.
    """
    top, bottom = largest ** (1 / KARRAS_RHO), smallest ** (1 / KARRAS_RHO)
    ramp: Array = top + np.linspace(0, 1, steps) * (bottom - top)
    return ramp**KARRAS_RHO


def exponential_sigmas(largest: float, smallest: float, steps: int) -> Array:  # -> (steps,)
    r"""Noise levels that are evenly spaced in $\log\sigma$ (K. Crowson, k-diffusion)."""
    return np.exp(np.linspace(math.log(largest), math.log(smallest), steps))


def beta_sigmas(largest: float, smallest: float, steps: int) -> Array:  # -> (steps,)
    """Noise levels at quantiles of the Beta(0.6, 0.6) distribution: dense at both ends (Lee et al. 2024).

    Source: "Beta Sampling is All You Need", arXiv 2407.12173, section 4.2.
    """
    return smallest + beta_quantile(1 - np.linspace(0, 1, steps)) * (largest - smallest)


def kl_optimal_sigmas(largest: float, smallest: float, steps: int) -> Array:  # -> (steps + 1,)
    r"""$\tan\big(u \arctan\sigma_{min} + (1 - u) \arctan\sigma_{max}\big)$ (Sabour et al. 2024, arXiv 2404.14507).

    These have their own last level, $\sigma_{min}$, so that there is one more than steps.
    """
    u = np.linspace(0, 1, steps + 1)
    return np.tan(u * math.atan(smallest) + (1 - u) * math.atan(largest))


# Sabour, Fidler and Kreis (2024), "Align Your Steps", arXiv 2404.14507, for Stable Diffusion 1.5 and XL, ten steps.
ALIGNED = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
ALIGNED_XL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


def aligned_sigmas(levels: tuple[float, ...], steps: int) -> Array:  # -> (steps,)
    """Published levels, interpolated to another number of steps linearly in their logarithm."""
    u = np.linspace(0, 1, steps)
    if steps == 1:
        return np.array(levels[-1:])  # as where it comes from: the interpolation counts from the last level
    return np.exp(np.interp(u, np.linspace(0, 1, len(levels)), np.log(levels)))


def uniform_sigmas(steps: int, table: Array, with_end: bool = True) -> Array:  # (T,) -> (steps,)
    """Levels of evenly spaced fractional timesteps, with both ends or (`sgm_uniform`) without the least noisy one."""
    last = len(table) - 1
    timesteps = np.linspace(last, 0, steps) if with_end else np.linspace(last, 0, steps + 1)[:-1]
    return np.exp(np.interp(timesteps, np.arange(len(table)), np.log(table)))


def simple_sigmas(steps: int, table: Array) -> Array:  # (T,) -> (steps,)
    """Entries of the table in equal strides from the noisiest down."""
    return table[[-1 - int(i * (len(table) / steps)) for i in range(steps)]]


# Schedules of noise levels by name: from the largest and the smallest level, the steps, and the table of all levels.
# Karras, exponential and beta are those of diffusers, the others those of the web interface of AUTOMATIC1111.
SIGMA_SCHEDULES: dict[str, Callable[[float, float, int, Array], Array]] = {
    "karras": lambda largest, smallest, steps, table: karras_sigmas(largest, smallest, steps),
    "exponential": lambda largest, smallest, steps, table: exponential_sigmas(largest, smallest, steps),
    "beta": lambda largest, smallest, steps, table: beta_sigmas(largest, smallest, steps),
    "uniform": lambda largest, smallest, steps, table: uniform_sigmas(steps, table),
    "sgm_uniform": lambda largest, smallest, steps, table: uniform_sigmas(steps, table, with_end=False),
    "simple": lambda largest, smallest, steps, table: simple_sigmas(steps, table),
    "kl_optimal": lambda largest, smallest, steps, table: kl_optimal_sigmas(largest, smallest, steps),
    "align_your_steps": lambda largest, smallest, steps, table: aligned_sigmas(ALIGNED, steps),
    "align_your_steps_xl": lambda largest, smallest, steps, table: aligned_sigmas(ALIGNED_XL, steps),
}
SCHEDULE_ALIASES = {"normal": "uniform", "k": "karras"}  # as ComfyUI and InvokeAI end the names of samplers


def beta_quantile(p: Array, shape: float = 0.6) -> Array:  # (N,) -> (N,)
    r"""Where the symmetric Beta(a, a) distribution has left `p` of its weight, a = `shape`; by bisection.

    The weight below $x \le 1/2$ is $\frac{1}{B(a, a)} \sum_n \frac{(1 - a)_n}{n!} \frac{x^{a + n}}{a + n}$ (DLMF
    8.17.7), and the distribution is symmetric about 1/2.
    """
    n = np.arange(60)
    terms = np.cumprod(np.append(1, (n[:-1] + 1 - shape) / (n[:-1] + 1))) / (shape + n)
    beta_function = math.gamma(shape) ** 2 / math.gamma(2 * shape)
    lower = np.minimum(p, 1 - p)
    low, high = np.zeros_like(p), np.full_like(p, 0.5)
    for _ in range(60):
        middle = (low + high) / 2
        below = (terms * middle[:, None] ** (shape + n)).sum(axis=1) / beta_function < lower
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(p <= 0.5, high, 1 - high)


def sigma_to_timestep(sigmas: Array, table: Array) -> Array:  # (S,), (T,) -> (S,)
    r"""The fractional timesteps whose noise level is `sigmas`, between two entries of the rising `table`.

    Linear in $\log\sigma$; levels outside the table give its first or last timestep.
    """
    log_table = np.log(table)
    log_sigmas = np.log(np.maximum(sigmas, 1e-10))
    low = np.clip(np.searchsorted(log_table, log_sigmas, side="right") - 1, 0, len(table) - 2)
    w = np.clip((log_table[low] - log_sigmas) / (log_table[low] - log_table[low + 1]), 0, 1)
    timesteps: Array = (1 - w) * low + w * (low + 1)
    return timesteps
