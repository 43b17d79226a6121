r"""Between two noises: along the arc of the sphere that both lie on, since a straight line leads through less noise.

Source: Shoemake 1985, "Animating rotation with quaternion curves", section 3.3.
"""

from __future__ import annotations

import numpy as np

from tinyldm.diffusion.types import Array


def slerp(a: Array, b: Array, amount: Array | float, axis: int | tuple[int, ...]) -> Array:
    r"""$\frac{\sin((1 - t)\,\omega)}{\sin\omega} a + \frac{\sin(t\,\omega)}{\sin\omega} b$, $\omega$ the angle of both.

    `a` and `b` are of one shape, vectors along `axis`; `amount` is $t$ from 0, `a`, to 1, `b`, and broadcasts against
    them. Where both point the same way, or opposite ways, the line is straight.
    """
    dot, squares = (a * b).sum(axis, keepdims=True), (a * a).sum(axis, keepdims=True) * (b * b).sum(axis, keepdims=True)
    omega = np.arccos(np.clip(dot / np.sqrt(np.where(squares, squares, 1)), -1, 1))
    sine = np.sin(omega)
    bent, sine = sine > 1e-6, np.where(sine > 1e-6, sine, 1)
    from_a = np.where(bent, np.sin((1 - amount) * omega) / sine, 1 - amount)
    from_b = np.where(bent, np.sin(amount * omega) / sine, amount)
    mixed: Array = (from_a * a + from_b * b).astype(a.dtype, copy=False)
    return mixed
