"""Every published model at its published width: recognised by names and shapes, and computing what the original does.

The goldens hold the names and shapes of the original's weights and a part of its outputs, `make_full_width.py`. Names
and shapes are checked always; what takes minutes, the numbers in float64, is marked slow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from golden.family_cases import SGM
from golden.full_width_cases import DIFFUSERS, FULL_WIDTH, Published, kept
from golden.full_width_files import component_of, published_file
from golden.provenance import load_golden

from tinyldm.golden.seeded import seeded_input
from tinyldm.models.build import build, expected
from tinyldm.runtime import Runtime

FLOAT64 = Runtime(backend="reference", dtype=np.dtype(np.float64), low_memory=True)


def inputs_of(case: Published) -> dict[str, np.ndarray]:
    x = {
        key: seeded_input(key, value).astype(np.float64) if isinstance(value, tuple) else np.array(value)
        for key, value in case.inputs.items()
    }
    return x | {"mask": (x["mask"] > 0).astype(np.float64)} if "mask" in x else x


def outputs_of(model: Any, case: Published) -> dict[str, np.ndarray]:
    """What the model makes of the case's inputs, under the goldens' names."""
    x = inputs_of(case)
    if "pixels" in x:
        mean, logvar = model.encode(x["pixels"])
        found = {"mean": mean, "logvar": logvar, "decoded": model.decode(x["z"])}
        return found | ({"masked": model.decode(x["z"], x["image"], x["mask"])} if "mask" in x else {})
    if "clip_pixels" in x:
        return {"embeds": model.pooled(x["clip_pixels"]), "tokens": model(x["clip_pixels"], layer=-2)}
    if "embeds" in x:
        tokens = model(x["embeds"])
        pairs = model.keys_values(tokens)
        return {"tokens": tokens, "keys": pairs[0][0], "values": pairs[-1][1]}
    if "ids" in x:
        if case.repository == SGM:
            return {"context": model(x["ids"], -2, final_norm=False), "pooled": model.pooled(x["ids"])}
        return {"context": model(x["ids"])}
    if "z" not in x:
        return {f"feature {i}": feature for i, feature in enumerate(model(x["hint"]))}
    if "hint" in x:
        residuals = model(x["z"], 321, x["context"], x["hint"])
        return {f"residual {i:02}": r for i, r in enumerate(residuals)}
    context = (x.pop("context"),) if "context" in x else ()
    return {"epsilon": model(x.pop("z"), x.pop("t"), *context, **x)}


def wanted_of(name: str) -> Mapping[str, np.ndarray]:
    """The golden's outputs."""
    return {key: value for key, value in load_golden(f"full_width/{name}")[0].items() if key != "shapes"}


@pytest.mark.parametrize("name", FULL_WIDTH)
def test_golden_is_of_the_case_as_it_is_now(name: str) -> None:
    _, provenance = load_golden(f"full_width/{name}")
    assert provenance["parameters"] == FULL_WIDTH[name].parameters
    assert provenance["inputs"] == {
        key: list(value) if isinstance(value, tuple) else value for key, value in FULL_WIDTH[name].inputs.items()
    }


@pytest.mark.parametrize("name", FULL_WIDTH)
def test_names_and_shapes(name: str) -> None:
    case = FULL_WIDTH[name]
    if case.repository != DIFFUSERS:
        found = published_file(name, case)
        assert not found.unknown
        assert case.family in ("", found.family)
    made = component_of(name, case)
    wanted = expected(made.class_name, made.config)
    assert set(wanted) <= set(made.source.names)
    build(made.class_name, made.config, made.source, FLOAT64)  # checks every shape


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_WIDTH)
def test_published_width_is_the_original(name: str) -> None:
    case, made = FULL_WIDTH[name], component_of(name, FULL_WIDTH[name])
    found = outputs_of(build(made.class_name, made.config, made.source, FLOAT64), case)
    wanted = wanted_of(name)
    if "moments" in wanted and np.isfinite(found["logvar"]).all():
        found["moments"] = np.concatenate([found["mean"], found["logvar"]], axis=1)
    elif "moments" in wanted:
        found["moments"] = found["mean"]
    for key, value in wanted.items():
        ours = kept(found[key])
        assert ours.shape == value.shape
        assert np.abs(ours - value).max() <= 1e-9 * np.abs(value).max(), key
