"""Solutions to the exercises of chapter 11, performance."""

import math

import numpy as np
import pytest

from tinyldm import cost
from tinyldm.architectures import random_model
from tinyldm.kernels.simd import TARGETS
from tinyldm.kernels.winograd import POINTS, toom_cook
from tinyldm.runtime import Runtime


def test_1_when_attention_takes_over():
    """From latents of 152 on, pictures of 1216 pixels: self-attention grows with the square of the pixels."""
    unet = random_model("sd15", Runtime()).unet

    def share(side):
        costs = cost.unet_costs(unet, side, side)
        return cost.attention_products(costs) / cost.total(costs)

    assert share(144) < 0.5 < share(152)


def test_2_one_token():
    """A half, however wide the layer is: every weight is read for a single multiply-add. For many it is C / 4."""

    def intensity(tokens, c):
        return 2 * tokens * c * c / (4 * (tokens * c + c * c + tokens * c))

    for c in (64, 320, 4096):
        assert intensity(1, c) == pytest.approx(0.5, rel=2.5 / c + 0.01)
        assert intensity(10**9, c) == pytest.approx(c / 4, rel=1e-3)


def test_3_the_best_tile():
    """5 × 5. But its columns are 80, and a matrix of 64 columns would be filled up to them: a fifth for nothing."""
    fitting = [(r, v) for r in range(1, 32) for v in range(1, 32) if r * v + v + 1 <= 32]
    r, v = max(fitting, key=lambda tile: tile[0] * tile[1] / sum(tile))
    assert (r, v) == (5, 5)
    ours = TARGETS["avx512"]
    assert (ours.tile_rows, ours.tile_vectors) in fitting

    def wasted(columns, wanted):
        return 1 - wanted / (columns * math.ceil(wanted / columns))

    widths = (64, 128, 160)  # of the embedded UNet
    assert [round(wasted(ours.width * v, n), 2) for n in widths] == [0.2, 0.2, 0]
    assert [wasted(ours.tile_columns, n) for n in widths] == [0, 0, 0]


def test_4_when_winograd_pays():
    """From 7 channels on. Each piece of an input channel takes Bᵀ d B, each block of an output channel Aᵀ M A."""
    a_t, g, b_t = (np.array(m, float) for m in toom_cook(POINTS, outputs=4, taps=3))
    (outputs, side), taps = a_t.shape, g.shape[1]
    into = 2 * b_t.shape[0] * side * side  # d is side × side, and so is what comes out
    back = outputs * side * side + outputs * side * outputs

    def winograd(c):
        return side**2 * c * c + (into + back) * c

    def direct(c):
        return outputs**2 * taps**2 * c * c

    assert [winograd(c) < direct(c) for c in (6, 7, 320)] == [False, True, True]


def test_5_two_processors():
    share = (1 - 1 / 1.9) / (1 - 1 / 2)

    def speedup(threads):
        return 1 / (1 - share + share / threads)

    assert speedup(2) == pytest.approx(1.9)
    assert speedup(8) == pytest.approx(5.85, abs=0.01)
    assert speedup(10**9) == pytest.approx(19, abs=0.01)
