"""A first stage in tiles gives the numbers of the whole one, from less memory."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyldm
from tinyldm import kernels
from tinyldm.checkpoints.base import MemorySource
from tinyldm.errors import InputError
from tinyldm.golden.seeded import seeded_weights
from tinyldm.kernels import buffers
from tinyldm.models.build import build, expected
from tinyldm.models.tiled import tiled
from tinyldm.runtime import Runtime
from tinyldm.tracing import trace
from tinyldm.typing import Array


def blocks(widths: list[int], layers: int = 2, **more: Any) -> dict[str, Any]:
    levels = {
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
    }
    return levels | {"block_out_channels": widths, "layers_per_block": layers, "norm_num_groups": 4} | more


ATTENTION = {"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}
ATTENTION["up_block_types"] = ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"]
CONFIGS = {
    "embedded": ("AutoencoderKL", blocks([16, 32, 64], 1)),
    "sd15, narrow": ("AutoencoderKL", blocks([16, 32, 64, 64])),
    "no attention, no quant_conv": (
        "AutoencoderKL",
        blocks([8, 16], mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False),
    ),
    "attention in a level": (
        "VQModel",
        blocks([16, 32], 1) | ATTENTION | {"latent_channels": 3, "num_vq_embeddings": 8},
    ),
    "asymmetric": (
        "AsymmetricAutoencoderKL",
        {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
        | {"down_block_out_channels": [8, 16], "up_block_out_channels": [16, 32], "norm_num_groups": 4},
    ),
    "tiny": ("AutoencoderTiny", {"encoder_block_out_channels": [8] * 4, "decoder_block_out_channels": [8] * 4}),
}
MODES = {
    "reference": Runtime(dtype="float64"),
    "fast": Runtime("numba"),
    "strict": Runtime("numba", precision="strict"),
}


def made(name: str, runtime: Runtime) -> Any:
    kind, config = CONFIGS[name]
    return build(kind, config, MemorySource(seeded_weights(expected(kind, config))), runtime)


STAGES = {(name, mode): made(name, runtime) for name in CONFIGS for mode, runtime in MODES.items()}


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(STAGES)), st.integers(1, 2), st.integers(1, 9), st.integers(1, 7), st.integers(1, 5),
    st.integers(0, 99),
)  # fmt: skip
def test_equal_everywhere(key: tuple[str, str], n: int, h: int, w: int, rows: int, seed: int) -> None:
    whole = STAGES[key]
    parts = tiled(whole, rows * whole.factor)
    tolerance = 1e-10 if key[1] == "reference" else 1e-5
    z = normal(seed, n, whole.latent_channels, h, w)
    np.testing.assert_allclose(parts.decode(z), whole.decode(z), rtol=0, atol=tolerance)
    pixels = normal(seed, n, 3, h * whole.factor, w * whole.factor)
    for found, wanted in zip(parts.encode(pixels), whole.encode(pixels), strict=True):
        finite = np.isfinite(wanted)
        np.testing.assert_allclose(found[finite], wanted[finite], rtol=0, atol=tolerance)


def test_the_bands_of_the_kernels_are_those_of_the_whole() -> None:
    """Where bands begin at a tile of Winograd's, what is left are the sums of the norm, taken in another order."""
    whole = STAGES["sd15, narrow", "fast"]
    z = normal(0, 1, 4, 24, 16)
    assert np.abs(tiled(whole, 64).decode(z) - whole.decode(z)).max() < 1e-6


def test_a_tile_that_does_not_fit() -> None:
    for tile in (0, -8, 12, 8.0, True):
        with pytest.raises(InputError, match="tile must be a multiple of 8 rows of pixels, not"):
            tiled(STAGES["tiny", "fast"], tile)


def test_a_flow_is_refused() -> None:
    config = {"levels": 1, "depth": 1, "hidden": 4}
    flow = build("Flow", config, MemorySource(seeded_weights(expected("Flow", config))), MODES["reference"])
    with pytest.raises(InputError, match="flow: is not computed in tiles"):
        tiled(flow, 8)


def test_a_known_part_is_refused() -> None:
    stage = tiled(STAGES["asymmetric", "reference"], 2)
    with pytest.raises(InputError, match="known part"):
        stage.decode(normal(0, 1, 4, 2, 2), np.zeros((1, 3, 4, 4)), np.zeros((1, 1, 4, 4)))


def test_a_trace_is_that_of_the_whole() -> None:
    whole = STAGES["embedded", "reference"]
    z = normal(0, 1, 4, 6, 6)
    with trace() as wanted:
        whole.decode(z)
    with trace() as found:
        tiled(whole, 8).decode(z)
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(("part", "most"), [("decode", 0.45), ("encode", 0.7)])
def test_memory(part: str, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder holds one map of the widest input instead of five of its output's; an encoder's inputs are no wider."""
    monkeypatch.setattr(buffers, "SMALLEST", math.inf)
    whole = STAGES["sd15, narrow", "fast"]
    x = normal(0, 1, *{"decode": (4, 48, 48), "encode": (3, 384, 384)}[part])

    def peak(stage: Any) -> int:
        getattr(stage, part)(x)
        tracemalloc.start()
        getattr(stage, part)(x)
        _, held = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return held

    with kernels.using_threads(1):
        assert peak(tiled(whole, 8)) < most * peak(whole)


def test_a_model_in_tiles(checkpoint: Any) -> None:
    model = tinyldm.load(checkpoint, backend="reference", dtype="float64")
    parts = model.tiled(4)
    assert parts.vae.tile == 4
    latent = model.encode(model.text_to_image("a", steps=2)[0])
    np.testing.assert_allclose(model.tiled(8).encode(model.decode(latent)[0]), model.encode(model.decode(latent)[0]))
    assert np.array_equal(parts.decode(latent)[0], model.decode(latent)[0])
    assert np.array_equal(parts.text_to_image("a", steps=2)[0], model.text_to_image("a", steps=2)[0])
    with pytest.raises(InputError, match="multiple of 2 rows"):
        model.tiled(3)
