"""Scaled dot-product attention with several heads."""

from __future__ import annotations

import math

import numpy as np

from tinyldm.errors import InputError
from tinyldm.ops.vectors import softmax


def head_sizes(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> tuple[int, int]:
    """The channels of a head: of queries and keys, and of values.

    Raises `InputError` where the heads do not divide the channels, or the shapes do not fit together.
    """
    if not q.ndim == k.ndim == v.ndim == 3 or k.shape != (len(q), k.shape[1], q.shape[2]) or v.shape[:2] != k.shape[:2]:
        raise InputError(f"attention: the shapes of q {q.shape}, k {k.shape} and v {v.shape} do not fit together")
    if heads < 1 or q.shape[2] % heads or v.shape[2] % heads:
        raise InputError(f"attention: {heads} heads do not divide the channels of q {q.shape} and v {v.shape}")
    return q.shape[2] // heads, v.shape[2] // heads


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    heads: int,
    mask: np.ndarray | None = None,
    scale: float | None = None,
) -> np.ndarray:
    r"""Every query token gathers a weighted mean of the values, in each head.

    `q (N, L_q, C), k (N, L_k, C), v (N, L_k, C_v) -> (N, L_q, C_v)`:

    $$\mathrm{softmax}\!\left(s\, Q_h K_h^{\mathsf T} + M\right) V_h$$

    for each head $h$, which sees its own $d = C / \text{heads}$ channels; $s$ = `scale`, by default $1/\sqrt d$; $M$ =
    `mask`, added to the scores and broadcast to `(N, heads, L_q, L_k)`, with $-\infty$ where a query may not look. A
    query that may look nowhere, or where there are no keys, gathers nothing: 0.

    Source: Vaswani et al. 2017, arXiv:1706.03762, sections 3.2.1 and 3.2.2.

    Raises `InputError` where the heads do not divide the channels, or the shapes of q, k and v do not fit together.
    """
    d, d_v = head_sizes(q, k, v, heads)
    n, queries, keys = *q.shape[:2], k.shape[1]
    s = q.dtype.type(1 / math.sqrt(d) if scale is None else scale)
    if mask is not None:
        mask = np.broadcast_to(mask, (n, heads, queries, keys))

    out = np.empty((n, queries, v.shape[2]), q.dtype)
    for i in range(n):
        for h in range(heads):  # one head at a time: a single L_q × L_k matrix is alive
            scores = (q[i, :, h * d : (h + 1) * d] * s) @ k[i, :, h * d : (h + 1) * d].T
            if mask is not None:
                scores = scores + mask[i, h].astype(q.dtype, copy=False)
            blind = np.isneginf(scores).all(axis=-1, keepdims=True)
            weights = np.where(blind, q.dtype.type(0), softmax(np.where(blind, q.dtype.type(0), scores)))
            out[i, :, h * d_v : (h + 1) * d_v] = weights @ v[i, :, h * d_v : (h + 1) * d_v]
    return out


def causal_mask(length: int, dtype: np.dtype | type = np.float32) -> np.ndarray:
    """The mask of a language model, `(length, length)`: token i sees tokens 0 … i (0 there, -inf elsewhere)."""
    return np.triu(np.full((length, length), -np.inf, dtype), 1)
