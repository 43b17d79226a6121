"""Guidance: how the prediction with the prompt and the one without it make the prediction that is used."""

from __future__ import annotations

from tinyldm.diffusion.types import Array


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
