r"""Which timesteps, or which noise levels, a sampler visits: the way from $T$ training timesteps to a few steps."""

from __future__ import annotations

import numpy as np

from tinyldm.diffusion.types import Array

KARRAS_RHO = 7.0


def spaced_timesteps(spacing: str, steps: int, train_timesteps: int, offset: int) -> Array:  # -> (steps,)
    """Descending timesteps, float64, not yet rounded (table 2 of Lin et al. 2023, arXiv 2305.08891).

    `leading` counts up from 0 in whole strides, so it never reaches the noisiest timestep; `offset` is added.
    `linspace` has both ends. `trailing` counts down from the noisiest. The last may come out one longer than `steps`
    where the stride is no binary fraction; so it does in the published code.
    """
    if spacing == "linspace":
        return np.linspace(0, train_timesteps - 1, steps)[::-1]
    if spacing == "leading":
        return (np.arange(steps) * (train_timesteps // steps) + float(offset))[::-1]
    return np.round(np.arange(train_timesteps, 0, -train_timesteps / steps)) - 1


def karras_sigmas(largest: float, smallest: float, steps: int) -> Array:  # -> (steps,)
    r"""Noise levels that are dense near zero (Karras et al. 2022, arXiv 2206.00364, eq. 5).

    $\big(\sigma_{max}^{1/\rho} + u\,(\sigma_{min}^{1/\rho} - \sigma_{max}^{1/\rho})\big)^\rho$ for $u$ from 0 to 1,
    $\rho = 7$.
    """
    top, bottom = largest ** (1 / KARRAS_RHO), smallest ** (1 / KARRAS_RHO)
    ramp: Array = top + np.linspace(0, 1, steps) * (bottom - top)
    return ramp**KARRAS_RHO


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
