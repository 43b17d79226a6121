"""The cost model against sums by hand, and against a run that really computes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import tinyldm
from tinyldm import cost, nn


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> tinyldm.LatentDiffusion:
    return tinyldm.load(checkpoint, backend="reference")


def test_shapes_are_those_of_a_real_run(model) -> None:
    with nn.trace() as real:
        model.unet(np.ones((1, 4, 6, 5)), 3, np.ones((1, 16, 16)))
    counted = {c.path: c.shape for c in cost.unet_costs(model.unet, 6, 5, 16) if "softmax" not in c.path}
    assert len(counted) > 50
    assert list(counted) == [path for path in real if path in counted]
    assert counted == {path: real[path].shape for path in counted}


def test_every_parameter_is_counted_once(model) -> None:
    encoder, decoder = cost.vae_costs(model.vae, 16, 16)
    for network, costs in (
        (model.unet, cost.unet_costs(model.unet, 8, 8, 16)),
        (model.vae, [*encoder, *decoder]),
        (model.text_encoder, cost.text_encoder_costs(model.text_encoder)),
    ):
        counted = sum(c.parameters for c in costs)
        uncounted = sum(math.prod(s) for n, s in network.parameters.items() if "position_embedding" in n)
        assert counted + uncounted == sum(math.prod(shape) for shape in network.parameters.values())


def test_multiply_adds_by_hand(model) -> None:
    costs = {c.path: c for c in cost.unet_costs(model.unet, 8, 8, 16)}
    assert costs["conv_in"].multiply_adds == 8 * 8 * 8 * 4 * 9
    attention = "down_blocks.0.attentions.0.transformer_blocks.0"
    assert costs[f"{attention}.attn1 (softmax)"].multiply_adds == 2 * 64 * 64 * 8
    assert costs[f"{attention}.attn2 (softmax)"].multiply_adds == 2 * 64 * 16 * 8
    assert costs[f"{attention}.attn2.to_k"].multiply_adds == 16 * 16 * 8
    assert costs["mid_block"].multiply_adds == 0  # its parts are counted, not itself again


def test_blocks_sum_up(model) -> None:
    costs = cost.unet_costs(model.unet, 8, 8, 16)
    blocks = cost.by_block(costs)
    assert sum(b.multiply_adds for b in blocks) == cost.total(costs)
    assert [b.path for b in blocks][:3] == ["time_embedding", "conv_in", "down_blocks.0"]
