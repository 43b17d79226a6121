"""Another autoencoder, LoRAs and learned words on top of a checkpoint, through `load` and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyldm
from tinyldm import cli
from tinyldm.checkpoints.safetensors import read_safetensors, write_safetensors
from tinyldm.errors import CheckpointError, InputError
from tinyldm.golden.seeded import seeded_weights
from tinyldm.models.build import expected

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TINY = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [4, 4],
    "decoder_block_out_channels": [4, 4],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [1, 1],
}


def load(path: Path, **options) -> tinyldm.LatentDiffusion:
    return tinyldm.load(path, **{"backend": "reference", **options})


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    weights = seeded_weights({"down": (2, 8), "up": (8, 2)})
    named = {f"unet.{LAYER}.lora_A.weight": weights["down"], f"unet.{LAYER}.lora_B.weight": weights["up"]}
    write_safetensors(tmp_path / "lora.safetensors", named)
    return tmp_path / "lora.safetensors"


def test_lora_is_added_to_its_weight(checkpoint: Path, lora: Path) -> None:
    plain, merged = load(checkpoint), load(checkpoint, loras=[(lora, 0.5)])
    with read_safetensors(lora) as file:
        down, up = file.read(f"unet.{LAYER}.lora_A.weight"), file.read(f"unet.{LAYER}.lora_B.weight")

    def weight(model: tinyldm.LatentDiffusion) -> np.ndarray:
        return model.unet.weights.source.read(f"{LAYER}.weight")

    np.testing.assert_allclose(weight(merged) - weight(plain), 0.5 * up @ down, atol=1e-6)
    twice = load(checkpoint, loras=[(lora, 0.25), (lora, 0.25)])
    np.testing.assert_allclose(weight(twice), weight(merged), atol=1e-6)


@pytest.mark.parametrize("options", [{"backend": "reference"}, {"backend": "numba"}, {"low_memory": True}])
def test_a_scale_that_is_changed_later(checkpoint: Path, lora: Path, options: dict) -> None:
    def picture(model: tinyldm.LatentDiffusion) -> bytes:
        return model.text_to_image("a", steps=2, seed=1)[0].tobytes()

    model = load(checkpoint, loras=[(lora, 0.0), lora], **options)
    model.scale_loras(0.0)
    plain = picture(load(checkpoint, **options))
    assert picture(model) == plain
    for scale in (5.0, 0.5, 5.0):
        model.scale_loras(scale, 1)
        assert picture(model) == picture(load(checkpoint, loras=[(lora, scale)], **options))
    assert picture(model) != plain
    model.scale_loras(0.0, 1)
    assert picture(model) == plain
    assert [applied.strength.value for applied in model.loras] == [0.0, 0.0]
    assert model.loras[0].modules == {"unet": [LAYER]}


def test_a_scale_is_changed_only_where_there_is_one(checkpoint: Path, lora: Path) -> None:
    with pytest.raises(InputError, match="has 0 LoRAs"):
        load(checkpoint).scale_loras(1.0)
    model = load(checkpoint, loras=[lora])
    with pytest.raises(InputError, match="no number 1"):
        model.scale_loras(1.0, 1)
    for call in (lambda: model.scale_loras(float("inf")), lambda: load(checkpoint, loras=[(lora, float("nan"))])):
        with pytest.raises(InputError, match="finite number"):
            call()


def test_learned_word(checkpoint: Path, tmp_path: Path) -> None:
    vectors = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 16)
    write_safetensors(tmp_path / "fox.safetensors", {"emb_params": vectors})
    model = load(checkpoint, words=[tmp_path / "fox.safetensors"])
    ids = model.tokenizer.encode(["<fox>"])
    np.testing.assert_array_equal(ids[0, 1:3], [514, 515])
    np.testing.assert_array_equal(model.text_encoder.weights.embeddings.token_embedding.weight[514:], vectors)
    assert model.text_encoder(ids).shape == (1, 16, 16)


def test_another_autoencoder(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny-vae"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY))
    weights = seeded_weights(expected("AutoencoderTiny", TINY))
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", weights)
    model = load(checkpoint, vae=folder)
    assert type(model.vae).__name__ == "AutoencoderTiny"
    assert model.text_to_image("a", steps=1)[0].size == (16, 16)
    words = ["sample", "a", "--model", str(checkpoint), "--vae", str(folder), "--steps", "1", "--backend", "reference"]
    assert cli.main([*words, "-o", str(tmp_path / "a.png")]) == 0
    with pytest.raises(CheckpointError, match="one autoencoder"):
        load(checkpoint, vae=checkpoint / "unet")


def test_command_line(checkpoint: Path, lora: Path, tmp_path: Path) -> None:
    words = ["sample", "a", "--model", str(checkpoint), "--steps", "1", "--seed", "1", "--backend", "reference"]
    pictures = []
    for name, more in (("plain", []), ("weak", ["--lora", f"{lora}@0"]), ("strong", ["--lora", f"{lora}@9"])):
        assert cli.main([*words, *more, "-o", str(tmp_path / f"{name}.png")]) == 0
        with Image.open(tmp_path / f"{name}.png") as image:
            pictures.append(image.tobytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_what_does_not_fit(checkpoint: Path, lora: Path, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "other.safetensors", {"unet.nowhere.lora_A.weight": np.zeros((2, 8), np.float32)})
    with pytest.raises((CheckpointError, InputError), match="nowhere"):
        load(checkpoint, loras=[tmp_path / "other.safetensors"])
    write_safetensors(tmp_path / "wide.safetensors", {"emb_params": np.zeros((1, 9), np.float32)})
    with pytest.raises(CheckpointError, match="9"):
        load(checkpoint, words=[tmp_path / "wide.safetensors"])
