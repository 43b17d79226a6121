"""The rounding error of whole models at Stable Diffusion 1.5's published width, beside PyTorch's own in float32."""

from __future__ import annotations

import numpy as np
import pytest
from golden.model_cases import sampled
from golden.model_checks import SeededSource, outputs_of, shapes_of
from golden.provenance import load_golden

from tinyldm.golden.seeded import seeded_input
from tinyldm.nn import Runtime

FACTOR = {"fast": 3.0, "strict": 3.0}  # how many times PyTorch's error is allowed


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.mark.slow
@pytest.mark.parametrize("precision", FACTOR)
@pytest.mark.parametrize("name", ["sd15_unet", "sd15_vae"])
def test_error_is_within_three_times_that_of_pytorch(name: str, precision: str) -> None:
    golden, provenance = load_golden(f"models/{name}")
    model, config = provenance["model"], provenance["config"]
    inputs = {key: golden[key] for key in provenance["inputs"]}
    inputs |= {key: seeded_input(key, tuple(shape)) for key, shape in provenance["seeded_inputs"].items()}
    source = SeededSource(shapes_of(model, config), provenance["seed"], provenance["gains"])
    found = outputs_of(model, config, inputs, source, Runtime("numba", precision=precision, low_memory=True))
    outputs = [key.removeprefix("float32/") for key in golden if key.startswith("float32/")]
    assert outputs
    for key in outputs:
        oracle = golden[f"float64/{key}"]
        ours, theirs = rms(sampled(found[key]) - oracle), rms(golden[f"float32/{key}"] - oracle)
        print(f"{name} {key} {precision}: RMS error {ours:.2e}, PyTorch's {theirs:.2e}, ratio {ours / theirs:.2f}")
        assert ours <= FACTOR[precision] * theirs
