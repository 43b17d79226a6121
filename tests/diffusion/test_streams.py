"""What a seed means elsewhere: the stream of a GPU against values of a real one, and NumPy's own."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from golden.provenance import load_golden
from hypothesis import given
from hypothesis import strategies as st

from tinyldm.diffusion.philox import THREADS, CudaGenerator, philox
from tinyldm.diffusion.streams import GENERATORS, NumpyGenerator, generators, picture_streams
from tinyldm.errors import InputError

TENSORS, PROVENANCE = load_golden("diffusion/cuda_randn")
NORMALS = {"float32": 3e-6, "float64": 1e-14}  # absolute: the card's own sine, and its library's last digits


def check(name: str, got: np.ndarray) -> None:
    """One draw against the card's: uniforms bit for bit, to the last one, normals within the card's own error."""
    want, ends = TENSORS[name], PROVENANCE["ends"]
    if name in PROVENANCE["whole"]:
        assert hashlib.sha256(got.tobytes()).hexdigest() == PROVENANCE["whole"][name]
    flat = got.ravel() if got.size <= 2 * ends else np.concatenate([got.ravel()[:ends], got.ravel()[-ends:]])
    assert flat.dtype == want.dtype
    np.testing.assert_allclose(flat, want, rtol=0, atol=0 if name in PROVENANCE["whole"] else NORMALS[str(want.dtype)])


@pytest.mark.parametrize("name", [name for name in TENSORS if not name.startswith("mixed")])
def test_first_draws_are_the_cards(name: str) -> None:
    function, dtype, seed, shape = name.split("/")
    check(name, getattr(CudaGenerator(int(seed)), function)(tuple(map(int, shape.split("x"))), dtype))


@pytest.mark.parametrize("seed", PROVENANCE["seeds"])
def test_draws_of_one_generator_follow_each_other(seed: int) -> None:
    generator = CudaGenerator(seed)
    for name in sorted(name for name in TENSORS if name.startswith(f"mixed/float32/{seed}/")):
        _, function, size = name.rsplit("/", 1)[1].split("-")
        check(name, getattr(generator, function)(int(size)))


def test_the_threads_are_the_recorded_cards() -> None:
    card = PROVENANCE["card"]
    blocks = card["multi_processor_count"] * (card["max_threads_per_multi_processor"] // 256)
    assert blocks * 256 == THREADS
    assert any(TENSORS[name].size < 512 for name in TENSORS)
    assert 16 * 128 * 128 < THREADS < 300_000  # a draw of the recording goes past them


def test_philox_is_the_published_one() -> None:
    """The known answer for a counter and a key of zeros of the authors' library Random123."""
    assert [f"{word:08x}" for word in word_list(0, 0, 0)] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


def word_list(counter: int, thread: int, seed: int) -> list[int]:
    return philox(np.array([[counter]], np.uint64), np.array([thread], np.uint64), seed)[0, :, 0].tolist()


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(0, 2**32 - 1))
def test_philox_is_its_definition(seed: int, counter: int, thread: int) -> None:
    """Salmon et al. 2011, section 3.3, one round after the other in Python's integers."""
    a, b, c, d = counter % 2**32, counter // 2**32, thread, 0
    k0, k1 = seed % 2**32, seed // 2**32
    for _ in range(10):
        (h0, l0), (h1, l1) = divmod(a * 0xD2511F53, 2**32), divmod(c * 0xCD9E8D57, 2**32)
        a, b, c, d = h1 ^ b ^ k0, l1, h0 ^ d ^ k1, l0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    assert word_list(counter, thread, seed) == [a, b, c, d]


@given(st.integers(0, 2**64 - 1), st.integers(1, 3000), st.sampled_from([256, 512, 1024]))
def test_another_card_differs_past_its_threads_only(seed: int, size: int, threads: int) -> None:
    """Element i is value (i // threads) % 4 of thread i % threads, each fourth turn of the next counter."""
    small, large = CudaGenerator(seed, threads).rand(size), CudaGenerator(seed).rand(size)
    assert np.array_equal(small[:threads], large[:threads])
    for i in {0, size // 2, size - 1}:
        word = word_list(i // (4 * threads), i % threads, seed)[i // threads % 4]
        value = np.float32(word) * np.float32(2**-32) + np.float32(2**-33)
        assert small[i] == (0 if value == 1 else value)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 513, 2048, 2049])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normals_are_those_of_the_formula(size: int, dtype: str) -> None:
    """Box and Muller in float64 of the same words, on a card so small that every place of a thread is taken."""
    got = CudaGenerator(9, 256).randn(size, dtype)
    for i in range(size):
        if dtype == "float32":
            words, slot = word_list(i // 1024, i % 256, 9), i // 256 % 4
            x, y = (word / 2**32 + 2**-33 for word in words[slot // 2 * 2 : slot // 2 * 2 + 2])
        else:
            words, slot = word_list(i // 512, i % 256, 9), i // 256 % 2
            x, y = ((words[j] ^ (words[j + 1] << 21)) / 2**53 + 2**-54 for j in (0, 2))
        want = np.sqrt(-2 * np.log(x)) * (np.sin, np.cos)[slot % 2](2 * np.pi * y)
        assert got[i] == pytest.approx(want, rel=1e-5, abs=3e-6 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_numpy_is_the_generator_that_onnx_pipelines_take(seed: int) -> None:
    ours, state = NumpyGenerator(seed), np.random.RandomState(seed)
    for shape in ((1, 4, 8, 8), (3,), (1, 4, 8, 8)):
        assert np.array_equal(ours.randn(shape), state.randn(*shape).astype(np.float32))
    assert ours.randn(2, np.float64).dtype == np.float64
    assert (ours.initial_seed, ours.seeds) == (seed, [seed])


@pytest.mark.parametrize("kind", [*GENERATORS, "cuda:1024"])
def test_every_picture_has_a_stream_of_its_own(kind: str) -> None:
    together = picture_streams(5, 3, kind)
    alone = [generators(kind)(5 + k) for k in range(3)]
    for _ in range(2):
        rows = together.randn((3, 4, 16, 17))
        for row, generator in zip(rows, alone, strict=True):
            assert row.tobytes() == generator.randn((1, 4, 16, 17))[0].tobytes()


def test_streams_are_different() -> None:
    first = {kind: generators(kind)(0).randn(4).tolist() for kind in GENERATORS}
    assert len({tuple(values) for values in first.values()}) == 3


@pytest.mark.parametrize(
    ("rng", "message"),
    [
        ("dice", "'dice' is unknown; take torch, cuda, numpy, or cuda:THREADS"),
        ("torch:256", "unknown"),
        ("cuda:", "the number of the card's threads is missing"),
        ("cuda:many", "the number of the card's threads is missing"),
        ("cuda:²", "the number of the card's threads is missing"),
        ("cuda:100", "multiple of 256, not 100"),
        ("cuda:0", "multiple of 256, not 0"),
        (7, "unknown"),
    ],
)
def test_unknown_streams(rng: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        generators(rng)


def test_what_generators_refuse() -> None:
    with pytest.raises(InputError, match="NumPy's range"):
        NumpyGenerator(2**32)
    with pytest.raises(InputError, match="dtype"):
        CudaGenerator(0).randn(3, np.float16)
    with pytest.raises(InputError, match="seed"):
        CudaGenerator(2**64)
