"""Solutions to the exercises of chapter 2, the operators."""

from fractions import Fraction

import numpy as np

from tinyldm import ops
from tinyldm.kernels.winograd import POINTS, toom_cook

rng = np.random.default_rng(0)


def test_1_a_linear_layer_is_a_convolution():
    x, weight, bias = rng.standard_normal((2, 5, 7, 3)), rng.standard_normal((4, 3)), rng.standard_normal(4)
    np.testing.assert_allclose(ops.linear(x, weight, bias), ops.conv2d(x, weight[:, :, None, None], bias))


def test_2_what_a_norm_forgets():
    x, one, zero = rng.standard_normal((1, 8, 8, 6)), np.ones(6), np.zeros(6)

    def norm(x, groups):
        return ops.group_norm(x, one, zero, groups, 1e-9)

    np.testing.assert_allclose(norm(3 * x + 7, 2), norm(x, 2), atol=1e-7)
    changed = x.copy()
    changed[..., 0] += 7  # one channel of a group of three: the group's mean and variance change
    assert np.abs(norm(changed, 2) - norm(x, 2)).max() > 0.1
    np.testing.assert_allclose(norm(changed, 6), norm(x, 6), atol=1e-7)  # a group of one forgets it again


def test_3_no_order_among_keys():
    """The text encoder adds a vector for each place to the token's own, so that the keys themselves know."""
    q, k, v = rng.standard_normal((3, 1, 10, 8))
    order = rng.permutation(10)
    np.testing.assert_allclose(ops.attention(q, k[:, order], v[:, order], 2), ops.attention(q, k, v, 2))


def test_4_how_far_it_can_see():
    def seen(stride):
        x, weight = np.ones((1, 15, 15, 1)), np.ones((1, 1, 3, 3))

        def pixel(x):
            y = ops.conv2d(ops.conv2d(x, weight, stride=stride, padding=1), weight, padding=1)
            return y[0, y.shape[1] // 2, y.shape[2] // 2, 0]

        def without(i, j):
            changed = x.copy()
            changed[0, i, j] = 0
            return pixel(changed)

        return sum(without(i, j) != pixel(x) for i in range(15) for j in range(15))

    assert seen(stride=1) == 5 * 5
    assert seen(stride=2) == 7 * 7


def test_5_the_count_of_winograd():
    A_T, G, B_T = (np.array(m, float) for m in toom_cook(POINTS, outputs=4, taps=3))
    assert all(isinstance(p, Fraction) for p in POINTS)
    d, g = rng.standard_normal((6, 6)), rng.standard_normal((3, 3))
    values = (G @ g @ G.T) * (B_T @ d @ B_T.T)
    y = A_T @ values @ A_T.T
    direct = [[(d[i : i + 3, j : j + 3] * g).sum() for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(y, direct)
    assert values.size == 36  # products, where the direct way takes 16 · 9
