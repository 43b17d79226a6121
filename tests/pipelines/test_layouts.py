"""Files as they come from the web: wrapped names, training states, folders without an index, what digests tell."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_commands import inspect
from golden.family_files import single_file
from tiny_checkpoints import VQ, write_ldm

import tinyldm
from tinyldm import cli
from tinyldm.checkpoints import digests
from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.recognise import recognise
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.errors import CheckpointError, ConfigError

UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def sd1() -> dict[str, np.ndarray]:
    return single_file("stable-diffusion-1")


@pytest.fixture(scope="module")
def sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sd2") / "some.safetensors"
    write_safetensors(path, single_file("stable-diffusion-2"))
    return path


# Wrapped names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.module.", "model."])
def test_names_below_a_common_prefix(sd1, wrapper: str) -> None:
    plain = recognise(MemorySource(sd1))
    found = recognise(MemorySource({wrapper + name: value for name, value in sd1.items()}))
    assert found.title == plain.title
    assert found.extras == plain.extras
    assert not found.unknown
    assert f"all names begin with {wrapper}, which is left out" in found.notes
    name = "conv_in.weight"
    source = found.components["unet"].source
    assert source.original_name(name) == f"{wrapper}{UNET}input_blocks.0.0.weight"
    np.testing.assert_array_equal(source.read(name), plain.components["unet"].source.read(name))


def test_a_unet_that_was_trained_in_parallel(sd1) -> None:
    unet = {f"module.{name.removeprefix(UNET)}": value for name, value in sd1.items() if name.startswith(UNET)}
    found = recognise(MemorySource(unet))
    assert list(found.components) == ["unet"]
    assert not found.unknown
    with pytest.raises(CheckpointError, match="is the UNet of Stable Diffusion 1: it has no running average"):
        recognise(MemorySource(unet), ema=True)
    with pytest.raises(CheckpointError, match=r"its 1 tensors .'a\.b\.c'"):
        recognise(MemorySource({"a.b.c": np.zeros(2)}))


# What a file predicts -------------------------------------------------------------------------------------------------


def told(path: Path, **options) -> tuple[str, int, list[str]]:
    found = open_checkpoint(path, **options)
    notes = [note for note in found.notes if "prediction type" in note]
    return found.scheduler["prediction_type"], found.components["unet"].config["sample_size"], notes


def test_prediction_type_by_the_digest_of_the_file(sd2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, size, notes = told(sd2)
    assert (kind, size) == ("v_prediction", 96)
    assert notes[0].startswith("prediction type v_prediction is assumed; 2-base")
    digest = hashlib.sha256(sd2.read_bytes()).hexdigest()
    for known, wanted in (("epsilon", 64), ("v_prediction", 96)):
        monkeypatch.setitem(digests.PREDICTION_TYPES, digest, known)
        assert told(sd2) == (known, wanted, [f"prediction type {known} is that of the published file with this digest"])


def test_prediction_type_that_is_said_needs_no_digest(sd2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyldm.checkpoints.opening.known_prediction_type", lambda path: pytest.fail("was hashed"))
    assert told(sd2, prediction_type="epsilon") == ("epsilon", 64, [])
    assert told(sd2, prediction_type="epsilon", config={"unet": {"sample_size": 80}})[1] == 80
    yaml = sd2.with_suffix(".yaml")
    yaml.write_text("model:\n  params:\n    parameterization: v\n")
    try:
        assert told(sd2) == ("v_prediction", 96, ["prediction type v_prediction is stated by some.yaml"])
    finally:
        yaml.unlink()


def test_digests_are_digests() -> None:
    assert len(digests.PREDICTION_TYPES) == 12
    assert all(len(bytes.fromhex(digest)) == 32 for digest in digests.PREDICTION_TYPES)


def test_prediction_type_by_the_step_of_the_training(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(value.copy()) for name, value in single_file("stable-diffusion-2").items()}
    for step, wanted in ((875000, "epsilon"), (140000, "v_prediction")):
        torch.save({"global_step": step, "state_dict": tensors}, tmp_path / "a.ckpt")
        assert told(tmp_path / "a.ckpt")[0] == wanted


def test_unknown_tensors_are_told_once(sd1, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", sd1 | {"who.knows": np.zeros(3, np.float32)})
    notes = tinyldm.load(tmp_path / "a.safetensors", backend="reference").notes
    assert [note for note in notes if "who.knows" in note] == ["1 tensors are not known and not used: 'who.knows'"]


def test_a_published_config_as_an_override(sd2: Path, tmp_path: Path) -> None:
    """`--config` takes the `config.json` of a component and a `scheduler_config.json` as they are published, too."""
    vae = {**open_checkpoint(sd2).components["vae"].config, "scaling_factor": 0.5}
    assert open_checkpoint(sd2, config=vae).components["vae"].config["scaling_factor"] == 0.5
    schedule = {"_class_name": "PNDMScheduler", "prediction_type": "epsilon"}
    assert open_checkpoint(sd2, config=schedule).scheduler["_class_name"] == "PNDMScheduler"
    with pytest.raises(ConfigError, match=r"is of a UNet2DModel, and there is unet \(UNet2DConditionModel\), vae"):
        open_checkpoint(sd2, config={"_class_name": "UNet2DModel"})
    with pytest.raises(ConfigError, match="wanted the fields of the component 'unet', not 3"):
        open_checkpoint(sd2, config={"unet": 3})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(vae))
    assert cli.main(["inspect", "--summary", "--config", str(file), str(sd2)]) == 0


# Folders --------------------------------------------------------------------------------------------------------------


def test_a_folder_with_one_file(sd1, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "v1.safetensors", sd1)
    (tmp_path / "README.md").write_text("about")
    assert open_checkpoint(tmp_path).title == "Stable Diffusion 1"
    model = tinyldm.load(tmp_path)
    assert model.path == tmp_path / "v1.safetensors"
    assert model.notes[0] == "recognised as Stable Diffusion 1"
    (tmp_path / "other.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"no published folder; give one of its files: other\.ckpt, v1\.safe"):
        open_checkpoint(tmp_path)


def test_a_folder_without_its_index(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "unet").symlink_to(checkpoint / "unet")
    (tmp_path / "vae").symlink_to(checkpoint / "vae")
    with pytest.raises(CheckpointError, match=r"a model_index\.json has to name its components unet, vae"):
        tinyldm.load(tmp_path)


def test_a_vq_stage_that_states_no_scale(tmp_path: Path) -> None:
    folder = write_ldm(tmp_path / "ldm")
    config = folder / "vqvae" / "config.json"
    for scale, wanted in ((0.5, 0.5), (None, 1.0)):
        config.write_text(json.dumps({k: v for k, v in {**VQ, "scaling_factor": scale}.items() if v is not None}))
        model = tinyldm.load(folder, backend="reference")
        assert model.vae.config.scaling_factor == wanted
        assert any("no scaling factor" in note for note in model.notes) == (scale is None)
        assert open_checkpoint(folder / "vqvae").components["vqvae"].config["scaling_factor"] == wanted


def test_a_config_of_something_else_beside_the_file(sd1, tmp_path: Path) -> None:
    first_stage = "first_stage_model."
    vae = {n.removeprefix(first_stage): v for n, v in sd1.items() if n.startswith(first_stage)}
    write_safetensors(tmp_path / "vae.safetensors", vae)
    plain = open_checkpoint(tmp_path / "vae.safetensors").components["vae"].config
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["CLIPTextModel"]}))
    assert open_checkpoint(tmp_path / "vae.safetensors").components["vae"].config == plain
    (tmp_path / "config.json").write_text(json.dumps({**plain, "scaling_factor": 0.5}))
    assert open_checkpoint(tmp_path / "vae.safetensors").components["vae"].config["scaling_factor"] == 0.5


# What inspect says of them --------------------------------------------------------------------------------------------


def test_inspect_knows_adapters(tmp_path: Path) -> None:
    lora = {"lora_unet_a.lora_down.weight": (4, 8), "lora_unet_a.lora_up.weight": (8, 4)}
    lora |= {"lora_te_b.lora_down.weight": (2, 8), "lora_te_b.lora_up.weight": (8, 2), "lora_te_b.alpha": ()}
    write_safetensors(tmp_path / "lora.safetensors", {n: np.zeros(s, np.float16) for n, s in lora.items()})
    report = inspect(tmp_path / "lora.safetensors").splitlines()
    title = "a LoRA of rank 2 to 4 over 2 layers of text_encoder, unet; --lora merges it into a checkpoint"
    assert report[0].endswith(f"lora.safetensors: {title}")
    assert "  lora_te_b.lora_down.weight  2×8  F16" in report
    for tensors, told in (
        ({"emb_params": (3, 768)}, "a learned word of 3 tokens (textual inversion) for text_encoder 768 wide"),
        ({"<fox>": (1024,)}, "a learned word of 1 tokens (textual inversion) for text_encoder 1024 wide"),
        ({"clip_l": (1, 768), "clip_g": (1, 1280)}, "for text_encoder 768 wide, text_encoder_2 1280 wide"),
        ({"head": (10, 512)}, "not recognised"),
    ):
        write_safetensors(tmp_path / "a.safetensors", {n: np.zeros(s, np.float32) for n, s in tensors.items()})
        assert told in inspect(tmp_path / "a.safetensors").splitlines()[0]


def test_inspect_says_what_is_beside_the_weights(sd1, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(value.copy()) for name, value in sd1.items()}
    torch.save({"state_dict": tensors, "optimizer_states": [{}], "epoch": 3}, tmp_path / "a.ckpt")
    report = inspect(tmp_path / "a.ckpt", tensors=False)
    assert "beside the weights: optimizer_states (list of 1), epoch (int)" in report
