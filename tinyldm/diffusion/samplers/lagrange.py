"""The polynomial through given points, integrated: the weights of Adams's methods."""

from __future__ import annotations

from collections.abc import Sequence


def lagrange_weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:  # (n,), (n,) -> (n,)
    r"""The integrals of the Lagrange polynomials $l_k(u) = \prod_{j \ne k} (u - u_j) / (u_k - u_j)$ of the nodes $u$.

    `moments` are the integrals of $1, u, u^2, \dots$; Python's numbers, since NumPy's polynomials take far longer.
    """
    weights = []
    for k, node in enumerate(nodes):
        basis = [1.0]  # the coefficients, lowest power first
        for other in (*nodes[:k], *nodes[k + 1 :]):
            raised, shifted = [0.0, *basis], [*(other * c for c in basis), 0.0]
            basis = [(high - low) / (node - other) for high, low in zip(raised, shifted, strict=True)]
        weights.append(sum(c * m for c, m in zip(basis, moments, strict=True)))
    return weights
