"""Every first stage that loads works wherever one is taken, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tinyldm
from tinyldm import cli
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.errors import CheckpointError
from tinyldm.golden.seeded import seeded_weights
from tinyldm.models.build import expected

DOWN, UP = ["DownEncoderBlock2D"] * 2, ["UpDecoderBlock2D"] * 2
BLOCKS = {"down_block_types": DOWN, "up_block_types": UP, "norm_num_groups": 2, "sample_size": 16}
STAGES = {
    "AutoencoderKL": BLOCKS | {"block_out_channels": [4, 8]},
    "AutoencoderTiny": {"encoder_block_out_channels": [8] * 4, "decoder_block_out_channels": [8] * 4},
    "AsymmetricAutoencoderKL": BLOCKS
    | {"down_block_out_channels": [4, 8], "up_block_out_channels": [8, 8], "latent_channels": 4},
    "VQModel": BLOCKS | {"block_out_channels": [4, 8], "latent_channels": 4, "num_vq_embeddings": 8},
}


def written(folder: Path, kind: str, **changes: object) -> Path:
    config = STAGES[kind] | changes
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": kind, **config}))
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", seeded_weights(expected(kind, config)))
    return folder


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("kind", STAGES)
def test_a_first_stage_of_any_kind(checkpoint: Path, tmp_path: Path, kind: str, backend: str) -> None:
    model = tinyldm.load(checkpoint, backend=backend, vae=written(tmp_path / "vae", kind))
    picture = model.text_to_image("a", steps=1)[0]
    again = model.image_to_image("b", picture, steps=2)[0]
    assert again.size == picture.size
    latent = model.encode(picture)
    assert latent.shape[1] == model.unet.config.in_channels
    assert np.asarray(model.decode(latent)[0]).shape == np.asarray(picture).shape
    words = ["--model", str(checkpoint), "--vae", str(tmp_path / "vae"), "--backend", backend]
    assert cli.main(["sample", "a", "--steps", "1", "-o", str(tmp_path / "a.png"), *words]) == 0
    for command in (["info", "--shapes"], ["cost"]):
        assert cli.main([*command, *words]) == 0


def test_latents_of_other_channels_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    vae = written(tmp_path / "vae", "VQModel", latent_channels=3)
    with pytest.raises(CheckpointError, match="vae: a first stage that has latents of 3 channels"):
        tinyldm.load(checkpoint, backend="reference", vae=vae)
