"""`convert`: round trips byte for byte, and what diffusers makes of the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_commands import convert
from golden.family_cases import SINGLE_FILES
from golden.family_files import single_file

from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.safetensors import SafetensorsWriter, read_safetensors, write_safetensors
from tinyldm.errors import CheckpointError, InputError
from tinyldm.text.clip_tokenizer import Tokenizer


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for family in SINGLE_FILES:
        write_safetensors(folder / f"{family}.safetensors", single_file(family))
    return folder


@pytest.mark.parametrize("family", SINGLE_FILES)
def test_to_the_folder_and_back(family: str, files: Path, tmp_path: Path) -> None:
    found = convert(files / f"{family}.safetensors", tmp_path / "folder")
    folder = open_checkpoint(tmp_path / "folder")
    assert set(folder.components) == set(found.components)
    for name, component in found.components.items():
        again = folder.components[name]
        assert again.class_name == component.class_name
        assert {**again.config, "_class_name": 0} == {**component.config, "_class_name": 0}
    convert(tmp_path / "folder", tmp_path / "again.safetensors")
    with (
        read_safetensors(files / f"{family}.safetensors") as before,
        read_safetensors(tmp_path / "again.safetensors") as after,
    ):
        dropped = set(before.names) - set(after.names)
        assert dropped == set(found.extras)
        for name in after.names:
            assert after.read(name, None).tobytes() == before.read(name, None).tobytes()
            assert after.shape(name) == before.shape(name)


def test_the_tokenizer_that_is_written(files: Path, tmp_path: Path) -> None:
    convert(files / "stable-diffusion-xl.safetensors", tmp_path / "folder")
    first, second = (Tokenizer.load(tmp_path / "folder" / name) for name in ("tokenizer", "tokenizer_2"))
    clip = Tokenizer.clip()
    assert first.vocab == second.vocab == clip.vocab
    np.testing.assert_array_equal(first.encode("a fox, 2 owls"), clip.encode("a fox, 2 owls"))
    assert (first.pad_id, second.pad_id) == (49407, 0)


@pytest.mark.parametrize(("dtype", "tag"), [("float16", "F16"), ("bfloat16", "BF16"), ("float32", "F32")])
def test_dtype(dtype: str, tag: str, files: Path, tmp_path: Path) -> None:
    convert(files / "stable-diffusion-1.safetensors", tmp_path / "out.safetensors", dtype)
    with read_safetensors(tmp_path / "out.safetensors") as out:
        assert {out.dtype(name) for name in out.names} == {tag}
        assert out.metadata["format"] == "pt"


def test_a_folder_keeps_what_is_not_tensors(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "copy", "float16")
    for file in ("tokenizer/vocab.json", "scheduler/scheduler_config.json"):
        assert (tmp_path / "copy" / file).read_bytes() == (checkpoint / file).read_bytes()
    assert json.loads((tmp_path / "copy" / "model_index.json").read_text()) == json.loads(
        (checkpoint / "model_index.json").read_text()
    )
    assert open_checkpoint(tmp_path / "copy").components["unet"].source.dtype("conv_in.weight") == "F16"


def test_one_component(files: Path, tmp_path: Path) -> None:
    with read_safetensors(files / "stable-diffusion-1.safetensors") as source:
        prefix = "first_stage_model."
        names = [n for n in source.names if n.startswith(prefix) and "loss" not in n]
        write_safetensors(tmp_path / "vae.safetensors", {n.removeprefix(prefix): source.read(n) for n in names})
    convert(tmp_path / "vae.safetensors", tmp_path / "vae")
    assert json.loads((tmp_path / "vae" / "config.json").read_text())["_class_name"] == "AutoencoderKL"
    found = open_checkpoint(tmp_path / "vae").components["vae"]
    convert(tmp_path / "vae", tmp_path / "canonical.safetensors")
    with read_safetensors(tmp_path / "canonical.safetensors") as again:
        assert set(again.names) == set(found.source.names)


@pytest.mark.parametrize("destination", ["out.safetensors", "out"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_run_leaves_nothing(files, tmp_path, monkeypatch, destination: str, error) -> None:
    """The interruption comes in the middle: when the hundredth tensor is written."""
    write, count = SafetensorsWriter.write, iter(range(1000))

    def interrupted(self, name, array):
        if next(count) == 100:
            raise error
        write(self, name, array)

    monkeypatch.setattr(SafetensorsWriter, "write", interrupted)
    with pytest.raises((KeyboardInterrupt, CheckpointError, OSError)):
        convert(files / "stable-diffusion-1.safetensors", tmp_path / destination)
    assert next(count) > 100
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(files: Path, checkpoint: Path, tmp_path: Path) -> None:
    source = files / "stable-diffusion-1.safetensors"
    with pytest.raises(InputError, match="dtype 'int8' is unknown"):
        convert(source, tmp_path / "a", "int8")
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists already"):
        convert(source, tmp_path / "there")
    with pytest.raises(CheckpointError, match="no published folder"):
        convert(tmp_path / "there", tmp_path / "b")
    with pytest.raises(CheckpointError, match="EMA or plain"):
        convert(checkpoint, tmp_path / "c", ema=True)
    with pytest.raises(CheckpointError, match="cannot be written"):
        convert(source, source / "d")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["stable-diffusion-1", "stable-diffusion-2", "stable-diffusion-xl"])
@pytest.mark.filterwarnings("ignore")
def test_diffusers_loads_what_is_written(family: str, files: Path, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    convert(files / f"{family}.safetensors", tmp_path / "folder")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "folder", local_files_only=True)
    for name, component in open_checkpoint(tmp_path / "folder").components.items():
        state = {k.removeprefix("text_model."): v for k, v in getattr(pipeline, name).state_dict().items()}
        for tensor in component.source.names:
            np.testing.assert_array_equal(state[tensor].numpy(), component.source.read(tensor))
