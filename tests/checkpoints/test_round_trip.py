"""A folder converted to one file reads back as itself: configs, schedule and bytes, or the loss is announced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_commands import convert
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tiny_checkpoints import INDEX as SD_INDEX
from tiny_checkpoints import (
    LCM_SCHEDULER,
    LCM_UNET,
    SCHEDULER,
    SD2_TEXT_ENCODER,
    SD2_UNET,
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    TINY_VAE,
    TURBO_SCHEDULER,
    UNET,
    VAE,
    XL_INDEX,
    XL_SCHEDULER,
    XL_UNET,
    ZERO_SNR_SCHEDULER,
    write_folder,
    write_refiner,
)

from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.recognise import recognise
from tinyldm.checkpoints.safetensors import read_safetensors

SCHEDULES = {
    "plain": SCHEDULER,
    "zero SNR": ZERO_SNR_SCHEDULER,
    "turbo": TURBO_SCHEDULER,
    "LCM": LCM_SCHEDULER,
    "karras": {**XL_SCHEDULER, "use_karras_sigmas": True, "prediction_type": "v_prediction"},
    "betas": {**SCHEDULER, "trained_betas": [0.001, 0.01, 0.02, 0.03] * 4, "num_train_timesteps": 16},
}
FAMILIES = {
    "1": (SD_INDEX, {"unet": UNET, "vae": VAE, "text_encoder": TEXT_ENCODER}),
    "LCM": (SD_INDEX, {"unet": LCM_UNET, "vae": VAE, "text_encoder": TEXT_ENCODER}),
    "2": (SD_INDEX, {"unet": SD2_UNET, "vae": VAE, "text_encoder": SD2_TEXT_ENCODER}),
    "tiny": (
        {**SD_INDEX, "vae": ["diffusers", "AutoencoderTiny"]},
        {"unet": UNET, "vae": TINY_VAE, "text_encoder": TEXT_ENCODER},
    ),
    "XL": (
        XL_INDEX,
        {"unet": XL_UNET, "vae": VAE, "text_encoder": TEXT_ENCODER, "text_encoder_2": TEXT_ENCODER_2},
    ),
}


def contents(folder: Path) -> dict[str, dict]:
    """The configs of a folder by component, its schedule and the pipeline's options."""
    found = open_checkpoint(folder)
    configs = {name: {"class": c.class_name, **c.config, "_class_name": 0} for name, c in found.components.items()}
    options = {name: value for name, value in found.pipeline.items() if name != "requires_safety_checker"}
    return {**configs, "scheduler": found.scheduler, "pipeline": options}


# Without shrinking, since every example writes files; what was drawn is printed all the same.
@settings(deadline=None, max_examples=8, phases=[Phase.generate])
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    schedule=st.sampled_from(sorted(SCHEDULES)),
    scale=st.floats(0.01, 2),
    size=st.integers(1, 40),
    layers=st.integers(1, 3),
)
def test_folder_file_folder(tmp_path_factory, family, schedule, scale, size, layers) -> None:
    place = tmp_path_factory.mktemp("round")
    index, parts = FAMILIES[family]
    index = {**index, "scheduler": ["diffusers", SCHEDULES[schedule]["_class_name"]]}
    parts = {**parts, "scheduler": SCHEDULES[schedule], "vae": {**parts["vae"], "scaling_factor": scale}}
    parts["unet"] = {**parts["unet"], "sample_size": size}
    parts["text_encoder"] = {**parts["text_encoder"], "num_hidden_layers": layers}
    write_folder(place / "a", index, parts)
    there = convert(place / "a", place / "b.safetensors")
    back = convert(place / "b.safetensors", place / "c")
    assert contents(place / "c") == contents(place / "a")
    before, after = open_checkpoint(place / "a"), open_checkpoint(place / "c")
    for name, component in before.components.items():
        again = after.components[name].source
        assert set(again.names) == set(component.source.names)
        for tensor in component.source.names:
            np.testing.assert_array_equal(again.read(tensor, None), component.source.read(tensor, None))
    assert not back.unknown
    assert any("the tokenizer is lost" in note for note in there.notes)  # it is of bytes alone
    if schedule != "plain":
        assert any("other programs will not see the schedule" in note for note in there.notes)
    convert(place / "c", place / "d.safetensors")
    assert (place / "d.safetensors").read_bytes() == (place / "b.safetensors").read_bytes()


def test_the_names_that_others_use(tmp_path: Path) -> None:
    schedule = {**XL_SCHEDULER, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    schedule["timestep_spacing"] = "trailing"
    index, parts = FAMILIES["XL"]
    write_folder(tmp_path / "xl", index, {**parts, "scheduler": schedule})
    found = convert(tmp_path / "xl", tmp_path / "xl.safetensors")
    with read_safetensors(tmp_path / "xl.safetensors") as file:
        assert file.metadata["modelspec.prediction_type"] == "v"
        assert file.shape("v_pred") == file.shape("ztsnr") == (0,)
        assert json.loads(file.metadata["tinyldm.scheduler"]) == schedule
    # the marks say it to others, so that it is not among what they will not see
    assert not any("the schedule: prediction_type" in note or "zero_snr" in note for note in found.notes)


def test_the_refiner(tmp_path: Path) -> None:
    write_refiner(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", tmp_path / "c")
    assert contents(tmp_path / "c") == contents(tmp_path / "a")


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_text_tower_without_its_last_block_keeps_the_others(tmp_path: Path, layers: int) -> None:
    index, parts = FAMILIES["2"]
    text = {**parts["text_encoder"], "num_hidden_layers": layers}
    write_folder(tmp_path / "a", index, {**parts, "text_encoder": text, "scheduler": SCHEDULER})
    convert(tmp_path / "a", tmp_path / "b.safetensors")
    with read_safetensors(tmp_path / "b.safetensors") as file:
        # what another program kept of the file: no header of ours
        tensors = {name: file.read(name) for name in file.names}
    found = recognise(MemorySource(tensors))
    assert found.components["text_encoder"].config["num_hidden_layers"] == layers
