"""The random stream against PyTorch's, bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from golden.provenance import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyldm.random
from tinyldm.diffusion.random import (
    PictureStreams,
    TorchGenerator,
    torch_randn,
)
from tinyldm.diffusion.streams import picture_streams
from tinyldm.errors import InputError

TENSORS, PROVENANCE = load_golden("diffusion/random")


@pytest.mark.parametrize("seed", PROVENANCE["seeds"])
def test_mixed_calls_give_the_bits_of_pytorch(seed: int) -> None:
    generator = TorchGenerator(seed)
    for k, (function, size, dtype) in enumerate(PROVENANCE["calls"]):
        want = TENSORS[f"{seed}.{k:02d}"]
        got = getattr(generator, function)(size, dtype)
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        if function == "randn" and dtype == "float64" and size >= 16:
            np.testing.assert_allclose(got, want, rtol=1e-14, atol=1e-15)  # the C library's last digit
        else:
            assert got.tobytes() == want.tobytes(), (k, function, size, dtype)


def test_words_are_the_reference_stream() -> None:
    # The 10,000th word for the seed 5489 is stated in the C++ standard (rand.predef).
    last = TorchGenerator(5489).rand(5_000, np.float64)[-1]  # of two words each; the second one is the low 32 bits
    assert int(last * 2**53) % 2**32 == 4123659995


def test_public_alias() -> None:
    assert np.array_equal(tinyldm.random.torch_randn((2, 8), seed=5), TorchGenerator(5).randn((2, 8)))


@given(st.integers(-(2**63), 2**64 - 1), st.integers(16, 200))
@settings(deadline=None, max_examples=30)
def test_normals_are_box_muller_of_the_uniforms(seed: int, size: int) -> None:
    values = torch_randn(size, seed)
    whole = size - size % 16
    source = TorchGenerator(seed)
    uniforms = source.rand(size).astype(np.float64)
    if whole < size:
        uniforms = np.concatenate([uniforms[: size - 16], source.rand(16).astype(np.float64)])
    for start in [*range(0, whole, 16), size - 16]:
        block = uniforms[start : start + 16]
        if start != size - 16 and start + 16 > size - 16 and whole < size:
            continue  # partly overwritten by the tail
        for j in range(8):
            radius = math.sqrt(-2 * math.log(1 - block[j]))
            assert values[start + j] == pytest.approx(radius * math.cos(2 * math.pi * block[j + 8]), rel=1e-5, abs=2e-6)
            assert values[start + j + 8] == pytest.approx(
                radius * math.sin(2 * math.pi * block[j + 8]), rel=1e-5, abs=2e-6
            )


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=20)
def test_only_the_low_half_of_the_seed_counts(low: int, high: int) -> None:
    assert np.array_equal(torch_randn(20, low), torch_randn(20, low + (high << 32)))


def test_the_seed_is_known() -> None:
    assert TorchGenerator(7).initial_seed == 7
    assert TorchGenerator(-1).initial_seed == 2**64 - 1


def test_moments() -> None:
    values = torch_randn(1 << 20, 11).astype(np.float64)
    assert abs(values.mean()) < 5e-3
    assert abs(values.std() - 1) < 5e-3
    assert abs((values**4).mean() - 3) < 5e-2


def test_shapes() -> None:
    assert torch_randn(()).shape == ()
    assert torch_randn((2, 0, 3)).shape == (2, 0, 3)
    assert torch_randn((1, 4, 8, 8)).shape == (1, 4, 8, 8)
    assert np.array_equal(torch_randn((4, 4)).ravel(), torch_randn(16))


@pytest.mark.parametrize("seed", [1.5, "1", None, True, np.bool_(True), 2**64, -(2**63) - 1])
def test_bad_seeds(seed: object) -> None:
    with pytest.raises(InputError, match="seed"):
        TorchGenerator(seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [1.5, (2, 1.5), (2, -1), -3, "4"])
def test_bad_shapes(shape: object) -> None:
    with pytest.raises(InputError, match="shape"):
        torch_randn(shape)  # type: ignore[arg-type]


def test_bad_dtype() -> None:
    with pytest.raises(InputError, match="float16"):
        torch_randn(3, dtype=np.float16)


def test_the_smallest_uniform_gives_a_positive_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logarithm of 1 is 0, and so the radius -0."""
    monkeypatch.setattr(TorchGenerator, "_uniforms", lambda self, size, dtype: np.zeros(size, dtype))
    assert TorchGenerator(0).randn(16).tobytes() == bytes(64)


@given(st.integers(-(2**63), 2**64 - 1), st.integers(1, 4), st.sampled_from([(4, 2, 2), (1,), (3, 5), ()]))
@settings(deadline=None, max_examples=30)
def test_every_picture_has_a_stream_of_its_own(seed: int, count: int, shape: tuple[int, ...]) -> None:
    together = picture_streams(seed, count)
    alone = [TorchGenerator((seed + k) % 2**64) for k in range(count)]
    for dtype in (np.float32, np.float64, np.float32):
        rows = together.randn((count, *shape), dtype)
        assert rows.dtype == dtype
        for row, generator in zip(rows, alone, strict=True):
            assert row.tobytes() == generator.randn((1, *shape), dtype)[0].tobytes()


def test_picture_streams_have_the_bits_of_a_list_of_generators_in_diffusers() -> None:
    tensors, provenance = load_golden("diffusion/picture_streams")
    streams = picture_streams(provenance["seed"], 3)
    for k, shape in enumerate(provenance["shapes"]):
        assert streams.randn(tuple(shape)).tobytes() == tensors[str(k)].tobytes()


def test_what_picture_streams_refuse() -> None:
    with pytest.raises(InputError, match="2 pictures"):
        picture_streams(0, 2).randn((3, 4))
    with pytest.raises(InputError, match="2 pictures"):
        PictureStreams([TorchGenerator(0), TorchGenerator(1)]).randn(())
    with pytest.raises(InputError, match="'dice' is unknown; take torch"):
        picture_streams(0, 2, "dice")
    for count in (0, True, 1.5):
        with pytest.raises(InputError, match="count"):
            picture_streams(0, count)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="seed"):
        picture_streams(2**64, 1)
