"""What a single file says about itself: header, marker tensors, buffers, the original's configuration beside it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_commands import convert
from golden.family_files import single_file
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoints import write_sd

import tinyldm
from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.folder import FLOWS
from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.original_config import parse_yaml, stated_by_config
from tinyldm.checkpoints.recognise import recognise
from tinyldm.checkpoints.recognised import Recognised
from tinyldm.checkpoints.safetensors import read_safetensors, write_safetensors
from tinyldm.checkpoints.stated import COMPONENTS, PIPELINE, SCHEDULER
from tinyldm.errors import CheckpointError, ConfigError, TinyldmError
from tinyldm.pipelines.adapters import replace_vae
from tinyldm.pipelines.load import load
from tinyldm.pipelines.request import request

ONE = np.zeros(0, np.float32)


@pytest.fixture(scope="module")
def xl() -> dict[str, np.ndarray]:
    return single_file("stable-diffusion-xl")


@pytest.fixture(scope="module")
def sd1() -> dict[str, np.ndarray]:
    return {k: v for k, v in single_file("stable-diffusion-1").items() if k not in ("betas", "alphas_cumprod")}


def found(tensors: dict[str, np.ndarray], **metadata: str) -> Recognised:
    return recognise(MemorySource(tensors, metadata={k.replace("__", "."): v for k, v in metadata.items()}))


def test_prediction_type_of_the_header(xl, sd1) -> None:
    for tensors in (xl, sd1):
        for stated, wanted in (("v", "v_prediction"), ("epsilon", "epsilon"), ("V_Prediction", "v_prediction")):
            file = found(tensors, modelspec__prediction_type=stated)
            assert file.scheduler["prediction_type"] == wanted
            assert f"prediction type {wanted} is stated by the header" in file.notes
    with pytest.raises(CheckpointError, match="states that it predicts 'flow', which is not supported"):
        found(xl, modelspec__prediction_type="flow")


def test_marker_tensors(xl, sd1) -> None:
    file = found(xl | {"v_pred": ONE})
    assert (file.scheduler["prediction_type"], file.scheduler.get("rescale_betas_zero_snr")) == ("v_prediction", None)
    file = found(xl | {"v_pred": ONE, "ztsnr": ONE})
    wanted = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    assert wanted.items() <= file.scheduler.items()
    assert file.scheduler["_class_name"] == "EulerDiscreteScheduler"
    assert not file.unknown
    # PNDM's schedule has no such field, so that it would be passed over
    assert found(sd1 | {"ztsnr": ONE}).scheduler["_class_name"] == "DDIMScheduler"
    assert found(sd1, ss_zero_terminal_snr="True").scheduler["rescale_betas_zero_snr"] is True
    assert "rescale_betas_zero_snr" not in found(sd1, ss_zero_terminal_snr="False").scheduler


def test_a_file_that_contradicts_itself(xl) -> None:
    file = MemorySource(xl | {"v_pred": ONE}, metadata={"modelspec.prediction_type": "epsilon"})
    with pytest.raises(CheckpointError, match="epsilon by its header and v_prediction by the tensor v_pred"):
        recognise(file)
    assert recognise(file, prediction_type="epsilon").scheduler["prediction_type"] == "epsilon"


@pytest.mark.parametrize("mark", ["edm_mean", "edm_std", "edm_vpred.sigma_max"])
def test_an_edm_schedule_is_refused(xl, mark: str) -> None:
    with pytest.raises(CheckpointError, match=rf"holds {mark}: it was trained on an EDM schedule"):
        found(xl | {mark: ONE})


def test_an_edm_schedule_is_refused_in_a_folder(tmp_path: Path) -> None:
    folder = write_sd(tmp_path / "sd")
    for name, kind in (("EDMEulerScheduler", "an EDM"), ("FlowMatchLCMScheduler", "a flow-matching")):
        (folder / "scheduler" / "scheduler_config.json").write_text(f'{{"_class_name": "{name}"}}')
        with pytest.raises(CheckpointError, match=f"its scheduler has {kind} schedule"):
            open_checkpoint(folder)


@pytest.mark.parametrize("scheduler_class", FLOWS)
def test_a_folder_of_flow_matching_runs_under_its_own_sampler(tmp_path: Path, scheduler_class: str) -> None:
    folder = write_sd(tmp_path / "sd")
    said = {"_class_name": scheduler_class, "shift": 3.0}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(said))
    model = tinyldm.load(folder, backend="reference")
    wanted = request("a", steps=2).resolved(model.parts)
    assert wanted.sampler == {FLOWS[0]: "flow_euler", FLOWS[1]: "flow_heun"}[scheduler_class]
    assert np.asarray(model.text_to_image("a", steps=2)[0]).std() > 0
    assert "a flow, 1000 steps, predicts flow_prediction" in tinyldm.describe(model)
    with pytest.raises(ConfigError, match="is not of a model that ddim can run"):
        request("a", steps=2, sampler="ddim").resolved(model.parts)


def test_resolution_of_the_header(xl, sd1) -> None:
    assert found(xl, modelspec__resolution="512x512").components["unet"].config["sample_size"] == 64
    assert found(sd1, modelspec__resolution="768x768").components["unet"].config["sample_size"] == 96
    for nonsense in ("832x1216", "x", "0x0", "abc", "99999x99999"):
        assert found(sd1, modelspec__resolution=nonsense).components["unet"].config["sample_size"] == 64


def scaled_linear(start: float, end: float, count: int = 1000) -> np.ndarray:
    return np.linspace(start**0.5, end**0.5, count) ** 2


@pytest.mark.parametrize("name", ["betas", "alphas_cumprod"])
def test_the_schedule_of_the_buffers(sd1, name: str) -> None:
    def buffer(betas: np.ndarray) -> dict[str, np.ndarray]:
        return sd1 | {name: (betas if name == "betas" else np.cumprod(1 - betas)).astype(np.float32)}

    usual = found(sd1)
    assert found(buffer(scaled_linear(0.00085, 0.012))).scheduler == usual.scheduler
    file = found(buffer(scaled_linear(0.0015, 0.0195)))
    np.testing.assert_allclose(file.scheduler["beta_end"], 0.0195, rtol=1e-3)
    assert file.scheduler["beta_schedule"] == "scaled_linear"
    assert "the noise schedule is that of the betas in the file" in file.notes
    assert found(buffer(np.linspace(0.0001, 0.02, 500))).scheduler["num_train_timesteps"] == 500
    assert found(buffer(np.linspace(0.0001, 0.02, 500))).scheduler["beta_schedule"] == "linear"
    odd = np.concatenate([np.full(500, 0.001), np.full(500, 0.02)])
    np.testing.assert_allclose(found(buffer(odd)).scheduler["trained_betas"], odd, rtol=1e-3)
    for nonsense in (np.random.default_rng(0).standard_normal(1000), np.zeros(1000), np.full(1000, np.nan)):
        assert found(sd1 | {name: nonsense}).scheduler == usual.scheduler


YAML = """
model:
  base_learning_rate: 1.0e-04   # a comment
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: "v"
    linear_start: 0.0015
    linear_end: 0.0195
    timesteps: 500
    scale_factor: 0.25
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        attention_resolutions: [ 4, 2, 1 ]
        channel_mult:
        - 1
        - 2
        num_heads: 4
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder
      params:
        layer: "last"
