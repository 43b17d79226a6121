"""LoRA merged as it is read: under every naming the numbers that PEFT computes, and refusals by name."""

from __future__ import annotations

import re

import numpy as np
import pytest
from golden.family_cases import CONTROLLED
from golden.family_files import shapes_of
from golden.provenance import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.lora import Strength, apply_lora
from tinyldm.checkpoints.names.unet import unet_links
from tinyldm.errors import CheckpointError
from tinyldm.golden.seeded import seeded_input, seeded_weights
from tinyldm.models.build import build, expected
from tinyldm.runtime import Runtime

FLOAT64 = Runtime(backend="reference", dtype=np.dtype(np.float64))


def unet_source() -> MemorySource:
    return MemorySource(seeded_weights(expected("UNet2DConditionModel", CONTROLLED)), path="unet")


def peft_names() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float]:
    golden, provenance = load_golden("families/lora")
    return seeded_weights(shapes_of(golden)), golden, provenance["alpha"]


def split(name: str) -> tuple[str, str]:
    layer, part = re.fullmatch(r"unet\.(.*)\.lora_([AB])\.weight", name).groups()
    return layer, {"A": "down", "B": "up"}[part]


def kohya(tensors: dict[str, np.ndarray], alpha: float, rename=lambda layer: layer) -> dict[str, np.ndarray]:
    made = {}
    for name, value in tensors.items():
        layer, part = split(name)
        flat = "lora_unet_" + rename(layer).replace(".", "_")
        made[f"{flat}.lora_{part}.weight"] = value
        made[f"{flat}.alpha"] = np.array(alpha, np.float32)
    return made


def kohya_original(tensors: dict[str, np.ndarray], alpha: float) -> dict[str, np.ndarray]:
    source = unet_source()
    links = unet_links(source.names, "canonical", lambda width: 1, source.shape)
    original = {link.canonical[0].removesuffix(".weight"): link.original.removesuffix(".weight") for link in links}
    return kohya(tensors, alpha, lambda layer: original[layer])


def older_diffusers(tensors: dict[str, np.ndarray], alpha: float) -> dict[str, np.ndarray]:
    made = {}
    for name, value in tensors.items():
        layer, part = split(name)
        if found := re.fullmatch(r"(.*attn\d)\.(to_[qkv]|to_out)(?:\.0)?", layer):
            key = f"unet.{found[1]}.processor.{found[2]}_lora"
        else:
            key = f"unet.{layer}.lora"
        made[f"{key}.{part}.weight"] = value
        made[f"{key.removesuffix('.lora')}.alpha"] = np.array(alpha, np.float32)
    return made


