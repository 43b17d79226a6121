"""The kernels through the matrix unit, held to its arithmetic in NumPy.

    python check_tiles.py own | trapped | emulated

The processor's own unit; its instructions where a processor without it traps (`trapped_tiles`); or other instructions
in their place (`emulated_tiles`). Prints "held".
"""

from __future__ import annotations

import sys

import emulated_tiles
import numpy as np


def check():
    """Linear layers, convolutions and attention through the unit, against NumPy."""
    from tinyldm import kernels, ops
    from tinyldm.ops.bfloat16 import rounded

    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    for tokens, c_in, c_out in ((1, 1, 1), (5, 7, 33), (70, 96, 40), (130, 330, 65), (33, 850, 8)):
        x, w, b = normal(1, tokens, c_in), normal(c_out, c_in), normal(c_out)
        for threads in (1, 2):
            with kernels.using_threads(threads):
                y = kernels.linear(x, kernels.prepare_linear(w, precision="bf16"), b)
            np.testing.assert_array_equal(y[0], emulated_tiles.product(rounded(x[0]), rounded(w).T) + b)
        r = normal(1, tokens, c_out)
        gated = kernels.prepare_linear(np.concatenate([w, w[::-1]]), gated=True, precision="bf16")
        a, g = (emulated_tiles.product(rounded(x[0]), rounded(part).T) for part in (w, w[::-1]))
        np.testing.assert_allclose(kernels.linear_geglu(x, gated)[0], a * ops.gelu(g), rtol=1e-5, atol=1e-5)
        y = kernels.linear_residual(x, kernels.prepare_linear(w, precision="bf16"), b, r)
        np.testing.assert_array_equal(y[0], emulated_tiles.product(rounded(x[0]), rounded(w).T) + b + r[0])
    for n, side, c_in, c_out, size, stride in ((2, 9, 20, 33, 3, 1), (1, 12, 40, 5, 3, 2), (1, 7, 3, 16, 3, 1)):
        x, w = normal(n, side, side, c_in), normal(c_out, c_in, size, size)
        filters = kernels.prepare_conv2d(w, stride, "bf16")
        assert filters.algorithm == "direct"
        y = kernels.conv2d(x, filters, stride=stride, padding=size // 2)
        wanted = ops.conv2d(*(rounded(a).astype(float) for a in (x, w)), stride=stride, padding=size // 2)
        assert np.abs(y - wanted).max() <= 1e-5 * np.abs(wanted).max()
    for n, queries, keys, heads, d, d_v in ((1, 3, 5, 2, 8, 8), (2, 70, 300, 3, 13, 17), (1, 150, 77, 2, 40, 40)):
        q, k, v = normal(n, queries, heads * d), normal(n, keys, heads * d), normal(n, keys, heads * d_v)
        y = kernels.attention(q, k, v, heads, precision="bf16")
        scaled = rounded(q * np.float32(1 / np.sqrt(d))).astype(float)
        wanted = ops.attention(scaled, rounded(k).astype(float), rounded(v).astype(float), heads, scale=1.0)
        assert np.sqrt(np.mean(np.square(y - wanted)) / np.mean(np.square(wanted))) <= 2.5e-3


if __name__ == "__main__":
    way = sys.argv[1]
    if way == "emulated":
        emulated_tiles.install()
        check()
    elif way == "trapped":
        import trapped_tiles

        handler, units = trapped_tiles.install()
        check()
        assert units[:, 0].any(), "no instruction trapped"
        assert not units[:, 1].any(), "a unit was not released"
    else:
        from tinyldm import kernels

        assert kernels.unit() == "amx", kernels.unit()
        check()
    print("held")
