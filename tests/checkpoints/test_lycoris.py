"""LoCon, LoHa, LoKr and DoRA against LyCORIS and PEFT, what a file states of alpha, and every spelling of a layer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from golden.provenance import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoints import UNET, write_sd

from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.lora import Strength, apply_lora
from tinyldm.checkpoints.lora_facts import distilled_for, open_lora
from tinyldm.checkpoints.lycoris import check_shapes, difference
from tinyldm.checkpoints.names.unet import unet_links
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.errors import CheckpointError
from tinyldm.golden.seeded import seeded_weight, seeded_weights
from tinyldm.models.build import expected
from tinyldm.pipelines.load import load


def cases() -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, value in load_golden("families/lycoris")[0].items():
        name, _, part = key.partition("|")
        found.setdefault(name, {})[part] = value
    return found


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_the_weight_is_that_of_the_original(name: str) -> None:
    parts = dict(CASES[name])
    merged = parts.pop("merged")
    weight = seeded_weight(f"{name}.weight", merged.shape).astype(np.float64)
    metadata = {}
    if name.startswith("peft"):
        tensors = parts  # base_model.model.layer.lora_A.weight
        metadata = {"lora_adapter_metadata": json.dumps({"lora_alpha": 5, "r": 3, "use_rslora": True})}
    else:
        tensors = {f"lora_unet_layer.{part}": value for part, value in parts.items()}
    source = MemorySource({"layer.weight": weight})
    adapted = apply_lora({"unet": source}, MemorySource(tensors, metadata=metadata))["unet"]
    error = np.abs(adapted.read("layer.weight", np.float64) - merged).max()
    assert error <= 1e-12 * np.abs(merged).max()
    zero = apply_lora({"unet": source}, MemorySource(tensors, metadata=metadata), 0.0)["unet"]
    np.testing.assert_array_equal(zero.read("layer.weight", np.float64), weight)
    half = apply_lora({"unet": source}, MemorySource(tensors, metadata=metadata), Strength(0.5))["unet"]
    if not name.startswith("peft"):  # PEFT's DoRA bends between its ends
        np.testing.assert_allclose(half.read("layer.weight", np.float64), (weight + merged) / 2, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["LoRA", "LoHa", "LoKr", "full"]),
    sizes=st.tuples(*[st.integers(1, 4)] * 3),
    other=st.tuples(*[st.integers(1, 4)] * 3),
    kernel=st.sampled_from([(), (1, 1), (3, 3)]),
    core=st.booleans(),
)
def test_the_shapes_that_pass_are_those_that_can_be_computed(kind, sizes, other, kernel, core) -> None:
    (out, inner, rank), (out2, inner2, rank2) = sizes, other
    core = core and kernel == (3, 3)
    if kind == "LoRA":
        shapes = {"up": (out, rank, *([1, 1] if kernel else [])), "down": (rank2, inner, *([1, 1] if core else kernel))}
        shapes |= {"mid": (rank, rank2, *kernel)} if core else {}
    elif kind == "LoHa":
        shapes = {}
        for i, (r, o) in enumerate(((rank, out), (rank2, out2)), start=1):
            flat = inner * math.prod(kernel)
            shapes |= {f"hada_w{i}_a": (r, o) if core else (o, r), f"hada_w{i}_b": (rank, inner if core else flat)}
            shapes |= {f"hada_t{i}": (r, rank, *kernel)} if core else {}
    elif kind == "LoKr":
        shapes = {"lokr_w1": (out, inner), "lokr_w2_a": (out2, rank), "lokr_w2_b": (rank2, inner2 * math.prod(kernel))}
    else:
        shapes = {"diff": (out, inner, *kernel)}
    arrays = {part: np.ones(shape) for part, shape in shapes.items()}
    whole = (out * out2, inner * inner2, *kernel) if kind == "LoKr" else (out, inner, *kernel)
    try:
        check_shapes(shapes, whole)
    except ValueError:
        return
    assert difference(arrays, whole).shape == whole


def test_shapes_that_do_not_pass() -> None:
    """What NumPy would broadcast, or arrange anew, without a word."""
    for shapes, shape in (
        ({"up": (4, 2), "down": (2, 6)}, (6, 4)),
        ({"up": (4, 2), "down": (2, 3, 3, 3)}, (4, 9, 3, 1)),
        ({"up": (4, 1), "down": (2, 6)}, (4, 6)),
        ({"hada_w1_a": (4, 2), "hada_w1_b": (2, 6), "hada_w2_a": (1, 2), "hada_w2_b": (2, 6)}, (4, 6)),
        ({"hada_w1_a": (4, 2), "hada_w1_b": (2, 6), "hada_w2_a": (6, 2), "hada_w2_b": (2, 4)}, (4, 6)),
        ({"diff": (1, 6)}, (4, 6)),
        ({"up": (4, 2), "down": (2, 6), "dora_scale": (3, 1)}, (4, 6)),
        ({"up": (4, 2), "down": (2, 6), "magnitude": (1,)}, (4, 6)),
    ):
        with pytest.raises(ValueError):
            check_shapes(shapes, shape)


def test_biases_norms_and_differences() -> None:
    source = MemorySource({"norm.weight": np.ones(3), "norm.bias": np.ones(3), "conv.weight": np.ones((2, 3, 3, 3))})
    lora = {"lora_unet_norm.w_norm": np.full(3, 2.0), "lora_unet_norm.b_norm": np.full(3, 4.0)}
    lora["lora_unet_conv.diff"] = np.full((2, 3, 3, 3), 8.0)
    adapted = apply_lora({"unet": source}, MemorySource(lora), 0.5)["unet"]
    assert (adapted.read("norm.weight")[0], adapted.read("norm.bias")[0]) == (2, 3)
    assert adapted.read("conv.weight")[0, 0, 0, 0] == 5


LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
MATRICES = {"lora_down.weight": np.ones((2, 16), np.float32), "lora_up.weight": np.ones((16, 2), np.float32)}


def unet() -> MemorySource:
    return MemorySource(seeded_weights(expected("UNet2DConditionModel", UNET)), path="unet")


def original(layer: str) -> str:
    source = unet()
    links = unet_links(source.names, "canonical", lambda _: 1, source.shape)
    return next(link.original for link in links if link.canonical == (f"{layer}.weight",)).removesuffix(".weight")


PREFIXES = ("unet.", "diffusion_model.", "model.diffusion_model.", "base_model.model.", "", "lora_unet_")


@pytest.mark.parametrize("peft", [False, True])
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("names", ["canonical", "original"])
def test_every_spelling_of_a_layer(peft: bool, prefix: str, names: str) -> None:
    layer = LAYER if names == "canonical" else original(LAYER)
    if prefix == "lora_unet_":
        layer = layer.replace(".", "_")
    spelled = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
    tensors = {f"{prefix}{layer}.{spelled[p] if peft else p}": v for p, v in MATRICES.items()}
    adapted = apply_lora({"unet": unet()}, MemorySource(tensors))["unet"]
    assert adapted.changed == [f"{LAYER}.weight"]
    np.testing.assert_allclose(adapted.read(f"{LAYER}.weight"), unet().read(f"{LAYER}.weight") + 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("metadata", "factor"),
    [
        ({"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 8})}, 4),
        ({"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8, "unet.use_rslora": True})}, 8 / math.sqrt(2)),
        ({"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 3}})}, 1.5),
        ({"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_q": 3}})}, 4),
        ({"lora_adapter_metadata": json.dumps({"lora_alpha": 1, "r": 2})}, 0.5),
        ({"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": 1})}, 1),
        ({"ss_network_alpha": "1", "ss_network_dim": "2"}, 0.5),
        ({"ss_network_alpha": "Dynamic"}, 1),
        ({}, 1),
    ],
)
def test_alpha_is_what_the_header_states(metadata: dict[str, str], factor: float) -> None:
    tensors = {f"unet.{LAYER}.{part}": value for part, value in MATRICES.items()}
    notes: list[str] = []
    adapted = apply_lora({"unet": unet()}, MemorySource(tensors, metadata=metadata), notes=notes)["unet"]
    change = adapted.read(f"{LAYER}.weight", np.float64) - unet().read(f"{LAYER}.weight", np.float64)
    np.testing.assert_allclose(change, 2 * factor, rtol=1e-6)
    assert bool(notes) == (factor == 1)  # what is assumed is said


def test_an_alpha_that_is_no_number() -> None:
    tensors = {f"unet.{LAYER}.{part}": value for part, value in MATRICES.items()}
    for config in ({"lora_alpha": "x"}, {"lora_alpha": True}, {"lora_alpha": 1, "alpha_pattern": {"a": None}}):
        lora = MemorySource(tensors, metadata={"lora_adapter_metadata": json.dumps(config)})
        with pytest.raises(CheckpointError, match="its configuration has the alpha"):
            apply_lora({"unet": unet()}, lora)


def test_a_folder_of_peft(tmp_path: Path) -> None:
    checkpoint = write_sd(tmp_path / "sd")
    tensors = {f"base_model.model.{LAYER}.{part}": value for part, value in MATRICES.items()}
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 8}))
    model = load(checkpoint, backend="reference", loras=[folder])
    plain = load(checkpoint, backend="reference")
    change = model.unet.weights.at(LAYER).weight - plain.unet.weights.at(LAYER).weight
    np.testing.assert_allclose(change, 8, rtol=1e-5)
    file = open_lora(folder / "adapter_model.safetensors")
    assert "lora_alpha" in file.metadata["lora_adapter_metadata"]
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "PREFIX_TUNING"}))
    with pytest.raises(CheckpointError, match="an adapter of the type 'PREFIX_TUNING'"):
        open_lora(folder)
    with pytest.raises(CheckpointError, match="holds no LoRA"):
        open_lora(checkpoint)


@pytest.mark.parametrize(
    ("path", "sampler"),
    [
        ("latent-consistency/lcm-lora-sdv1-5", "sampler lcm"),
        ("Hyper-SD15-1step-lora.safetensors", "one step of the sampler tcd"),
        ("h1t/TCD-SDXL-LoRA", "sampler tcd"),
        ("Hyper-SDXL-8steps-lora.safetensors", "sampler ddim"),
        ("sdxl_lightning_4step_lora.safetensors", "sampler euler"),
        ("pixel-art.safetensors", None),
        ("welcome.safetensors", None),
    ],
)
def test_a_distilling_lora_says_its_sampler(path: str, sampler: str | None) -> None:
    usual = distilled_for(path, {})
    assert (usual is None) if sampler is None else (usual is not None and sampler in usual)
    assert distilled_for("x.safetensors", {"modelspec.title": path}) == usual


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lora_transformer_double_blocks_0_img_attn_proj.foo": (1,)}, "is FLUX, not a LoRA"),
        ({"lora_unet_a.oft_blocks": (1, 2, 2)}, "OFT or BOFT"),
        ({"lora_unet_a.hada_w1_a": (6, 2)}, "is not complete"),
        ({"lora_unet_a.lora_down.weight": (2, 8), "lora_unet_a.lora_up.weight": (6, 3)}, "do not fit a.weight"),
        ({"lora_unet_a.diff_b": (6,)}, "changes a.bias"),
    ],
)
def test_what_is_refused(tensors: dict[str, tuple[int, ...]], message: str) -> None:
    lora = MemorySource({name: np.ones(shape, np.float32) for name, shape in tensors.items()}, path="lora")
    with pytest.raises(CheckpointError, match=message):
        apply_lora({"unet": MemorySource({"a.weight": np.zeros((6, 8))})}, lora)
