"""`inspect`: what the report says of whole, bare, damaged and unknown files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoint_commands import inspect
from golden.family_files import single_file

from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.errors import CheckpointError


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return single_file("stable-diffusion-1")


def test_a_whole_file(tensors, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "sd.safetensors", tensors)
    report = inspect(tmp_path / "sd.safetensors")
    assert "sd.safetensors: Stable Diffusion 1\n" in report
    assert "unet             UNet2DConditionModel, 686 tensors" in report
    assert "schedule         PNDMScheduler, predicts epsilon" in report
    assert "known and not used, 5 tensors" in report
    assert "conv_in.weight  32×4×3×3  F32  (model.diffusion_model.input_blocks.0.0.weight)" in report
    assert "missing" not in report
    assert len(inspect(tmp_path / "sd.safetensors", tensors=False).splitlines()) < 10


def test_missing_and_surplus_tensors(tensors, tmp_path: Path) -> None:
    damaged = dict(tensors)
    del damaged["model.diffusion_model.input_blocks.1.0.out_layers.0.bias"]
    damaged["first_stage_model.encoder.down.0.block.0.surprise.weight"] = np.zeros(3, np.float32)
    write_safetensors(tmp_path / "damaged.safetensors", damaged)
    report = inspect(tmp_path / "damaged.safetensors", tensors=False)
    assert "unet: missing, 1 tensors: down_blocks.0.resnets.0.norm2.bias" in report
    assert "not known, 1 tensors: first_stage_model.encoder.down.0.block.0.surprise.weight" in report


def test_a_folder(checkpoint: Path) -> None:
    report = inspect(checkpoint, tensors=False)
    assert "StableDiffusionPipeline" in report
    assert "schedule         DDIMScheduler, predicts epsilon" in report


def test_an_unknown_file(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "other.safetensors", {"some\n.weight": np.zeros((2, 3), np.float16)})
    report = inspect(tmp_path / "other.safetensors")
    assert "not recognised" in report
    assert report.endswith("some\\n.weight  2×3  F16")


def test_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="a format that is not known"):
        inspect(tmp_path / "text.txt")
    with pytest.raises(CheckpointError, match="no published folder"):
        inspect(tmp_path)
