"""The forward process, from a clean latent to a noisy one, and the training loss that it defines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinyldm.diffusion.prediction import PREDICTION_TYPES, signal_and_noise, unknown
from tinyldm.diffusion.types import Array
from tinyldm.errors import InputError

Model = Callable[[Array, np.ndarray], Array]


def at_timesteps(alpha_bar: Array, t: int | np.ndarray, z: Array) -> Array:  # (T,), (N,) -> (N, 1, …)
    """The table's values at `t` in the dtype of `z`, shaped to multiply it; `t` is one timestep or one per sample."""
    t = np.asarray(t)
    if not np.issubdtype(t.dtype, np.integer) or t.size == 0 or t.min() < 0 or t.max() >= len(alpha_bar):
        raise InputError(f"timestep {t.tolist()} is not an integer from 0 to {len(alpha_bar) - 1}")
    if t.ndim > 1 or (t.ndim == 1 and len(t) not in (1, len(z))):
        raise InputError(f"timesteps of shape {t.shape} for {len(z)} samples; give one timestep, or one per sample")
    values: Array = alpha_bar[t].astype(z.dtype)
    return values.reshape(-1, *[1] * (z.ndim - 1))


def add_noise(
    z0: Array, noise: Array, t: int | np.ndarray, alpha_bar: Array
) -> Array:  # (N, …), (N, …), (N,), (T,) -> (N, …)
    r"""A draw from $q(z_t | z_0)$: $z_t = \sqrt{\bar\alpha_t}\, z_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$.

    DDPM (arXiv 2006.11239), eq. 4. `noise` is $\epsilon \sim N(0, I)$, of the shape and dtype of `z0`.
    """
    signal, sigma = signal_and_noise(at_timesteps(alpha_bar, t, z0))
    return signal * z0 + sigma * noise


def velocity(
    z0: Array, noise: Array, t: int | np.ndarray, alpha_bar: Array
) -> Array:  # (N, …), (N, …), (N,), (T,) -> (N, …)
    r"""$v_t = \sqrt{\bar\alpha_t}\, \epsilon - \sqrt{1 - \bar\alpha_t}\, z_0$ (Salimans and Ho 2022, appendix D)."""
    signal, sigma = signal_and_noise(at_timesteps(alpha_bar, t, z0))
    return signal * noise - sigma * z0


def training_loss(
    model: Model,
    z0: Array,
    noise: Array,
    t: np.ndarray,
    alpha_bar: Array,
    prediction_type: str = "epsilon",
) -> float:  # model: (N, …), (N,) -> (N, …)
    r"""The simple loss of DDPM (eq. 14), the mean squared error of the model's prediction on one batch.

    $L = \mathrm{mean}\,\| y - \mathrm{model}(z_t, t) \|^2$ where $z_t$ is `z0` with `noise` added for timestep `t` and
    the target $y$ is the noise, the clean latent or the velocity, as `prediction_type` says.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise unknown(prediction_type)
    predicted = model(add_noise(z0, noise, t, alpha_bar), t)
    if prediction_type == "v_prediction":
        target = velocity(z0, noise, t, alpha_bar)
    else:
        target = noise if prediction_type == "epsilon" else z0
    return float(np.mean(np.square(target - predicted)))
