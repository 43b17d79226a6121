"""The models against diffusers and transformers: every case of `golden/model_cases.py`, outputs and single modules."""

import dataclasses
import json

import numpy as np
import pytest
from golden.model_cases import FULL_WIDTH, TEXT_ENCODERS, UNETS, VAES, Case
from golden.model_checks import check_golden, names_digest, shapes_of
from golden.provenance import HERE, load_golden

from tinyldm.golden.seeded import seeded_input
from tinyldm.models.text_encoder import TextEncoderConfig
from tinyldm.models.unet_config import FIXED, UNetConfig
from tinyldm.models.vae import AutoencoderConfig
from tinyldm.runtime import Runtime

CASES = [*TEXT_ENCODERS, *VAES, *UNETS]
RUNTIMES = {
    "reference float64": Runtime("reference", "float64"),
    "reference float32": Runtime("reference", "float32"),
    "numba strict": Runtime("numba", "float32", "strict"),
    "numba fast": Runtime("numba", "float32", "fast"),
}
PARAMETERS = json.loads((HERE / "models" / "parameters.json").read_text())


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_model_is_the_original(case: Case, runtime: Runtime):
    check_golden(case.name, runtime)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden_is_of_the_case_as_it_is_now(case: Case):
    golden, provenance = load_golden(f"models/{case.name}")
    assert provenance["config"] == case.config
    assert provenance["inputs"] == sorted(case.inputs)
    for name, value in case.inputs.items():
        np.testing.assert_array_equal(golden[name], seeded_input(name, value) if isinstance(value, tuple) else value)


FIELDS = [
    (UNETS, UNetConfig, {name for name, values in FIXED.items() if len(set(values)) == 1}),
    (VAES, AutoencoderConfig, set()),
    (TEXT_ENCODERS, TextEncoderConfig, set()),
]


@pytest.mark.parametrize(("cases", "kind", "fixed"), FIELDS, ids=["unet", "vae", "text_encoder"])
def test_every_supported_field_is_used(cases: list[Case], kind: type, fixed: set[str]):
    """Some case gives each field that may vary a value that is not its default."""
    for field in dataclasses.fields(kind):
        values = [case.config[field.name] for case in cases if field.name in case.config]
        values = [tuple(value) if isinstance(value, list) else value for value in values]
        assert field.name in fixed or any(value != field.default for value in values), field.name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", FULL_WIDTH)
def test_published_width_is_the_original(name: str, dtype: str):
    """Stable Diffusion 1.5: the weights are made as they are needed; both dtypes against the original in float64."""
    check_golden(name, Runtime("reference", dtype, low_memory=True), of="float64")


def test_the_clamp_of_the_log_variance_is_reached_on_both_sides():
    logvar = load_golden("models/vae_clamp")[0]["float64/logvar"]
    assert (logvar.min(), logvar.max()) == (-30, 20)


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_configs_want_the_weights_that_the_originals_have(name: str):
    wanted = PARAMETERS[name]
    shapes = shapes_of(wanted["model"], json.loads((HERE / "configs" / f"{name}.json").read_text()))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == wanted["elements"]
    assert len(shapes) == wanted["tensors"]
    assert names_digest(shapes) == wanted["sha256"]
