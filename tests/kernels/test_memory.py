"""Memory that grows with the pixels and not with their square, measured."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import tinyldm
from tinyldm import kernels
from tinyldm.kernels import buffers


def peak(function: Callable[[], object]) -> int:
    """Bytes that NumPy held at most, beyond what was there before; after a call that makes what is kept."""
    function()
    tracemalloc.start()
    function()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


@pytest.fixture(autouse=True)
def plain_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(buffers, "SMALLEST", math.inf)  # what lies idle is bounded in test_buffers.py
    with kernels.using_threads(1):  # whether a helper takes part, and takes memory of its own, is chance
        yield


@pytest.mark.parametrize("heads", [1, 4])
def test_attention(heads: int) -> None:
    def run(tokens: int) -> Callable[[], object]:
        q, k, v = (np.ones((1, tokens, 32), np.float32) for _ in range(3))
        return lambda: kernels.attention(q, k, v, heads)

    small, large = peak(run(2048)), peak(run(8192))
    assert large < 4.2 * small
    assert large < 8192**2 * 4 / 20  # of the matrix of all scores, not even a twentieth


@pytest.mark.parametrize("part", ["UNet", "decoder", "encoder"])
def test_networks(part: str) -> None:
    model = tinyldm.load()
    context = model.unet.prepare(np.ones((1, 77, model.unet.config.context_dim), np.float32))

    def run(side: int) -> Callable[[], object]:
        z = np.random.default_rng(0).standard_normal((1, 4, side, side)).astype(np.float32)
        pixels = np.ones((1, 3, side * model.vae.config.factor, side * model.vae.config.factor), np.float32)
        works = {
            "UNet": lambda: model.unet(z, 500, context),
            "decoder": lambda: model.vae.decode(z),
            "encoder": lambda: model.vae.encode(pixels),
        }
        return works[part]

    assert peak(run(64)) < 4.3 * peak(run(32))
