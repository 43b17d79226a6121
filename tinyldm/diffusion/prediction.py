r"""What the network predicts, and how the predictions turn into each other.

A noisy latent is a mix $z_t = \sqrt{\bar\alpha}\, x_0 + \sqrt{1 - \bar\alpha}\, \epsilon$. Knowing $z_t$, any one of

- `epsilon`: the noise $\epsilon$ (Ho et al. 2020, arXiv 2006.11239),
- `sample`: the clean latent $x_0$,
- `v_prediction`: the velocity $v = \sqrt{\bar\alpha}\, \epsilon - \sqrt{1 - \bar\alpha}\, x_0$ (Salimans and Ho 2022,
  arXiv 2202.00512, appendix D; Stable Diffusion 2)

gives the other two. With $\sqrt{\bar\alpha} = \cos\phi$ and $\sqrt{1 - \bar\alpha} = \sin\phi$, the pair $(z_t, v)$ is
the pair $(x_0, \epsilon)$ turned by the angle $\phi$.

`alpha_bar` is one number, or an array that broadcasts against `z`. Results have the dtype of `z`.
"""

from __future__ import annotations

import numpy as np

from tinyldm.errors import InputError

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")

AlphaBar = np.ndarray | np.floating


def signal_and_noise(alpha_bar: AlphaBar) -> tuple[AlphaBar, AlphaBar]:
    r"""The two coefficients of the mix, $(\sqrt{\bar\alpha}, \sqrt{1 - \bar\alpha})$."""
    return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


def to_sample(prediction_type: str, output: np.ndarray, z: np.ndarray, alpha_bar: AlphaBar) -> np.ndarray:
    r"""The clean latent $x_0$ from the model's output: $(z - \sqrt{1 - \bar\alpha}\,\epsilon) / \sqrt{\bar\alpha}$."""
    signal, noise = signal_and_noise(alpha_bar)
    if prediction_type == "sample":
        return output
    if prediction_type == "epsilon":
        return (z - noise * output) / signal
    if prediction_type == "v_prediction":
        return signal * z - noise * output
    raise unknown(prediction_type)


def to_epsilon(prediction_type: str, output: np.ndarray, z: np.ndarray, alpha_bar: AlphaBar) -> np.ndarray:
    r"""The noise $\epsilon$ from the model's output: $(z - \sqrt{\bar\alpha}\, x_0) / \sqrt{1 - \bar\alpha}$."""
    signal, noise = signal_and_noise(alpha_bar)
    if prediction_type == "epsilon":
        return output
    if prediction_type == "sample":
        return (z - signal * output) / noise
    if prediction_type == "v_prediction":
        return signal * output + noise * z
    raise unknown(prediction_type)


def to_velocity(prediction_type: str, output: np.ndarray, z: np.ndarray, alpha_bar: AlphaBar) -> np.ndarray:
    r"""The velocity $v = \sqrt{\bar\alpha}\,\epsilon - \sqrt{1 - \bar\alpha}\, x_0$ from the model's output."""
    signal, noise = signal_and_noise(alpha_bar)
    if prediction_type == "v_prediction":
        return output
    if prediction_type == "epsilon":
        return (output - noise * z) / signal
    if prediction_type == "sample":
        return (signal * z - output) / noise
    raise unknown(prediction_type)


def dynamic_threshold(x0: np.ndarray, ratio: float, largest: float) -> np.ndarray:  # (N, …) -> (N, …)
    r"""Pull a prediction that has left [-1, 1] back in (Saharia et al. 2022, arXiv 2205.11487, section 2.3).

    For each sample $s$ is the quantile `ratio` of $|x_0|$, held between 1 and `largest`; the result is
    $\mathrm{clip}(x_0, -s, s) / s$.
    """
    flat = np.abs(x0).reshape(len(x0), -1)
    s = np.clip(np.quantile(flat, ratio, axis=1), 1, largest).astype(x0.dtype)
    s = s.reshape(-1, *[1] * (x0.ndim - 1))
    return np.clip(x0, -s, s) / s


def unknown(prediction_type: str) -> InputError:
    """The error for a prediction type that is none of the three."""
    return InputError(f"prediction type {prediction_type!r} is unknown; take one of {', '.join(PREDICTION_TYPES)}")
