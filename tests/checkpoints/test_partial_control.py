"""ControlNets stored as a difference to their UNet or as a LoRA of it: the whole one's weights come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoint_commands import inspect
from tiny_checkpoints import CONTROLNET, UNET, write_sd

from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.names.links import LinkedSource
from tinyldm.checkpoints.names.unet import controlnet_links, unet_links
from tinyldm.checkpoints.partial_control import partial_control
from tinyldm.checkpoints.recognised import Component
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.errors import CheckpointError
from tinyldm.golden.seeded import seeded_weights
from tinyldm.models.build import expected
from tinyldm.pipelines.load import load

# The published hint, and heads that the names of a ControlNet tell nothing of.
CONTROL = {**CONTROLNET, "conditioning_embedding_out_channels": [4, 8, 8, 8]}


def original(class_name: str, config: dict) -> dict[str, np.ndarray]:
    source = MemorySource(seeded_weights(expected(class_name, config)))
    if class_name == "ControlNetModel":
        links = controlnet_links(source.names, "canonical", source.shape)
    else:
        links = unet_links(source.names, "canonical", lambda _: 1, source.shape)
    view = LinkedSource(source, links, to="original")
    return {name: view.read(name).astype(np.float64) for name in view.names}


@pytest.fixture(scope="module")
def unet() -> Component:
    return Component("UNet2DConditionModel", UNET, MemorySource(seeded_weights(expected("UNet2DConditionModel", UNET))))


def test_a_difference(tmp_path: Path, unet: Component) -> None:
    control, base = original("ControlNetModel", CONTROL), original("UNet2DConditionModel", UNET)
    other = {name: 2 * value + 1 for name, value in control.items()}
    stored = {f"control_model.{n}": v - base[n] if n in base else v for n, v in other.items()}
    file = tmp_path / "diff.safetensors"
    write_safetensors(file, stored | {"difference": np.zeros(0)})
    whole = partial_control(file, unet)
    assert whole is not None
    wanted = LinkedSource(MemorySource(other), controlnet_links(other, "original", lambda n: other[n].shape))
    assert set(whole.source.names) == set(wanted.names)
    for name in wanted.names:
        np.testing.assert_allclose(whole.source.read(name, np.float64), wanted.read(name, np.float64), atol=1e-6)
    assert "stored as a difference" in inspect(file, tensors=False)
    write_safetensors(tmp_path / "plain.safetensors", {f"control_model.{n}": v for n, v in other.items()})
    assert partial_control(tmp_path / "plain.safetensors", unet) is None


def test_a_lora(tmp_path: Path, unet: Component) -> None:
    control, base = original("ControlNetModel", CONTROL), original("UNet2DConditionModel", UNET)
    stored: dict[str, np.ndarray] = {"lora_controlnet": np.zeros(0)}
    wanted: dict[str, np.ndarray] = {}
    for seed, (name, value) in enumerate(control.items()):
        rng = np.random.default_rng(seed)
        layer = name.removesuffix(".weight")
        if name in base and name.endswith(".weight") and value.ndim > 1:
            up, down = rng.standard_normal((len(value), 2)), rng.standard_normal((2, *value.shape[1:]))
            up = up.reshape(*up.shape, *[1] * (value.ndim - 2))
            stored |= {f"{layer}.up": up, f"{layer}.down": down}
            wanted[name] = base[name] + (up.reshape(len(up), 2) @ down.reshape(2, -1)).reshape(value.shape)
        elif name in base and seed % 2:
            wanted[name] = base[name]  # left out: it is the UNet's
        else:
            stored[name] = wanted[name] = value
    file = tmp_path / "lora.safetensors"
    write_safetensors(file, stored)
    whole = partial_control(file, unet)
    assert whole is not None
    view = LinkedSource(MemorySource(wanted), controlnet_links(wanted, "original", lambda n: wanted[n].shape))
    for name in view.names:
        np.testing.assert_allclose(whole.source.read(name, np.float64), view.read(name, np.float64), atol=1e-6)
    report = inspect(file)
    assert "a ControlNet stored as a LoRA of a UNet" in report
    assert "zero_convs.0.0.weight" in report
    with pytest.raises(CheckpointError, match="give it with the checkpoint"):
        partial_control(file, None)
    stored["middle_block.0.in_layers.2.up"] = np.zeros((3, 2))
    write_safetensors(file, stored)
    with pytest.raises(CheckpointError, match="does not fit middle_block"):
        partial_control(file, unet)


def test_a_checkpoint_loads_with_one(tmp_path: Path, unet: Component) -> None:
    base = original("UNet2DConditionModel", UNET)
    control = original("ControlNetModel", CONTROL)
    stored = {f"control_model.{n}": np.zeros_like(v) if n in base else v for n, v in control.items()}
    write_safetensors(tmp_path / "diff.safetensors", stored | {"difference": np.zeros(0)})
    model = load(write_sd(tmp_path / "sd"), backend="reference", controlnet=tmp_path / "diff.safetensors")
    np.testing.assert_array_equal(model.controlnet.weights.conv_in.weight, model.unet.weights.conv_in.weight)
