"""What a wrong module looks like from its inputs: mistakes that its output alone does not show.

Each recogniser computes from the golden's own inputs what the mistake would give, and compares. A mistake is named
where that explains the whole difference (`hints.explains`), and where the right computation gives the golden.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyldm import ops
from tinyldm.golden.hints import EXPLAINED, MAX_SIZE, explains, rms, stated
from tinyldm.golden.pairing import FilePair

EPSILONS = (1e-5, 1e-6, 1e-12)  # of published norms
EXACT = 1e-4  # relative RMS difference up to which a computation is the golden's own


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """GELU in the tanh approximation (Hendrycks and Gimpel 2016, arXiv:1606.08415): any shape."""
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return np.asarray(0.5 * x * (1 + np.tanh(inner)))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "GELU": ops.gelu,
    "GELU in the tanh approximation": gelu_tanh,
    "quick GELU": ops.quick_gelu,
    "SiLU": ops.silu,
    "ReLU": lambda x: np.maximum(x, 0),
    "no activation": lambda x: x,
}


def module_hint(files: FilePair, key: str) -> str | None:
    """What the wrong output of a module looks like that was given the right inputs; None where nothing is recognised.

    Needs the golden's inputs of that module (`record --inputs`), and both outputs whole.
    """
    golden = files.golden
    if not files.whole(key) or golden.shape(key) != files.candidate.shape(key):
        return None
    g, c = golden[key].astype(np.float64), files.candidate[key].astype(np.float64)
    refs = golden.inputs.get(key, [])
    if not np.isfinite(c).all() or g.size > MAX_SIZE:
        return None
    if len(refs) != 1 or not golden.has_whole(refs[0]):
        return without_mask(key, g, c)
    # What a GEGLU activates is the output of a module inside it, its product with weights.
    inner = f"{key}.proj"
    x = golden[inner if golden.has_whole(inner) else refs[0]].astype(np.float64)
    groups = norm_groups(golden.metadata, key)
    return without_mask(key, g, c) or another_activation(x, g, c) or another_epsilon(x, g, c, groups)


def without_mask(key: str, g: np.ndarray, c: np.ndarray) -> str | None:
    """Attention in which every token but the last, which sees all of them in any case, came out differently."""
    if "attn" not in key or g.ndim != 3 or g.shape[1] < 4:
        return None
    *errors, last = np.sqrt(np.mean(np.square(c - g), axis=(0, 2)))
    if last > EXPLAINED**2 * np.median(errors):
        return None
    missing = "text_encoder" in key
    return f"all tokens but the last differ: a causal mask is {'missing' if missing else 'there where none belongs'}"


def another_activation(x: np.ndarray, g: np.ndarray, c: np.ndarray) -> str | None:
    """An activation, or the product of one half with the other's activation, that is not the golden's."""
    if x.shape == g.shape:
        outputs = {name: f(x) for name, f in ACTIVATIONS.items()}
    elif x.shape == (*g.shape[:-1], 2 * g.shape[-1]):
        value, gate = np.split(x, 2, axis=-1)
        outputs = {name: value * f(gate) for name, f in ACTIVATIONS.items()}
    else:
        return None
    right = min(outputs, key=lambda name: rms(outputs[name] - g))
    if rms(outputs[right] - g) > EXACT * rms(g):
        return None
    wrong = min(outputs, key=lambda name: rms(outputs[name] - c))
    return f"{wrong} in place of {right}" if wrong != right and explains(outputs[wrong], g, c) else None


# Norms ----------------------------------------------------------------------------------------------------------------


def norm_groups(metadata: Mapping[str, Any], key: str) -> int:
    """The number of groups of a model's group norms, as its configuration states it."""
    groups = stated(metadata, "config", key.partition("/")[2].partition("/")[0], "norm_num_groups")
    return groups if isinstance(groups, int) and groups > 0 else 32


@dataclass(frozen=True)
class Norm:
    """A norm over an input: the centred input, its variance in a shape that fits it, the axis of the channels."""

    name: str
    centred: np.ndarray
    variance: np.ndarray
    channels: int

    def output(self, epsilon: float) -> np.ndarray:
        """The input of mean 0 and variance 1, before gain and bias."""
        return self.centred / np.sqrt(self.variance + epsilon)


def another_epsilon(x: np.ndarray, g: np.ndarray, c: np.ndarray, groups: int) -> str | None:
    """A norm whose epsilon is not the golden's; gain and bias follow from the golden's input and output."""
    for norm in norms(x, groups) if x.shape == g.shape else ():
        fits = {epsilon: affine_fit(norm.output(epsilon), g, norm.channels) for epsilon in EPSILONS}
        left = {e: rms(gain * norm.output(e) + bias - g) for e, (gain, bias) in fits.items()}
        least = min(left.values())
        if least > EXACT * rms(g):
            continue
        # A single sample has one variance a group, and the gain makes up for any epsilon: only the difference of the
        # two epsilons shows. Of the pairs that have it, that of published ones.
        powers = {e: best_power(norm, *fits[e], c) for e in EPSILONS if left[e] <= 10 * least + 1e-14 * rms(g)}
        right = min(powers, key=lambda e: min(abs(powers[e] - math.log10(known)) for known in EPSILONS))
        epsilon, (gain, bias) = 10.0 ** powers[right], fits[right]
        if explains(gain * norm.output(epsilon) + bias, g, c):
            return f"a {norm.name} norm with the epsilon {epsilon:.2g} in place of {right:g}"
    return None


def best_power(norm: Norm, gain: np.ndarray, bias: np.ndarray, c: np.ndarray) -> float:
    """The power of ten that as an epsilon brings a norm nearest to the candidate."""
    powers, step = np.arange(-14.0, 3.0), 1.0
    while step > 1e-5:  # finer and finer around the best
        distances = [rms(gain * norm.output(10.0**power) + bias - c) for power in powers]
        best, step = float(powers[int(np.argmin(distances))]), step / 4
        powers = best + step * np.arange(-4, 5)
    return best


def norms(x: np.ndarray, groups: int) -> Iterator[Norm]:
    """The norms that an input may have gone through."""
    if x.ndim >= 3 and x.shape[1] % groups == 0:
        split = x.reshape(len(x), groups, -1)
        centred = split - split.mean(axis=2, keepdims=True)
        variance = np.broadcast_to(np.mean(centred**2, axis=2, keepdims=True), centred.shape)
        yield Norm("group", centred.reshape(x.shape), variance.reshape(x.shape), 1)
    if x.ndim in (2, 3):
        centred = x - x.mean(axis=-1, keepdims=True)
        yield Norm("layer", centred, np.mean(centred**2, axis=-1, keepdims=True), x.ndim - 1)


def affine_fit(x: np.ndarray, y: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """For each channel the gain and the bias that bring x nearest to y, with the other axes of size 1."""
    axes = tuple(axis for axis in range(x.ndim) if axis != channels)
    mean_x, mean_y = (z.mean(axis=axes, keepdims=True) for z in (x, y))
    variance = np.mean((x - mean_x) ** 2, axis=axes, keepdims=True)
    covariance = np.mean((x - mean_x) * (y - mean_y), axis=axes, keepdims=True)
    gain = np.divide(covariance, variance, out=np.zeros_like(covariance), where=variance > 0)
    return gain, mean_y - gain * mean_x
