"""T2I-Adapters: their first publishers' files, what a picture is made with them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden.adapter_cases import picture
from golden.family_cases import ORIGINAL_T2I
from golden.family_files import shapes_of
from golden.provenance import load_golden
from tiny_checkpoints import (
    T2I_ADAPTER,
    XL_T2I_ADAPTER,
    XL_UNET_3,
    write_component,
    write_controlnet,
    write_sd,
    write_xl,
)

import tinyldm
from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.recognise import recognise
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.errors import CheckpointError, InputError
from tinyldm.golden.seeded import seeded_input, seeded_weights
from tinyldm.models.build import build
from tinyldm.runtime import Runtime

FLOAT64 = Runtime(backend="reference", dtype=np.dtype(np.float64))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t2i")
    write_sd(folder / "sd")
    write_xl(folder / "xl", XL_UNET_3)
    write_controlnet(folder / "control")
    write_component(folder / "adapter", T2I_ADAPTER)
    write_component(folder / "xl-adapter", XL_T2I_ADAPTER)
    return folder


@pytest.mark.parametrize("prefix", ["", "adapter."])
@pytest.mark.parametrize("name", ORIGINAL_T2I)
def test_a_file_of_the_first_publishers(name: str, prefix: str) -> None:
    golden, _ = load_golden(f"families/t2i-{name}")
    weights = {prefix + key: value for key, value in seeded_weights(shapes_of(golden)).items()}
    found = recognise(MemorySource(weights))
    assert not found.unknown
    component = found.components["controlnet"]
    kind = {"full": "full_adapter", "light": "light_adapter", "xl": "full_adapter_xl"}[name]
    assert component.config["adapter_type"] == kind
    assert found.title == f"a T2I-Adapter ({kind})"
    adapter = build(component.class_name, component.config, component.source, FLOAT64)
    hint = seeded_input("hint", (1, adapter.config.in_channels, 64, 128)).astype(np.float64)
    for i, feature in enumerate(adapter(hint)):
        wanted = golden[f"feature {i}"]
        assert feature.shape == wanted.shape
        assert np.abs(feature - wanted).max() <= 1e-9 * np.abs(wanted).max()


def test_canonical_names_without_a_config(tmp_path: Path) -> None:
    golden, _ = load_golden("families/t2i-light")
    first = recognise(MemorySource(seeded_weights(shapes_of(golden)))).components["controlnet"]
    canonical = {name: first.source.read(name) for name in first.source.names}
    write_safetensors(tmp_path / "adapter.safetensors", canonical)
    again = open_checkpoint(tmp_path / "adapter.safetensors").components["controlnet"]
    assert again.config == first.config
    assert set(again.source.names) == set(canonical)


def test_it_stands_beside_a_controlnet(folder: Path) -> None:
    model = tinyldm.load(folder / "sd", backend="reference", controlnet=[folder / "control", folder / "adapter"])
    arguments = {"prompt": "a", "steps": 2, "height": 16, "width": 24}

    def made(model: tinyldm.LatentDiffusion) -> np.ndarray:
        return np.asarray(model.text_to_image(**arguments)[0])

    disc, stripes = picture("disc"), picture("stripes")
    by_net, by_adapter = model.controlled(disc), model.controlled(stripes, 1.0, 1)
    both = made(by_net.controlled(stripes, 1.0, 1))
    assert (both != made(by_net)).any()
    assert (both != made(by_adapter)).any()
    np.testing.assert_array_equal(both, made(by_adapter.controlled(disc)))
    np.testing.assert_array_equal(made(model.controlled(stripes, 0, 1)), made(model))


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_pictures_of_a_group_are_those_of_each_seed(folder: Path, family: str) -> None:
    adapter = folder / ("adapter" if family == "sd" else "xl-adapter")
    model = tinyldm.load(folder / family, controlnet=adapter).controlled(picture("disc"), 0.8, end=0.7)
    together = model.text_to_image("a", steps=3, num_images=2, seed=5, batch_size=2)
    alone = model.text_to_image("a", steps=3, seed=6)[0]
    np.testing.assert_array_equal(np.asarray(together[1]), np.asarray(alone))
    reference = tinyldm.load(folder / family, backend="reference", controlnet=adapter)
    wanted = np.asarray(reference.controlled(picture("disc"), 0.8, end=0.7).text_to_image("a", steps=3, seed=6)[0])
    assert (np.abs(np.asarray(alone).astype(int) - wanted) > 1).mean() <= 0.01


def test_what_is_refused(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"T2I-Adapter with channels 8 at 1/1, 16 at 1/2; .* takes 8 at 1/2, 16 at"
    ):
        tinyldm.load(folder / "xl", backend="reference", controlnet=folder / "adapter")
    with pytest.raises(CheckpointError, match="this checkpoint's UNet takes 8 at 1/1, 16 at 1/2"):
        tinyldm.load(folder / "sd", backend="reference", controlnet=folder / "xl-adapter")
    model = tinyldm.load(folder / "xl", backend="reference", controlnet=folder / "xl-adapter")
    with pytest.raises(InputError, match="its size 26×16 must be a multiple of 4 pixels each way"):
        model.controlled(picture("disc").resize((26, 16)))
    with pytest.raises(InputError, match="its size 24×16 must be that of the picture, 32×32"):
        model.controlled(picture("disc")).text_to_image("a", height=32, width=32)
    one_width = {"body.0.block1.weight": np.ones((4, 4, 3, 3)), "conv_in.weight": np.ones((4, 64, 3, 3))}
    with pytest.raises(CheckpointError, match="of one width"):
        recognise(MemorySource(one_width))
