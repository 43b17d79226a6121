"""Every family, from a file in original names to the numbers that the original repository's modules compute.

The goldens hold names, shapes and outputs of the original modules, `make_families.py`; the weights are seeded by name.
"""

from __future__ import annotations

import numpy as np
import pytest
from golden.family_cases import FIRST_STAGES, UNETS
from golden.family_files import shapes_of
from golden.provenance import load_golden

from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.recognise import recognise
from tinyldm.checkpoints.recognised import Recognised
from tinyldm.golden.seeded import seeded_input, seeded_weight, seeded_weights
from tinyldm.models.bert import BertEncoder
from tinyldm.models.build import build
from tinyldm.runtime import Runtime

FLOAT64 = Runtime(backend="reference", dtype=np.dtype(np.float64))


def source_of(golden: dict[str, np.ndarray], prefix: str = "") -> MemorySource:
    """The file as published: weights seeded by the name within the module, under the module's prefix."""
    weights = seeded_weights(shapes_of(golden))
    return MemorySource({prefix + name: value for name, value in weights.items()})


def model_of(found: Recognised, name: str):
    component = found.components[name]
    return build(component.class_name, component.config, component.source, FLOAT64)


def given(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return seeded_input(name, tuple(shape)).astype(np.float64)


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-9 * np.abs(wanted).max()


@pytest.mark.parametrize("family", UNETS)
def test_unet_of_a_whole_file(family: str) -> None:
    golden, provenance = load_golden(f"families/unet-{family}")
    found = recognise(source_of(golden, "model.diffusion_model."))
    assert found.family == family
    assert not found.unknown
    parameters, conditions = provenance["parameters"], UNETS[family][2]
    unet = model_of(found, "unet")
    z = given("z", provenance["z"])
    context_dim = parameters.get("context_dim")
    context_dim = context_dim[0] if isinstance(context_dim, list) else context_dim
    arguments = [given("context", (1, 5, context_dim))] if context_dim else []
    more = {
        name: given(name, value) if isinstance(value, tuple) else np.array(value) for name, value in conditions.items()
    }
    assert_close(unet(z, np.array([321.0]), *arguments, **more), golden["epsilon"])


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stage(name: str) -> None:
    golden, provenance = load_golden(f"families/first-stage-{name}")
    found = recognise(source_of(golden))
    model = model_of(found, "vae")
    mean, logvar = model.encode(given("pixels", (1, 3, 32, 32)))
    if name.startswith("vq"):
        assert_close(mean, golden["moments"])
        assert np.all(logvar == -np.inf)
    else:
        wanted_mean, wanted_logvar = np.split(golden["moments"], 2, axis=1)
        assert_close(mean, wanted_mean)
        assert_close(logvar, np.clip(wanted_logvar, -30, 20))
    assert_close(model.decode(given("z", provenance["z"])), golden["decoded"])


def test_bert() -> None:
    golden, _ = load_golden("families/bert")
    source = source_of(golden, "cond_stage_model.transformer.")
    unet, _ = load_golden("families/unet-ldm-text2img-large")
    weights = {f"model.diffusion_model.{n}": np.zeros(s, np.float32) for n, s in shapes_of(unet).items()}
    text = {name: source.read(name) for name in source.names}
    found = recognise(MemorySource(weights | text))
    assert not found.unknown
    encoder = model_of(found, "text_encoder")
    assert isinstance(encoder, BertEncoder)
    assert_close(encoder(golden["ids"]), golden["context"])


def test_seeds_are_by_the_original_name() -> None:
    """The weights of the goldens are those of `seeded_weight`, so that another language can make them too."""
    golden, _ = load_golden("families/bert")
    name, shape = next(iter(shapes_of(golden).items()))
    np.testing.assert_array_equal(source_of(golden).read(name), seeded_weight(name, shape))
