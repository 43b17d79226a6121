"""CLIP's image encoder against transformers in float64, and the pixels that it reads against CLIPImageProcessor's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_commands import convert
from golden.adapter_cases import PIXELS, photo
from golden.family_cases import VISION
from golden.provenance import load_golden
from PIL import Image
from tiny_checkpoints import write_image_encoder

from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.recognise import recognise
from tinyldm.checkpoints.safetensors import read_safetensors
from tinyldm.errors import ConfigError, InputError
from tinyldm.golden.seeded import seeded_input, seeded_weights
from tinyldm.models.build import build, expected
from tinyldm.pipelines.image_prompt import clip_pixels
from tinyldm.runtime import Runtime

KIND = "CLIPVisionModelWithProjection"
FLOAT64 = Runtime(backend="reference", dtype=np.dtype(np.float64))
GOLDEN, _ = load_golden("pipelines/image-encoder")


def model_of(name: str, runtime: Runtime = FLOAT64, **changes: Any):
    config = VISION[name] | changes
    return build(KIND, config, MemorySource(seeded_weights(expected(KIND, config))), runtime)


def pixels_of(name: str) -> np.ndarray:
    side = VISION[name]["image_size"]
    return seeded_input("pixels", (2, 3, side, side)).astype(np.float64)


def assert_close(found: np.ndarray, wanted: np.ndarray, bar: float = 1e-9) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= bar * np.abs(wanted).max()


@pytest.mark.parametrize("name", VISION)
def test_embeddings_and_the_tokens_of_every_layer(name: str) -> None:
    model, pixels, layers = model_of(name), pixels_of(name), VISION[name]["num_hidden_layers"]
    assert_close(model.pooled(pixels), GOLDEN[f"{name} embeds"])
    for i in range(layers + 1):
        assert_close(model(pixels, layer=i), GOLDEN[f"{name} tokens {i}"])
        assert_close(model(pixels, layer=i - layers - 1), GOLDEN[f"{name} tokens {i}"])


@pytest.mark.parametrize("name", VISION)
def test_the_numba_backend_computes_the_same(name: str) -> None:
    model = model_of(name, Runtime(backend="numba"))
    assert_close(model.pooled(pixels_of(name)), GOLDEN[f"{name} embeds"], 1e-4)


def test_what_is_refused() -> None:
    model = model_of("clip")
    with pytest.raises(InputError, match=r"pixels must have the shape \(N, 3, 14, 14\), not \(1, 3, 14, 13\)"):
        model(np.zeros((1, 3, 14, 13)))
    with pytest.raises(InputError, match="layer 4 is not there; it has -4 … 3"):
        model(np.zeros((1, 3, 14, 14)), layer=4)
    with pytest.raises(ConfigError, match="hidden_act"):
        model_of("clip", hidden_act="relu")
    with pytest.raises(ConfigError, match="image_size of a patch or more"):
        model_of("clip", image_size=3)


@pytest.mark.parametrize("side", [14, 224])
@pytest.mark.parametrize("name", PIXELS)
def test_the_pixels_are_those_of_clips_processor(name: str, side: int) -> None:
    """To the last bit: the resized picture is Pillow's, and the rest is done in the same order in the same types."""
    found = clip_pixels(photo(PIXELS[name]), side)
    assert found.dtype == np.float32
    assert found.shape == (1, 3, side, side)
    wanted = GOLDEN[f"pixels {side} {name}"]
    np.testing.assert_array_equal(found if side == 14 else found[:, :, ::31, ::29], wanted)


def test_pixels_of_pictures_of_other_kinds() -> None:
    grey = photo((40, 23)).convert("L")
    np.testing.assert_array_equal(clip_pixels(grey, 14), clip_pixels(grey.convert("RGB"), 14))
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    np.testing.assert_array_equal(clip_pixels(clear, 14), clip_pixels(Image.new("RGB", (20, 20), "white"), 14))


@pytest.mark.parametrize(("width", "heads", "layers", "act"), [(768, 12, 12, "quick_gelu"), (1280, 16, 32, "gelu")])
def test_a_file_without_a_config(width: int, heads: int, layers: int, act: str) -> None:
    """As it is published for IP-Adapters in other programs; the widths of ViT-B and ViT-H, narrow inside."""
    config = {"hidden_size": width, "intermediate_size": 2, "projection_dim": 8, "num_hidden_layers": layers}
    config |= {"num_attention_heads": heads, "image_size": 28, "patch_size": 14, "hidden_act": act}
    names = expected(KIND, config)
    named = {n if n.startswith("visual") else f"vision_model.{n}": np.zeros((), np.float32) for n in names}
    broadcast = {n: np.broadcast_to(v, names[n.removeprefix("vision_model.")]) for n, v in named.items()}
    broadcast["vision_model.embeddings.position_ids"] = np.arange(5)[None]
    found = recognise(MemorySource(broadcast))
    assert not found.unknown
    made = found.components["image_encoder"]
    assert {name: made.config[name] for name in config} == config
    build(KIND, made.config, made.source, FLOAT64)


def test_it_is_converted_to_its_published_names(tmp_path: Path) -> None:
    folder = write_image_encoder(tmp_path / "image_encoder")
    convert(folder, tmp_path / "encoder.safetensors")
    for again in (tmp_path / "encoder.safetensors", folder / "model.safetensors"):
        convert(again, tmp_path / again.stem)
        written = tmp_path / again.stem / "model.safetensors"
        with read_safetensors(folder / "model.safetensors") as first, read_safetensors(written) as second:
            assert set(first.names) == set(second.names)
            assert all(first.read(name).tobytes() == second.read(name).tobytes() for name in first.names)
    made = open_checkpoint(tmp_path / "encoder").components["encoder"]
    build(made.class_name, made.config, made.source, FLOAT64)
