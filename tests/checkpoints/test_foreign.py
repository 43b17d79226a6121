"""What is no latent diffusion of this kind is named for what it is: by its tensors, its classes, its first bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_commands import inspect
from golden.family_files import single_file
from PIL import Image

from tinyldm import cli
from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.foreign import FOREIGN, foreign_kind
from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.recognise import recognise
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.checkpoints.source import open_source
from tinyldm.errors import CheckpointError
from tinyldm.pipelines.load import load

# Names that published files of each kind have.
PUBLISHED = {
    "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": "AnimateDiff",
    "model.diffusion_model.input_blocks.1.1.time_mixer.mix_factor": "Stable Video Diffusion",
    "model.diffusion_model.position_net.null_positive_feature": "GLIGEN",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.0.weight": "IP-Adapter",
    "task_embedding": "union ControlNet",
    "style_embedding": "T2I-Adapter of a style",
    "noise_augmentor.time_embed.0.weight": "unCLIP",
    "model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight": "Stable Diffusion 3",
    "double_blocks.0.img_attn.qkv.weight": "FLUX",
    "single_transformer_blocks.0.attn.to_q.weight": "FLUX",
    "adaln_single.emb.timestep_embedder.linear_1.weight": "PixArt",
    "effnet_mapper.0.weight": "Stable Cascade",
    "encoder.block.0.layer.0.SelfAttention.q.weight": "T5",
    "model.1.sub.0.RDB1.conv1.0.weight": "ESRGAN",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_file_of_another_kind_is_named(name: str) -> None:
    source = MemorySource({name: np.zeros(2, np.float32), "x.weight": np.zeros(2, np.float32)}, path="file")
    with pytest.raises(CheckpointError, match=f"file: is .*{PUBLISHED[name]}.*, which is not supported"):
        recognise(source)


@pytest.mark.parametrize("family", ["stable-diffusion-1", "stable-diffusion-2", "stable-diffusion-xl"])
def test_the_models_here_are_not_foreign(family: str) -> None:
    assert foreign_kind(MemorySource(single_file(family))) is None
    assert len(set(FOREIGN)) > 10


def test_every_tensor_of_a_foreign_file_is_in_the_report(tmp_path: Path) -> None:
    tensors = single_file("stable-diffusion-1") | {"model.diffusion_model.position_net.a.weight": np.zeros(2)}
    write_safetensors(tmp_path / "gligen.safetensors", tensors)
    report = inspect(tmp_path / "gligen.safetensors")
    assert "is a GLIGEN model, grounded by boxes, which is not supported" in report
    assert "position_net.a.weight" in report
    with pytest.raises(CheckpointError, match="GLIGEN"):
        load(tmp_path / "gligen.safetensors")


@pytest.mark.parametrize(
    ("pipeline", "component", "kind"),
    [
        ("FluxPipeline", ["diffusers", "FluxTransformer2DModel"], "FLUX"),
        ("StableDiffusion3Pipeline", ["diffusers", "SD3Transformer2DModel"], "Stable Diffusion 3"),
        ("StableUnCLIPImg2ImgPipeline", ["diffusers", "UNet2DConditionModel"], "unCLIP"),
        ("StableDiffusionPipeline", ["diffusers", "MotionAdapter"], "AnimateDiff"),
    ],
)
def test_a_folder_of_another_kind_is_named(tmp_path: Path, pipeline: str, component: list[str], kind: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline, "transformer": component}))
    with pytest.raises(CheckpointError, match=f"it is of .*{kind}.*, which is not supported"):
        open_checkpoint(folder)
    (folder / "model_index.json").unlink()
    if component[1] != "UNet2DConditionModel":
        (folder / "config.json").write_text(json.dumps({"_class_name": component[1]}))
        with pytest.raises(CheckpointError, match=f"is a {component[1]}: it is of"):
            open_checkpoint(folder)


def files(folder: Path) -> dict[str, str]:
    """Files that are mistaken for weights, each with a word of what is said of it."""
    picture = Image.new("RGB", (8, 8))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        picture.save(folder / f"picture.{kind.lower()}", format=kind)
    (folder / "weights.gguf").write_bytes(b"GGUF" + bytes(300))
    (folder / "weights.tar.gz").write_bytes(b"\x1f\x8b" + bytes(300))
    (folder / "page.safetensors").write_bytes(b"<!DOCTYPE html>" + bytes(300))
    (folder / "nothing.safetensors").write_bytes(b"")
    words = {f"picture.{kind}": "is a picture" for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp")}
    more = {"weights.gguf": "GGUF", "weights.tar.gz": "gzip", "page.safetensors": "web page"}
    return words | more | {"nothing.safetensors": "empty"}


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, word in files(tmp_path).items():
        with pytest.raises(CheckpointError, match=word.removeprefix("is ")):
            open_source(tmp_path / name)
        assert cli.main(["decode", str(tmp_path / name), "-o", str(tmp_path / "out.png")]) == 2
        error = capsys.readouterr().err
        assert word in error
        assert "header" not in error
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("begin", [b"BM", b"\x1f\x8b", b"II*\0"])
def test_a_header_whose_length_looks_like_a_picture(tmp_path: Path, begin: bytes) -> None:
    length = int.from_bytes(begin.ljust(8, b"\0"), "little")
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + header + bytes(4))
    assert open_source(tmp_path / "a.safetensors").names == ("a",)
