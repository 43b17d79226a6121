"""The compiled halves of a Brownian path against NumPy's, PyTorch's and torchsde's, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from golden.provenance import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyldm
from tinyldm import kernels
from tinyldm.diffusion import brownian
from tinyldm.diffusion.brownian import BrownianTree
from tinyldm.diffusion.random import log_f32, sincos_f32, torch_randn
from tinyldm.kernels.brownian import box_muller
from tinyldm.kernels.compile import Native, Row, Words
from tinyldm.kernels.simd import address

PLAIN = np.array([[0, 0, 1]], np.float32)  # the left half is what is drawn


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5), st.integers(16, 1500), st.randoms())
@settings(deadline=None, max_examples=60)
def test_halves_are_numpy_s(seeds: list[int], size: int, random) -> None:
    """Of all seeds, and of sizes of one twist and of several, of whole blocks and of parts."""
    rng = np.random.default_rng(random.randrange(2**32))
    increment, scales = rng.standard_normal(size).astype(np.float32), rng.random((len(seeds), 3)).astype(np.float32)
    sides = rng.integers(0, 2, len(seeds)).tolist()
    found, wanted = (
        halve(increment, np.array(seeds, np.uint32), scales, sides)
        for halve in (kernels.brownian_halves, brownian.brownian_halves)
    )
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("size", [16, 17, 608, 624, 640, 1024, 16384])
def test_what_is_drawn_is_pytorch_s(size: int) -> None:
    increment = np.zeros(size, np.float32)
    (halves,) = kernels.brownian_halves(increment, np.array([2**32 - 1], np.uint32), PLAIN, [0])
    assert halves[0].tobytes() == torch_randn(size, 2**32 - 1).tobytes()


def test_threads_change_nothing() -> None:
    increment, seeds = torch_randn(4096, 1), np.arange(40, dtype=np.uint32)
    scales, sides = np.random.default_rng(0).random((40, 3)).astype(np.float32), [0, 1] * 20
    with kernels.using_threads(1):
        alone = kernels.brownian_halves(increment, seeds, scales, sides)
    with kernels.using_threads(3):
        assert kernels.brownian_halves(increment, seeds, scales, sides).tobytes() == alone.tobytes()


def test_a_compiled_path_has_the_bits_of_torchsde() -> None:
    tensors, said = load_golden("diffusion/brownian")
    tree = BrownianTree(
        said["start"], said["end"], (2, 3, 5), said["seed"], np.dtype(np.float32), kernels.brownian_halves
    )
    assert tree.halving is kernels.brownian_halves
    for k, (high, low) in enumerate(said["questions"]):
        assert tree(low, high).tobytes() == tensors[str(k)].tobytes()


@pytest.mark.parametrize(("size", "dtype"), [(15, np.float32), (64, np.float64)])
def test_what_is_not_compiled_is_numpy_s(size: int, dtype: type) -> None:
    tree = BrownianTree(0.0, 1.0, (size,), 3, np.dtype(dtype), kernels.brownian_halves)
    assert tree.halving is brownian.brownian_halves
    assert tree(0.25, 0.5).dtype == dtype


def test_pictures_take_the_compiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(
        kernels, "brownian_halves", lambda *given: called.append(given) or brownian.brownian_halves(*given)
    )
    slow = tinyldm.load().text_to_image("red apple", seed=1, steps=2, sampler="dpm++_sde")[0]
    assert called
    monkeypatch.undo()
    assert tinyldm.load().text_to_image("red apple", seed=1, steps=2, sampler="dpm++_sde")[0] == slow


@Native
def transformed(words: Words, normals: Row, blocks: int) -> None:
    """Blocks of words that are given, to normals."""
    box_muller(address(words), address(normals), blocks)


def same_as_numpy(first: np.ndarray, second: np.ndarray) -> None:
    """Normals of pairs of words, eight to a block."""
    words = np.stack([first.reshape(-1, 8), second.reshape(-1, 8)], axis=1).astype(np.uint32)
    normals = np.empty(words.shape, np.float32)
    transformed.compiled(words.ravel(), normals.ravel(), len(words))
    u1, u2 = (w.astype(np.float32) * np.float32(2**-24) for w in (first, second))
    radius = np.sqrt(-2 * log_f32(np.float32(1) - u1))
    sin, cos = sincos_f32(np.float32(2 * np.pi) * u2)
    assert np.array_equal(normals[:, 0].ravel(), radius * cos)
    assert np.array_equal(normals[:, 1].ravel(), radius * sin)


def test_normals_of_words_are_numpy_s() -> None:
    rng = np.random.default_rng(0)
    same_as_numpy(*rng.integers(0, 2**24, (2, 1 << 18)))
    edges = np.array([0, 1, 2**23 - 1, 2**23, 2**23 + 1, 2**24 - 2, 2**24 - 1, 2**22])
    same_as_numpy(np.repeat(edges, 8), np.tile(edges, 8))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(16))
def test_normals_of_all_words_are_numpy_s(part: int) -> None:
    """Every radius and every angle that there is."""
    for start in range(part << 20, (part + 1) << 20, 1 << 16):
        words = np.arange(start, start + (1 << 16))
        same_as_numpy(words, words[::-1])
