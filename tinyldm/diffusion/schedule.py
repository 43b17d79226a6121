r"""The noise schedule: how much noise is in a latent at each of the $T$ training timesteps, and which are visited.

The forward process adds a little noise a step, $q(z_t | z_{t-1}) = N(\sqrt{1 - \beta_t}\, z_{t-1}, \beta_t I)$
(Ho et al. 2020, arXiv 2006.11239, eq. 2), which has the closed form
$q(z_t | z_0) = N(\sqrt{\bar\alpha_t}\, z_0, (1 - \bar\alpha_t) I)$ with $\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)$
(eq. 4). Everything else is a function of $\bar\alpha$: the noise level in the units of Karras et al. (2022),
$\sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}$, and the signal-to-noise ratio $1 / \sigma_t^2$.

The tables are float32, and each value is rounded where the published code (PyTorch) rounds it, bit for bit: a model is
trained with those values, and they decide the picture that a seed gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinyldm.diffusion.types import Array
from tinyldm.errors import ConfigError, InputError


def linspace_f32(start: float, stop: float, count: int) -> Array:  # -> (count,) float32
    """`torch.linspace` in float32: counted up from `start` in the first half, down from `stop` in the second.

    The step is rounded to float32; each value is then one fused multiply-add, exact until its only rounding.
    """
    first, last = np.float32(start), np.float32(stop)
    if count == 1:
        return np.array([first])
    step = np.float64(np.float32((last - first) / np.float32(count - 1)))
    k = np.arange(count)
    up = np.float64(first) + step * k
    down = np.float64(last) - step * (count - 1 - k)
    return np.where(k < count // 2, up, down).astype(np.float32)


def cosine_betas(count: int, largest: float = 0.999) -> Array:  # -> (T,)
    r"""The cosine schedule of Nichol and Dhariwal (2021, arXiv 2102.09672, eq. 17).

    $\bar\alpha(u) = \cos^2\!\big(\frac{u + 0.008}{1.008} \frac\pi2\big)$ for $u = t / T$, and
    $\beta_t = \min(1 - \bar\alpha((t + 1) / T) / \bar\alpha(t / T),\; 0.999)$.
    """

    def alpha_bar_at(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - alpha_bar_at((t + 1) / count) / alpha_bar_at(t / count), largest) for t in range(count)]
    return np.array(betas, np.float32)


def make_betas(
    kind: str, start: float, end: float, count: int, trained: Sequence[float] | None = None
) -> Array:  # -> (T,)
    r"""The betas of a published schedule by its name; `trained` betas, `count` of them, take the place of the rest.

    - `linear`: $\beta_t$ evenly spaced from `start` to `end` (DDPM, section 4);
    - `scaled_linear`: $\sqrt{\beta_t}$ evenly spaced, in latent diffusion (Rombach et al. 2022, arXiv 2112.10752);
    - `squaredcos_cap_v2`: `cosine_betas`.
    """
    if trained is not None:
        if len(trained) != count:
            raise ConfigError(
                f"scheduler config: trained_betas has {len(trained)} values, "
                f"num_train_timesteps is {count}; they must agree"
            )
        return np.array(trained, np.float32)
    if kind == "linear":
        return linspace_f32(start, end, count)
    if kind == "scaled_linear":
        return linspace_f32(start**0.5, end**0.5, count) ** 2
    if kind == "squaredcos_cap_v2":
        return cosine_betas(count)
    raise InputError(f"beta schedule {kind!r} is unknown; take linear, scaled_linear or squaredcos_cap_v2")


def alpha_bar(betas: Array) -> Array:  # (T,) -> (T,)
    r"""$\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)$ (DDPM, eq. 4): the share of the signal's power that is left.

    The running product is kept in float64 and each value of it rounded to the dtype of the betas.
    """
    return np.cumprod(1 - betas, dtype=np.float64).astype(betas.dtype)


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


def rescale_zero_terminal_snr(betas: Array) -> Array:  # (T,) -> (T,)
    r"""Betas whose last timestep is pure noise, $\bar\alpha_T = 0$ (Lin et al. 2023, arXiv 2305.08891, Algorithm 1).

    $\sqrt{\bar\alpha}$ is shifted so that it ends at 0 and scaled so that it begins where it did.
    """
    root = np.sqrt(alpha_bar(betas))
    first, last = root[0], root[-1]
    root = (root - last) * (first / (first - last))
    rescaled = root**2
    alphas = np.concatenate([rescaled[:1], rescaled[1:] / rescaled[:-1]])
    return 1 - alphas


def sigmas(alpha_bar: Array) -> Array:  # (T,) -> (T,)
    r"""$\sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}$: noise per unit of signal (Karras et al. 2022)."""
    levels: Array = np.sqrt((1 - alpha_bar) / alpha_bar)
    return levels


def snr(alpha_bar: Array) -> Array:  # (T,) -> (T,)
    r"""Signal-to-noise ratio $\bar\alpha_t / (1 - \bar\alpha_t)$, in power (Kingma et al. 2021, arXiv 2107.00630)."""
    return alpha_bar / (1 - alpha_bar)