NAMINGS = {
    "PEFT": lambda tensors, alpha: tensors | {f"unet.{split(n)[0]}.alpha": np.array(alpha) for n in tensors},
    "PEFT with a base model": lambda tensors, alpha: {
        n.replace("unet.", "base_model.model.").replace(".weight", ".default.weight"): v for n, v in tensors.items()
    },
    "kohya": kohya,
    "kohya, original names": kohya_original,
    "older diffusers": older_diffusers,
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_a_unet_with_a_lora_computes_what_peft_computes(naming: str) -> None:
    tensors, golden, alpha = peft_names()
    named = NAMINGS[naming](tensors, alpha)
    scale = 1.0 if any(name.endswith("alpha") for name in named) else alpha / 3
    adapted = apply_lora({"unet": unet_source()}, MemorySource(named), scale)
    unet = build("UNet2DConditionModel", CONTROLLED, adapted["unet"], FLOAT64)
    z, context = (seeded_input(n, s).astype(np.float64) for n, s in (("z", (1, 4, 4, 6)), ("context", (1, 5, 12))))
    epsilon = unet(z, 321, context)
    assert np.abs(epsilon - golden["epsilon"]).max() <= 1e-9 * np.abs(golden["epsilon"]).max()


def test_a_scale_that_is_changed_later_computes_what_peft_computes() -> None:
    tensors, golden, alpha = peft_names()
    strength = Strength(0.0)
    adapted = apply_lora({"unet": unet_source()}, MemorySource(tensors), strength)
    unet = build("UNet2DConditionModel", CONTROLLED, adapted["unet"], FLOAT64)
    plain = build("UNet2DConditionModel", CONTROLLED, unet_source(), FLOAT64)
    z, context = (seeded_input(n, s).astype(np.float64) for n, s in (("z", (1, 4, 4, 6)), ("context", (1, 5, 12))))
    np.testing.assert_array_equal(unet(z, 321, context), plain(z, 321, context))
    strength.value = alpha / 3
    unet.weights.drop()
    error = np.abs(unet(z, 321, context) - golden["epsilon"]).max()
    assert error <= 1e-9 * np.abs(golden["epsilon"]).max()


@settings(deadline=None, max_examples=30)
@given(
    rank=st.integers(1, 4),
    out=st.integers(1, 5),
    inner=st.integers(1, 5),
    kernel=st.sampled_from([0, 1, 3]),
    scale=st.floats(-2, 2),
    alpha=st.floats(0.5, 8),
)
def test_the_sum(rank, out, inner, kernel, scale, alpha) -> None:
    rng = np.random.default_rng(rank * 100 + out * 10 + inner)
    size = (kernel, kernel) if kernel else ()
    weight = rng.standard_normal((out, inner, *size))
    down, up = rng.standard_normal((rank, inner, *size)), rng.standard_normal((out, rank, *[1] * len(size)))
    lora = {"lora_unet_a_b.lora_down.weight": down, "lora_unet_a_b.lora_up.weight": up}
    lora["lora_unet_a_b.alpha"] = np.array(alpha)
    adapted = apply_lora({"unet": MemorySource({"a.b.weight": weight})}, MemorySource(lora), scale)["unet"]
    wanted = weight.copy()
    for index in np.ndindex(weight.shape):
        for r in range(rank):
            wanted[index] += scale * alpha / rank * up.reshape(out, rank)[index[0], r] * down[(r, *index[1:])]
    np.testing.assert_allclose(adapted.read("a.b.weight", np.float64), wanted, rtol=1e-9, atol=1e-9)


def one(**changes: tuple[int, ...]) -> MemorySource:
    shapes = {"lora_down": (2, 3), "lora_up": (4, 2)} | changes
    return MemorySource({f"lora_unet_a_b.{n}.weight": np.ones(s, np.float32) for n, s in shapes.items()}, path="lora")


def test_stored_type_and_two_files() -> None:
    source = MemorySource({"a.b.weight": np.zeros((4, 3), np.float16), "c.weight": np.ones(2, np.float16)})
    once = apply_lora({"unet": source}, one(), 0.5)
    twice = apply_lora(once, one(), 0.5)["unet"]
    assert twice.read("a.b.weight", None).dtype == np.float16
    np.testing.assert_array_equal(twice.read("a.b.weight"), np.full((4, 3), 2))
    np.testing.assert_array_equal(twice.read("c.weight"), 1)
    assert not twice.read("a.b.weight").flags.writeable


def test_text_encoders() -> None:
    name = "encoder.layers.0.self_attn.q_proj.weight"
    first, second = (MemorySource({name: np.zeros((4, 3), np.float32)}) for _ in range(2))
    components = {"unet": MemorySource({}), "text_encoder": first, "text_encoder_2": second}
    layer = "text_model_encoder_layers_0_self_attn_q_proj"
    for prefix, changed in (
        ("lora_te_", "text_encoder"),
        ("lora_te1_", "text_encoder"),
        ("lora_te2_", "text_encoder_2"),
    ):
        lora = {
            f"{prefix}{layer}.lora_down.weight": np.ones((2, 3)),
            f"{prefix}{layer}.lora_up.weight": np.ones((4, 2)),
        }
        adapted = apply_lora(components, MemorySource(lora))
        assert {n: int(s.read(name)[0, 0]) for n, s in adapted.items() if n != "unet"} == {
            "text_encoder": 2 * (changed == "text_encoder"),
            "text_encoder_2": 2 * (changed == "text_encoder_2"),
        }
    older = "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora"
    lora = {f"{older}.down.weight": np.ones((2, 3)), f"{older}.up.weight": np.ones((4, 2))}
    assert apply_lora(components, MemorySource(lora))["text_encoder"].read(name)[0, 0] == 2


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lora_unet_a_b.dora_scale": (1,)}, "is not complete"),
        ({"lora_unet_a_b.hada_w1_a": (1,)}, "is not complete"),
        ({"lora_unet_a_b.oft_blocks": (1,)}, r"another kind \(OFT or BOFT\)"),
        ({"some.weight": (1,)}, "not one that a LoRA file has"),
        ({"lora_unet_a_b.lora_down.weight": (2, 3)}, "has no up matrix"),
        ({"lora_unet_a_b.alpha": ()}, "is not complete"),
        ({"lora_unet_x.lora_down.weight": (2, 3), "lora_unet_x.lora_up.weight": (4, 2)}, "layer 'lora_unet_x'"),
        ({"lora_te2_x.lora_down.weight": (2, 3), "lora_te2_x.lora_up.weight": (4, 2)}, "the text_encoder_2, which"),
        ({"lora_unet_a_b.lora_down.weight": (0, 3), "lora_unet_a_b.lora_up.weight": (4, 0)}, "are empty"),
        ({"lora_unet_a_b.lora_down.weight": (2, 3), "lora_unet_a_b.lora_up.weight": (4, 3)}, "do not fit a.b.weight"),
        ({"lora_unet_a_b.lora_down.weight": (2, 4), "lora_unet_a_b.lora_up.weight": (4, 2)}, "do not fit a.b.weight"),
        ({}, "holds no tensors"),
    ],
)
def test_what_is_refused(tensors: dict[str, tuple[int, ...]], message: str) -> None:
    lora = MemorySource({name: np.ones(shape, np.float32) for name, shape in tensors.items()}, path="lora")
    source = MemorySource({"a.b.weight": np.zeros((4, 3), np.float32)})
    with pytest.raises(CheckpointError, match=message):
        apply_lora({"unet": source}, lora)
