"""The bench's counting and its report; the times themselves are the machine's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tinyldm
from tinyldm import bench, cli, cost
from tinyldm.architectures import RandomWeights, random_model
from tinyldm.errors import InputError
from tinyldm.nn import Runtime


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> tinyldm.LatentDiffusion:
    return tinyldm.load(checkpoint, backend="reference")


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_operators_count_what_the_cost_model_counts(checkpoint: Path, backend: str) -> None:
    model = tinyldm.load(checkpoint, backend=backend)
    z, context = np.ones((1, 4, 8, 8), np.float32), np.ones((1, 16, 16), np.float32)
    timings = bench.by_operator(model.runtime, lambda: model.unet(z, 500, context))
    assert sum(t.multiply_adds for t in timings) == cost.total(cost.unet_costs(model.unet, 8, 8, 16))
    assert not isinstance(model.runtime.ops, bench.TimedOps)


def test_report(model) -> None:
    report = bench.bench(model, 16, 16, repeat=1)
    assert [t.name for t in report.models] == list(report.operators)
    assert all(t.seconds > 0 and t.multiply_adds > 0 for t in report.models)
    assert "peak memory" in report.as_text()
    assert json.loads(json.dumps(report.as_json()))["matmul_gflops"] > 0


def test_random_weights_make_sane_activations() -> None:
    source = RandomWeights({"a.weight": (64, 32, 3, 3), "n.weight": (8,), "n.bias": (8,)})
    assert abs(source.read("a.weight").std() * np.sqrt(32 * 9) - 1) < 0.05
    assert (source.read("n.weight") == 1).all()
    assert (source.read("n.bias") == 0).all()


def test_unknown_architecture() -> None:
    with pytest.raises(InputError, match="sd15"):
        random_model("sd99", Runtime())


def test_command(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--model", str(checkpoint), "--backend", "reference", "--repeat", "1", "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["models"]
