"""The same weight under another spelling is read in every layout that it may come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden.family_files import single_file
from tiny_checkpoints import VAE, write_sd

from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.recognise import recognise
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.golden.seeded import seeded_weights
from tinyldm.models.build import expected

OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_attention(name: str) -> str:
    for present, old in OLD.items():
        name = name.replace(f".attentions.0.{present}.", f".attentions.0.{old}.")
    return name


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
def test_old_attention_of_a_bare_autoencoder(tmp_path: Path, prefix: str) -> None:
    config = {**VAE, "block_out_channels": [32, 32], "norm_num_groups": 32}
    weights = seeded_weights(expected("AutoencoderKL", config))
    assert any(old_attention(name) != name for name in weights)
    write_safetensors(tmp_path / "vae.safetensors", {prefix + old_attention(name): w for name, w in weights.items()})
    found = open_checkpoint(tmp_path / "vae.safetensors")
    assert set(found.components["vae"].source.names) == set(weights)
    assert not found.unknown
    for name, weight in weights.items():
        np.testing.assert_array_equal(found.components["vae"].source.read(name), weight)


def test_old_attention_in_a_folder(tmp_path: Path) -> None:
    folder = write_sd(tmp_path / "sd")
    weights = seeded_weights(expected("AutoencoderKL", VAE))
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    write_safetensors(file, {old_attention(name): w for name, w in weights.items()})
    assert set(open_checkpoint(folder).components["vae"].source.names) == set(weights)


def test_the_projection_of_xl_as_a_linear_layer() -> None:
    tensors = single_file("stable-diffusion-xl")
    name = "conditioner.embedders.1.model.text_projection"
    linear = {f"{name}.weight" if n == name else n: w.T.copy() if n == name else w for n, w in tensors.items()}
    usual, spelled = (recognise(MemorySource(t)).components["text_encoder_2"] for t in (tensors, linear))
    assert usual.class_name == spelled.class_name == "CLIPTextModelWithProjection"
    np.testing.assert_array_equal(
        spelled.source.read("text_projection.weight"), usual.source.read("text_projection.weight")
    )
