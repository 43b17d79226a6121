"""IP-Adapters: what a picture as a prompt does to pictures, the kinds of files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden.adapter_cases import photo, picture
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoints import (
    XL_UNET,
    write_controlnet,
    write_image_encoder,
    write_ip_adapter,
    write_ldm,
    write_sd,
    write_xl,
)

import tinyldm
from tinyldm import tracing
from tinyldm.architectures import ARCHITECTURES
from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.recognise import recognise
from tinyldm.checkpoints.safetensors import read_safetensors
from tinyldm.errors import CheckpointError, InputError
from tinyldm.models.build import build
from tinyldm.models.ip_adapter import cross_attentions
from tinyldm.models.unet import UNet
from tinyldm.pipelines.image_prompt import clip_pixels
from tinyldm.runtime import Runtime

ARGUMENTS = {"prompt": "a", "steps": 2, "height": 16, "width": 24}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ip")
    write_sd(folder / "sd")
    write_xl(folder / "xl")
    for kind in ("projection", "plus", "full"):
        write_ip_adapter(folder / "models" / f"{kind}.safetensors", "sd", kind)
    write_ip_adapter(folder / "models" / "xl.safetensors", "xl", "projection")
    write_image_encoder(folder / "models" / "image_encoder")
    return folder


def load(folder: Path, kind: str = "projection", backend: str = "reference", **more) -> tinyldm.LatentDiffusion:
    return tinyldm.load(folder / "sd", backend=backend, ip_adapter=folder / "models" / f"{kind}.safetensors", **more)


def made(model: tinyldm.LatentDiffusion, **more) -> np.ndarray:
    return np.asarray(model.text_to_image(**(ARGUMENTS | more))[0])


@pytest.mark.parametrize("kind", ["projection", "plus", "full"])
def test_the_scale(folder: Path, kind: str) -> None:
    model = load(folder, kind)
    plain, prompted = made(model), made(model.prompted_by(photo((40, 23))))
    assert (prompted != plain).any()
    assert (prompted != made(model.prompted_by(photo((17, 60))))).any()
    np.testing.assert_array_equal(made(model.prompted_by(photo((40, 23)), 0)), plain)
    np.testing.assert_array_equal(made(model), plain)  # the model itself has not changed
    np.testing.assert_array_equal(made(tinyldm.load(folder / "sd", backend="reference")), plain)


@pytest.mark.parametrize("kind", ["projection", "plus"])
def test_pictures_of_a_group_are_those_of_each_seed(folder: Path, kind: str) -> None:
    model = load(folder, kind, "numba").prompted_by(photo((40, 23)), 0.8)
    together = model.text_to_image("a", steps=3, num_images=3, seed=5, batch_size=2)
    for k in range(3):
        alone = model.text_to_image("a", steps=3, seed=5 + k)[0]
        np.testing.assert_array_equal(np.asarray(together[k]), np.asarray(alone))
    reference = load(folder, kind).prompted_by(photo((40, 23)), 0.8).text_to_image("a", steps=3, seed=5)[0]
    assert (np.abs(np.asarray(together[0]).astype(int) - np.asarray(reference)) > 1).mean() <= 0.01


def test_a_trace_sees_the_same(folder: Path) -> None:
    """While one is on nothing is prepared; the attentions to the text are recorded as ever."""
    model = load(folder).prompted_by(photo((40, 23)))
    with tracing.trace("*attn2.to_k") as trace:
        traced = made(model)
    assert trace
    assert (np.abs(traced.astype(int) - made(model)) <= 1).all()


def test_beside_a_controlnet_and_from_arrays(folder: Path, tmp_path: Path) -> None:
    model = load(folder, controlnet=write_controlnet(tmp_path / "control"))
    both = model.controlled(picture("disc")).prompted_by(photo((40, 23)))
    assert (made(both) != made(model.controlled(picture("disc")))).any()
    assert (made(both) != made(model.prompted_by(photo((40, 23))))).any()
    context = np.random.default_rng(0).standard_normal((2, 3, 16))
    plain = model.from_conditions(context, steps=2)
    prompted = model.prompted_by(photo((40, 23))).from_conditions(context, steps=2)
    assert len(prompted) == 2
    assert all((np.asarray(a) != np.asarray(b)).any() for a, b in zip(plain, prompted, strict=True))


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_prompts_that_change_are_guided_as_others_are(folder: Path, tmp_path: Path, scale: float) -> None:
    """What changes from "a" to "a" is walked another way, and is the same."""
    model = load(folder, "plus", controlnet=write_controlnet(tmp_path / "control"))
    model = model.prompted_by(photo((40, 23)), 0.7).controlled(picture("disc"), 0.8, start=0.2, end=0.7)
    arguments = {"steps": 5, "guidance_scale": scale, "num_images": 2, "height": 16, "width": 24}
    plain = model.text_to_image("a", "b", **arguments)
    changing = model.text_to_image("[a:a:2]", "b", **arguments, prompt_syntax="webui")
    for a, b in zip(plain, changing, strict=True):
        assert (np.abs(np.asarray(a).astype(int) - np.asarray(b)) <= 1).all()
    always = model.replaced(controls=()).controlled(picture("disc"), 0.8)
    other = always.text_to_image("a", "b", **arguments)
    assert (np.asarray(other[0]) != np.asarray(plain[0])).any()


def test_weights_are_dropped_in_a_single_run(folder: Path) -> None:
    model = load(folder)
    model = tinyldm.LatentDiffusion(model.parts, single_run=True).prompted_by(photo((40, 23)))
    first = made(model)
    for name in ("image_encoder", "ip_adapter", "unet", "text_encoder"):
        assert not any(node._cache for node in model.networks[name].weights.modules()), name
    np.testing.assert_array_equal(made(model), first)


@pytest.mark.parametrize(("name", "count"), [("sd15", 16), ("sdxl", 70)])
def test_the_attentions_are_as_many_as_published(name: str, count: int) -> None:
    """16 and 70 pairs of `to_k_ip` and `to_v_ip`, numbered 1, 3, …, in the published files."""
    config = UNet.read(dict(ARCHITECTURES[name]["unet"][1]))
    found = cross_attentions(config)
    assert len(found) == count
    assert found[-1][0].startswith("mid_block.attentions.0.transformer_blocks.")
    assert len({path for path, _ in found}) == count


def test_the_attentions_are_those_of_the_tree(folder: Path) -> None:
    unet = tinyldm.load(folder / "xl", backend="reference").unet
    for path, width in cross_attentions(unet.config):
        assert unet.weights.at(path).to_k.shapes["weight"] == (width, XL_UNET["cross_attention_dim"])
    assert len(cross_attentions(unet.config)) == sum(n.path.endswith(".attn2") for n in unet.weights.modules())


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 20))
def test_pixels_are_of_the_square_in_the_middle(width: int, height: int, size: int) -> None:
    pixels = clip_pixels(photo((width, height)), size)
    assert pixels.shape == (1, 3, size, size)
    assert np.isfinite(pixels).all()
    assert pixels.min() >= -1.8
    assert pixels.max() <= 2.2


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no IP-Adapter; load it with one"):
        tinyldm.load(folder / "sd", backend="reference").prompted_by(photo((9, 9)))
    with pytest.raises(InputError, match="no IP-Adapter of the number 1; it has 1"):
        load(folder).prompted_by(photo((9, 9)), 1.0, 1)
    with pytest.raises(InputError, match="image_encoder is given without"):
        tinyldm.load(folder / "sd", backend="reference", image_encoder=folder / "models" / "image_encoder")
    xl = folder / "models" / "xl.safetensors"
    with pytest.raises(CheckpointError, match=r"with 8 attentions to a context of 40 channels; .* has 4 to one of 16"):
        tinyldm.load(folder / "sd", backend="reference", ip_adapter=xl)
    with pytest.raises(CheckpointError, match="has 0 to one of 0"):
        tinyldm.load(write_ldm(tmp_path / "ldm"), backend="reference", ip_adapter=xl)
    with pytest.raises(InputError, match=r"the embedding must have the shape \(N, 12\), not \(1, 5, 12\)"):
        load(folder).networks["ip_adapter"](np.zeros((1, 5, 12)))
    with pytest.raises(InputError, match=r"the embedding must have the shape \(N, L, 16\)"):
        load(folder, "plus").networks["ip_adapter"](np.zeros((1, 16)))


@pytest.mark.parametrize(
    "names", [["proj.0.weight", "proj.2.weight", "norm.weight"], ["perceiver_resampler.proj_in.weight"]]
)
def test_an_adapter_for_the_identity_of_a_face_is_named(names: list[str]) -> None:
    tensors = {f"image_proj.{name}": np.ones((2, 2)) for name in names} | {
        "ip_adapter.1.to_k_ip.weight": np.ones((2, 2))
    }
    with pytest.raises(CheckpointError, match="IP-Adapter of FaceID"):
        recognise(MemorySource(tensors))
    with pytest.raises(CheckpointError, match="without image_proj"):
        recognise(MemorySource({"ip_adapter.1.to_k_ip.weight": np.ones((2, 2))}))


def test_a_weight_that_is_missing_is_named(folder: Path) -> None:
    with read_safetensors(folder / "models" / "plus.safetensors") as file:
        tensors = {name: file.read(name) for name in file.names}
    del tensors["image_proj.layers.2.0.to_kv.weight"]
    component = recognise(MemorySource(tensors)).components["ip_adapter"]
    with pytest.raises(CheckpointError, match=r"needs the weight image_proj\.layers\.2\.0\.to_kv\.weight"):
        build(component.class_name, component.config, component.source, Runtime(backend="reference"))
