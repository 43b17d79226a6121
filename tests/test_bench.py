"""The bench's counting and its report; the times themselves are the machine's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import write_ldm, write_refiner, write_xl

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
    assert report.peak_bytes > 1e7
    assert json.loads(json.dumps(report.as_json()))["matmul_gflops"] > 0


def test_random_weights_make_sane_activations() -> None:
    source = RandomWeights({"a.weight": (64, 32, 3, 3), "n.weight": (8,), "n.bias": (8,)})
    assert abs(source.read("a.weight").std() * np.sqrt(32 * 9) - 1) < 0.05
    assert (source.read("n.weight") == 1).all()
    assert (source.read("n.bias") == 0).all()


def test_unknown_architecture() -> None:
    with pytest.raises(InputError, match="sd15"):
        random_model("sd99", Runtime())


@pytest.mark.parametrize("write", [write_xl, write_refiner, write_ldm])
def test_other_families(write, tmp_path: Path) -> None:
    """Two text encoders, none, a UNet without a context, a VQ model: each network is timed, and counted in full."""
    model = tinyldm.load(write(tmp_path / "model"), backend="numba")
    report = bench.bench(model, 16, 16, repeat=1)
    names = [t.name for t in report.models]
    assert "UNet, batch 1" in names
    assert ("text encoder 2, 2 prompts" in names) == (write is not write_ldm)
    for timing in report.models[-4:]:  # the search of a codebook is in no operator, a context was prepared before
        counted = sum(t.multiply_adds for t in report.operators[timing.name])
        assert 0.5 * timing.multiply_adds <= counted <= timing.multiply_adds


def test_the_report_is_told_as_it_grows_and_reads_well(model) -> None:
    told: list[str] = []
    report = bench.bench(model, 16, 16, repeat=1, progress=told.append)
    assert told == [t.name for t in report.models]
    lines = report.as_text().splitlines()
    assert lines[0].endswith("16×16")
    assert "processor" in lines[1]
    assert all(len(line) <= 100 and line == line.rstrip() for line in lines[2:])
    shares = report.as_json()["operators"]["VAE decode"]
    assert sum(row["share_of_time"] for row in shares) == pytest.approx(1)


def test_times_have_the_unit_that_fits() -> None:
    assert [bench.human_seconds(s).strip() for s in (12.345, 0.0123, 0.000012)] == ["12.35 s", "12.30 ms", "12.00 µs"]


def test_the_peak_begins_anew() -> None:
    held = np.ones(1 << 25)
    before = bench.peak_bytes()
    assert before > held.nbytes
    del held
    bench.forget_peak()
    assert bench.peak_bytes() <= before


def test_command(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--model", str(checkpoint), "--backend", "reference", "--repeat", "1", "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["models"]
