"""What files are recognised as: whole single files against diffusers' own conversion, bare ones, bad ones."""

from __future__ import annotations

import hashlib
import json
import zlib
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from golden.family_cases import PUBLISHED, SINGLE_FILES
from golden.family_files import shapes_of, single_file
from golden.provenance import load_golden

from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.families import FAMILIES
from tinyldm.checkpoints.original_config import stated_by_config
from tinyldm.checkpoints.recognise import recognise
from tinyldm.errors import CheckpointError, ConfigError
from tinyldm.golden.seeded import seeded_weights
from tinyldm.models.build import build, expected
from tinyldm.runtime import Runtime

FLOAT64 = Runtime(backend="reference", dtype=np.dtype(np.float64))
UNET = "model.diffusion_model."


@cache
def whole(family: str) -> MemorySource:
    return MemorySource(single_file(family), path=f"{family}.safetensors")


def sha(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("family", SINGLE_FILES)
def test_every_tensor_is_what_diffusers_makes_of_it(family: str) -> None:
    golden, _ = load_golden(f"families/single-file-{family}")
    wanted = json.loads(zlib.decompress(golden["digests"].tobytes()))
    found = recognise(whole(family))
    assert found.family == family
    assert set(found.components) == set(wanted)
    for name, component in found.components.items():
        assert {n: sha(component.source.read(n)) for n in component.source.names} == wanted[name]
        assert set(component.source.names) == set(expected(component.class_name, component.config))
        for n, shape in expected(component.class_name, component.config).items():
            assert component.source.shape(n) in (shape, shape[:2])


@pytest.mark.parametrize("family", SINGLE_FILES)
def test_text_encoders_compute_what_transformers_computes(family: str) -> None:
    golden, _ = load_golden(f"families/single-file-{family}")
    found = recognise(whole(family), config={n: {"eos_token_id": 99} for n in golden if n.startswith("text")})
    ids = np.array([[98, 5, 17, 99, 99, 99]])
    for name in (n for n in golden if n.startswith("text")):
        component = found.components[name]
        encoder = build(component.class_name, component.config, component.source, FLOAT64)
        made = encoder.pooled(ids) if component.class_name.endswith("WithProjection") else encoder(ids)
        assert np.abs(made - golden[name]).max() <= 1e-9 * np.abs(golden[name]).max()


@pytest.mark.parametrize("family", SINGLE_FILES)
def test_left_overs_are_known(family: str) -> None:
    found = recognise(whole(family))
    assert not found.unknown
    assert {"betas", "model_ema.decay", "first_stage_model.loss.logvar"} <= set(found.extras)
    last_layer = [n for n in found.extras if ".resblocks.23." in n]
    assert bool(last_layer) == (family == "stable-diffusion-2")


def test_an_unknown_tensor_is_said() -> None:
    tensors = single_file("stable-diffusion-1") | {"surprise.weight": np.zeros(3, np.float32)}
    found = recognise(MemorySource(tensors))
    assert found.unknown == ["surprise.weight"]
    assert any("surprise.weight" in note for note in found.notes)


def with_ema(family: str) -> dict[str, np.ndarray]:
    """A file with running averages that are all 7."""
    shapes = shapes_of(load_golden(f"families/unet-{family}")[0])
    tensors = {UNET + name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    averaged = {"model_ema.diffusion_model" + n.replace(".", ""): s for n, s in shapes.items()}
    return tensors | {name: np.full(shape, 7, np.float32) for name, shape in averaged.items()}


@pytest.mark.parametrize(
    ("family", "ema", "wanted"),
    [
        ("stable-diffusion-1", None, 0),
        ("stable-diffusion-1", True, 7),
        ("ldm-unconditional", None, 7),
        ("ldm-unconditional", False, 0),
    ],
)
def test_ema_or_plain_weights(family: str, ema: bool | None, wanted: int) -> None:
    found = recognise(MemorySource(with_ema(family)), ema=ema)
    unet = found.components["unet"].source
    assert unet.read("conv_in.weight").flat[0] == wanted
    assert all(unet.read(name).flat[0] == wanted for name in unet.names)
    assert not found.unknown
    assert any(("EMA" if wanted else "plain") in note for note in found.notes)


def test_no_ema_where_it_is_asked_for() -> None:
    with pytest.raises(CheckpointError, match="no running average"):
        recognise(whole("stable-diffusion-1"), ema=True)


def test_prediction_type() -> None:
    assumed = recognise(whole("stable-diffusion-2"))
    assert assumed.scheduler["prediction_type"] == "v_prediction"
    assert any("is assumed" in note for note in assumed.notes)
    said = recognise(whole("stable-diffusion-2"), prediction_type="epsilon")
    assert said.scheduler["prediction_type"] == "epsilon"
    assert not any("is assumed" in note for note in said.notes)
    with pytest.raises(ConfigError, match="unknown"):
        recognise(whole("stable-diffusion-2"), prediction_type="noise")


def test_config_overrides() -> None:
    found = recognise(whole("stable-diffusion-1"), config={"unet": {"attention_head_dim": 4}, "scheduler": {"x": 1}})
    assert found.components["unet"].config["attention_head_dim"] == 4
    assert found.components["unet"].config["cross_attention_dim"] == 768
    assert found.scheduler["x"] == 1
    with pytest.raises(ConfigError, match="no component 'nothing'"):
        recognise(whole("stable-diffusion-1"), config={"nothing": {}})


def test_a_measured_latent_scale_counts() -> None:
    tensors = single_file("stable-diffusion-1") | {"scale_factor": np.array(0.25, np.float32)}
    assert recognise(MemorySource(tensors)).components["vae"].config["scaling_factor"] == 0.25


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("layout", ["original", "canonical"])
def test_bare_components(component: str, layout: str) -> None:
    source = whole("stable-diffusion-1")
    one = recognise(source).components[component]
    if layout == "canonical":
        bare = {name: one.source.read(name) for name in one.source.names}
    else:
        prefix = {"unet": UNET, "vae": "first_stage_model.", "text_encoder": "cond_stage_model.transformer."}[component]
        bare = {n.removeprefix(prefix): source.read(n) for n in source.names if n.startswith(prefix)}
    found = recognise(MemorySource(bare))
    assert list(found.components) == [component]
    assert not found.unknown
    made = found.components[component]
    assert made.config == {**one.config, "scaling_factor": 0.18215} if component == "vae" else one.config
    assert {n: sha(made.source.read(n)) for n in made.source.names} == {
        n: sha(one.source.read(n)) for n in one.source.names
    }


def test_a_tiny_autoencoder() -> None:
    class_name, config, _ = PUBLISHED["tiny"]
    found = recognise(MemorySource(seeded_weights(expected(class_name, config))))
    made = found.components["vae"]
    assert made.class_name == class_name
    assert expected(class_name, made.config) == expected(class_name, config)
    assert made.config["scaling_factor"] == 1.0


def controlnet() -> dict[str, np.ndarray]:
    """A ControlNet of the first Stable Diffusion in original names: what the original's class adds to the UNet's."""
    unet = shapes_of(load_golden("families/unet-stable-diffusion-1")[0])
    shapes = {n: s for n, s in unet.items() if n.startswith(("time_embed", "input_blocks", "middle_block"))}
    widths = [32, 32, 32, 32, 64, 64, 64, 128, 128, 128, 128, 128]
    for i, width in enumerate(widths):
        shapes |= {f"zero_convs.{i}.0.weight": (width, width, 1, 1), f"zero_convs.{i}.0.bias": (width,)}
    shapes |= {"middle_block_out.0.weight": (128, 128, 1, 1), "middle_block_out.0.bias": (128,)}
    hint = [3, 16, 16, 32, 32, 96, 96, 256, 32]
    for i, (c_in, c_out) in enumerate(pairwise(hint)):
        shapes |= {f"input_hint_block.{2 * i}.weight": (c_out, c_in, 3, 3), f"input_hint_block.{2 * i}.bias": (c_out,)}
    return {f"control_model.{name}": value for name, value in seeded_weights(shapes).items()}


@pytest.mark.parametrize("layout", ["original", "canonical"])
def test_a_controlnet(layout: str) -> None:
    tensors = controlnet()
    found = recognise(MemorySource(tensors))
    if layout == "canonical":
        source = found.components["controlnet"].source
        found = recognise(MemorySource({name: source.read(name) for name in source.names}))
    assert not found.unknown
    made = found.components["controlnet"]
    assert set(made.source.names) == set(expected(made.class_name, made.config))
    build(made.class_name, made.config, made.source, FLOAT64)
    last = made.source.read("controlnet_cond_embedding.blocks.5.weight")
    np.testing.assert_array_equal(last, tensors["control_model.input_hint_block.12.weight"])
    np.testing.assert_array_equal(
        made.source.read("controlnet_down_blocks.3.weight"), tensors["control_model.zero_convs.3.0.weight"]
    )


def test_files_of_another_kind() -> None:
    with pytest.raises(CheckpointError, match=r"its 1 tensors .'layer1.weight', ….* are not those of"):
        recognise(MemorySource({"layer1.weight": np.zeros(3)}))
    with pytest.raises(CheckpointError, match="none at all"):
        recognise(MemorySource({}))


def test_a_fused_weight_that_cannot_be_split() -> None:
    tensors = single_file("stable-diffusion-2")
    tensors["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"] = np.zeros((100, 64), np.float32)
    with pytest.raises(CheckpointError, match=r"in_proj_weight' of shape \(100, 64\) does not split into 3"):
        recognise(MemorySource(tensors))


def test_original_configuration_beside_the_file(tmp_path) -> None:
    file = tmp_path / "model.safetensors"
    assert stated_by_config(file).scheduler == {}
    yaml = tmp_path / "model.yaml"
    yaml.write_text('model:\n  params:\n    parameterization: "v"\n    linear_start: 0.00085\n')
    assert stated_by_config(file).scheduler == {"prediction_type": "v_prediction", "beta_start": 0.00085}
    yaml.write_text("model:\n  params:\n    linear_start: 0.00085\n")
    assert stated_by_config(file).scheduler["prediction_type"] == "epsilon"


def test_family_names_are_unique() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