"""


def test_the_original_configuration(sd1, tmp_path: Path) -> None:
    parsed = parse_yaml(YAML)["model"]["params"]
    assert parsed["unet_config"]["params"]["attention_resolutions"] == [4, 2, 1]
    assert parsed["unet_config"]["params"]["channel_mult"] == [1, 2]
    assert parsed["unet_config"]["params"]["num_heads"] == 4
    file = tmp_path / "model.safetensors"
    write_safetensors(file, sd1)
    (tmp_path / "model.yaml").write_text(YAML)
    opened = open_checkpoint(file)
    wanted = {"prediction_type": "v_prediction", "beta_start": 0.0015, "num_train_timesteps": 500}
    assert wanted.items() <= opened.scheduler.items()
    assert opened.components["vae"].config["scaling_factor"] == 0.25
    assert opened.components["unet"].config["attention_head_dim"] == 4
    assert stated_by_config(file).penultimate is False
    xl_form = (
        "model:\n  params:\n    denoiser_config:\n      params:\n        scaling_config:\n          target: a.{}\n"
    )
    (tmp_path / "model.yaml").write_text(xl_form.format("VScaling"))
    assert stated_by_config(file).scheduler == {"prediction_type": "v_prediction"}
    for text, message in (
        (xl_form.format("EDMScaling"), "an EDM schedule"),
        ("model:\n  params:\n    parameterization: z\n", "parameterization 'z' is not supported"),
        ("model:\n  params:\n    linear_start: x\n", "linear_start must be a number"),
        ("model:\n  params:\n    beta_schedule: sqrt\n", "beta_schedule 'sqrt' is not supported"),
    ):
        (tmp_path / "model.yaml").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            stated_by_config(file)


def test_lists_of_the_original_configuration() -> None:
    text = "model:\n  params:\n    models:\n      - trainable: False\n        key: 'txt'\n      - a: 1.5e-3\n    b: ~\n"
    models = [{"trainable": False, "key": "txt"}, {"a": 0.0015}]
    assert parse_yaml(text) == {"model": {"params": {"models": models, "b": None}}}


@given(st.text(alphabet="ab: -#\n[]'\t,1.", max_size=200))
def test_any_text_is_parsed_or_passed_over(text: str) -> None:
    assert isinstance(parse_yaml(text), dict)


def test_a_bare_autoencoder_takes_the_scale_of_the_checkpoint(tmp_path: Path) -> None:
    tensors = {k.removeprefix("first_stage_model."): v for k, v in single_file("stable-diffusion-1").items()}
    vae = {k: v for k, v in tensors.items() if k.startswith(("encoder.", "decoder.", "quant_conv", "post_quant_conv"))}
    write_safetensors(tmp_path / "vae.safetensors", vae)
    into = found(single_file("stable-diffusion-xl"))
    replace_vae(into, tmp_path / "vae.safetensors")
    assert into.components["vae"].config["scaling_factor"] == 0.13025
    assert any("0.13025 is that of the checkpoint" in note for note in into.notes)
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL", "scaling_factor": 0.5}')
    replace_vae(into, tmp_path / "vae.safetensors")
    assert into.components["vae"].config["scaling_factor"] == 0.5


JUNK = (None, True, 0, -3, 2.5, "", "x", [], [1], {}, {"a": 1}, {"prediction_type": 3}, {"trained_betas": "x"})
CONFIGS = [["UNet2DConditionModel", {"num_hidden_layers": "x", "unet": 2.5}], ["x", {}], ["", {"vocab_size": "x"}]]
STATED = [(SCHEDULER, value) for value in JUNK] + [(PIPELINE, {"_class_name": value, "x": value}) for value in JUNK]
STATED += [(COMPONENTS, {"unet": value, "text_encoder": value}) for value in (*JUNK, *CONFIGS)]


@pytest.mark.parametrize(("name", "value"), STATED)
def test_a_header_may_state_anything(small, tmp_path: Path, name: str, value: object) -> None:
    """An error of this package in one line, or a checkpoint."""
    write_safetensors(tmp_path / "a.safetensors", small, {name: json.dumps(value)})
    with contextlib.suppress(TinyldmError):
        convert(tmp_path / "a.safetensors", tmp_path / "out")
    with contextlib.suppress(TinyldmError):
        convert(tmp_path / "a.safetensors", tmp_path / "out.safetensors")
    with contextlib.suppress(TinyldmError):
        load(tmp_path / "a.safetensors", backend="reference")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """A file of few tensors, as `convert` writes it."""
    folder = tmp_path_factory.mktemp("small")
    convert(write_sd(folder / "sd"), folder / "sd.safetensors")
    with read_safetensors(folder / "sd.safetensors") as file:
        return {name: np.array(file.read(name)) for name in file.names}


def test_a_distilled_checkpoint_says_its_sampler(small, tmp_path: Path) -> None:
    for name, word in (("sd_xl_turbo_1.0_fp16", "sampler euler_a"), ("sdxl_lightning_4step", "sampler euler ")):
        write_safetensors(tmp_path / f"{name}.safetensors", small)
        assert any(word in note for note in open_checkpoint(tmp_path / f"{name}.safetensors").notes)
