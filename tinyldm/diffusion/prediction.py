r"""What the network predicts, how the predictions turn into each other, and how guidance joins two of them.

The network takes a latent of unit variance, $z = \alpha\, x_0 + s\, \epsilon$ with $\alpha^2 + s^2 = 1$: the signal's
share is $\alpha = \sqrt{\bar\alpha}$, the noise's $s = \sqrt{1 - \bar\alpha}$. Knowing $z$, any one of

- `epsilon`: the noise $\epsilon$ (Ho et al. 2020, arXiv 2006.11239),
- `sample`: the clean latent $x_0$,
- `v_prediction`: the velocity $v = \alpha\, \epsilon - s\, x_0$ (Salimans and Ho 2022, arXiv 2202.00512, appendix D;
  Stable Diffusion 2)

gives the other two. With $\alpha = \cos\phi$ and $s = \sin\phi$, the pair $(z, v)$ is the pair $(x_0, \epsilon)$ turned
by the angle $\phi$. Models trained by flow matching predict the velocity $\epsilon - x_0$ of a latent with
$\alpha + s = 1$ (`flow_prediction`); only the clean latent is asked of it.

With guidance the network predicts twice, with the prompt and without it, and `classifier_free_guidance` makes
of both the output that is used.

`signal` ($\alpha$) and `noise` ($s$) are numbers, or arrays that broadcast against `z`. Results have the dtype of `z`.
"""

from __future__ import annotations

import numpy as np

from tinyldm.diffusion.types import Array
from tinyldm.errors import InputError

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def signal_and_noise(alpha_bar: Array) -> tuple[Array, Array]:
    r"""The two coefficients of the mix, $(\sqrt{\bar\alpha}, \sqrt{1 - \bar\alpha})$; any shape."""
    return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


def to_sample(prediction_type: str, output: Array, z: Array, signal: Array | float, noise: Array | float) -> Array:
    r"""The clean latent $x_0$ from the model's output, all (N, …); here `z` may be of any scale.

    If $r^2 = \alpha^2 + s^2$ is not 1, as in $z = x_0 + \sigma\epsilon$, the output is that for $z / r$.
    """
    if prediction_type == "sample":
        return output
    if prediction_type == "epsilon":
        return (z - noise * output) / signal
    if prediction_type == "v_prediction":
        r = (signal**2 + noise**2) ** 0.5
        return signal / r**2 * z - noise / r * output
    if prediction_type == "flow_prediction":
        return z - noise * output
    raise unknown(prediction_type)


def to_epsilon(prediction_type: str, output: Array, z: Array, signal: Array | float, noise: Array | float) -> Array:
    r"""The noise $\epsilon$ from the model's output for `z`; all (N, …)."""
    if prediction_type == "epsilon":
        return output
    if prediction_type == "sample":
        return (z - signal * output) / noise
    if prediction_type == "v_prediction":
        return signal * output + noise * z
    raise unknown(prediction_type)


def to_velocity(prediction_type: str, output: Array, z: Array, signal: Array | float, noise: Array | float) -> Array:
    r"""The velocity $v = \alpha\,\epsilon - s\, x_0$ from the model's output for `z`; all (N, …)."""
    if prediction_type == "v_prediction":
        return output
    if prediction_type == "epsilon":
        return (output - noise * z) / signal
    if prediction_type == "sample":
        return (signal * z - output) / noise
    raise unknown(prediction_type)


def classifier_free_guidance(unconditional: Array, conditional: Array, scale: float) -> Array:
    r"""$\tilde\epsilon = \epsilon_\varnothing + s\,(\epsilon_c - \epsilon_\varnothing)$; any shape, both the same.

    Ho and Salimans (2022), arXiv 2207.12598, eq. 6 with $s = 1 + w$: scale 1 is the conditional prediction, 0 the
    unconditional one, and more than 1 goes beyond the prompt.
    """
    return unconditional + scale * (conditional - unconditional)


def rescale_guidance(guided: Array, conditional: Array, amount: float) -> Array:  # (N, …) -> (N, …)
    r"""Undo the over-exposure of strong guidance (Lin et al. 2023, arXiv 2305.08891, section 3.4, eqs. 15 and 16).

    Each sample is scaled to the standard deviation of its conditional prediction, and mixed with the unscaled one:
    $\phi\, \tilde\epsilon\, \mathrm{std}(\epsilon_c) / \mathrm{std}(\tilde\epsilon) + (1 - \phi)\, \tilde\epsilon$,
    $\phi$ = `amount` from 0 (no change) to 1. The standard deviations are those of a sample (n - 1).
    """
    axes = tuple(range(1, guided.ndim))
    ratio: Array = conditional.std(axis=axes, keepdims=True, ddof=1) / guided.std(axis=axes, keepdims=True, ddof=1)
    rescaled: Array = amount * (guided * ratio) + (1 - amount) * guided
    return rescaled


def dynamic_threshold(x0: Array, ratio: float, largest: float) -> Array:  # (N, …) -> (N, …)
    r"""Pull a prediction that has left [-1, 1] back in (Saharia et al. 2022, arXiv 2205.11487, section 2.3).

    For each sample $s$ is the quantile `ratio` of $|x_0|$, held between 1 and `largest`; the result is
    $\mathrm{clip}(x_0, -s, s) / s$.
    """
    flat = np.abs(x0).reshape(len(x0), -1)
    s: Array = np.clip(np.quantile(flat, ratio, axis=1), 1, largest).astype(x0.dtype)
    s = s.reshape(-1, *[1] * (x0.ndim - 1))
    bounded: Array = np.clip(x0, -s, s) / s
    return bounded


def unknown(prediction_type: str) -> InputError:
    """The error for a prediction type that is none of the three."""
    return InputError(f"prediction type {prediction_type!r} is unknown; take one of {', '.join(PREDICTION_TYPES)}")
