"""The bench's counting and its report; the times themselves are the machine's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_checkpoints import UNET, write_ldm, write_refiner, write_xl

import tinyldm
from tinyldm import bench, cli, cost, memory, scaling
from tinyldm.architectures import RandomWeights, random_model
from tinyldm.checkpoints.published_folder import write_component
from tinyldm.checkpoints.recognised import Component
from tinyldm.checkpoints.safetensors import read_safetensors
from tinyldm.errors import InputError
from tinyldm.models.build import expected, rebuilt
from tinyldm.runtime import Runtime


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> tinyldm.LatentDiffusion:
    return tinyldm.load(checkpoint, backend="reference")


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_operators_count_what_the_cost_model_counts(checkpoint: Path, backend: str) -> None:
    model = tinyldm.load(checkpoint, backend=backend)
    z, context = np.ones((1, 4, 8, 8), np.float32), np.ones((1, 16, 16), np.float32)
    timings = bench.by_operator(bench.Work(model.unet, lambda unet: unet(z, 500, context), 0))
    assert sum(t.multiply_adds for t in timings) == cost.total(cost.unet_costs(model.unet, 8, 8, 16))
    assert not isinstance(model.runtime.ops, bench.TimedOperators)


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


def test_random_weights_can_be_written(tmp_path: Path) -> None:
    source = RandomWeights(expected("UNet2DConditionModel", UNET))
    write_component(tmp_path, Component("UNet2DConditionModel", UNET, source), "F16")
    (file,) = tmp_path.glob("*.safetensors")
    written = read_safetensors(file)
    assert {written.dtype(name) for name in written.names} == {"F16"}
    assert set(written.names) == set(source.names)


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


def test_rates_and_shares_are_worked_out_from_times() -> None:
    """A multiply-add is two operations; the best matrix product is what 100 % means."""
    operators = [bench.Timing("conv2d", 0.3, 12_000_000_000, 7), bench.Timing("silu", 0.1, 0, 2)]
    network = bench.Timing("UNet, batch 1", 0.5, 20_000_000_000, peak_bytes=3_000_000_000)
    report = bench.Report("a model", "a machine", "numba", 160.0, [network], {network.name: operators})
    found = report.as_json()
    assert found["models"][0]["gflops"] == pytest.approx(80)
    assert found["models"][0]["share_of_matmul"] == pytest.approx(0.5)
    assert found["peak_bytes"] == found["models"][0]["peak_bytes"] == 3_000_000_000
    rows = found["operators"][network.name]
    assert [row["gflops"] for row in rows] == pytest.approx([80, 0])
    assert [row["share_of_time"] for row in rows] == pytest.approx([0.75, 0.25])
    assert [row["calls"] for row in rows] == [7, 2]
    text = report.as_text()
    assert re.search(r"UNet, batch 1 +500\.00 ms +80\.0 +50% +3\.0 GB", text)
    assert re.search(r"conv2d +300\.00 ms +80\.0 +50% +75\.0% +7", text)
    assert re.search(r"silu +100\.00 ms +25\.0% +2", text)


def test_the_best_matrix_product_is_in_operations_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(bench, "MATMUL_SIZE", 10)
    assert bench.best_matmul() == pytest.approx(2 * 10**3 * 1e-9)


def test_the_time_of_an_operator_is_the_median_of_the_runs(model, monkeypatch) -> None:
    """One run of three is held up, as by another program; the first, which prepares the weights, is not counted."""
    pauses, clock = iter([0.5, 0.125, 2.0, 0.25]), [0.0]

    def silu(pause: float) -> None:
        clock[0] += pause

    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    network = rebuilt(model.vae, Runtime(operators=SimpleNamespace(silu=silu)))
    (silu,) = bench.by_operator(bench.Work(network, lambda vae: vae.runtime.ops.silu(next(pauses)), 0), 3)
    assert (silu.name, silu.calls) == ("silu", 1)
    assert silu.seconds == 0.25


def test_times_have_the_unit_that_fits() -> None:
    assert [bench.human_seconds(s).strip() for s in (12.345, 0.0123, 0.000012)] == ["12.35 s", "12.30 ms", "12.00 µs"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux lets the peak begin anew")
def test_the_peak_begins_anew() -> None:
    bench.forget_peak()
    low = bench.peak_bytes()
    held = np.ones(1 << 25)
    high = bench.peak_bytes()
    assert high - low > 0.9 * held.nbytes
    size = held.nbytes
    del held
    bench.forget_peak()
    assert bench.peak_bytes() < high - 0.9 * size


def test_command(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--model", str(checkpoint), "--backend", "reference", "--repeat", "1", "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["models"]


# How time grows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_scale_measures_every_size_on_every_number_of_threads(checkpoint: Path, backend: str) -> None:
    model = tinyldm.load(checkpoint, backend=backend, threads=None if backend == "reference" else 3)
    told: list[str] = []
    points = list(scaling.scale(model, (8, 16), 1, told.append))
    threads = [None] if backend == "reference" else [1, 2, 3]
    works = ("UNet, batch 1", "VAE decode")
    assert [(p.work, p.threads, p.side) for p in points] == [(w, n, s) for w in works for n in threads for s in (8, 16)]
    assert len(told) == len(points)
    factor = model.vae.config.factor
    for point in points:
        counted = cost.unet_costs(model.unet, point.side // factor, point.side // factor, cost.context_tokens(model))
        if point.work == "VAE decode":
            counted = cost.vae_costs(model.vae, point.side, point.side)[1]
        assert point.multiply_adds == cost.total(counted)
        assert point.seconds > 0


def test_scale_runs_on_the_threads_that_it_says(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tinyldm.load(checkpoint, backend="numba", threads=2)
    used = []

    def seconds(work: bench.Work, repeat: int) -> float:
        runtime = work.network.weights.at("conv_in" if work.network is not model.vae else "").runtime
        assert runtime is work.network.runtime
        used.append((runtime.threads, runtime.ops.threads()))
        return 1.0

    monkeypatch.setattr(scaling, "median_seconds", lambda work, repeat: seconds(work, repeat))
    monkeypatch.setattr(scaling, "WORKS", ("UNet, batch 1",))
    list(scaling.scale(model, (8,), 1))
    assert used == [(1, 1), (2, 2)]


@pytest.mark.parametrize(("threads", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8])])
def test_threads_are_doubled(threads: int, counts: list[int]) -> None:
    assert scaling.thread_counts(Runtime("numba", threads=threads)) == counts


def test_a_point_says_what_a_reader_compares() -> None:
    """A megapixel in 4 s is 4 µs a pixel; of 2 million multiply-adds each, 2 ps a multiply-add."""
    point = scaling.Point("VAE decode", 2, 1000, 4.0, 2_000_000_000_000)
    assert point.cells() == ["VAE decode", "2", "1000×1000", "4 s", "4.00 µs", "2,000,000", "2.0 ps"]
    assert point.as_json()["picoseconds_a_multiply_add"] == pytest.approx(2)
    assert scaling.Point("UNet, batch 1", None, 8, 123.4, 1).cells()[1:4] == ["", "8×8", "123 s"]


def test_scale_refuses_before_anything_runs(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tinyldm.load(checkpoint, backend="reference")
    with pytest.raises(InputError, match="must be a multiple of 2 pixels, not 9"):
        next(scaling.scale(model, (8, 9)))
    monkeypatch.setattr(memory, "available_bytes", lambda: 1)
    with pytest.raises(InputError, match=r"16×16: about .* of memory"):
        next(scaling.scale(model, (16,)))


def test_scale_command(checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that grows; interrupted, what there is stays."""
    words = ["bench", "--model", str(checkpoint), "--backend", "reference", "--repeat", "1", "--scale"]
    assert cli.main([*words, "8", "16"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert "medians of 1 runs" in lines[0]
    assert [line.count("|") for line in lines[2:]] == [len(scaling.HEAD) + 1] * (2 + 2 * 2)
    assert err.splitlines()[0] == "UNet, batch 1, 8×8"
    assert cli.main([*words, "8", "--json"]) == 0
    assert [p["side"] for p in json.loads(capsys.readouterr().out)] == [8, 8]
    assert cli.main([*words, "--width", "8"]) == 2
    assert "--scale has sizes of its own" in capsys.readouterr().err
    whole = scaling.scale

    def interrupted(*args, **kwargs):
        yield next(whole(*args, **kwargs))
        raise KeyboardInterrupt

    monkeypatch.setattr(scaling, "scale", interrupted)
    assert cli.main([*words, "8", "16"]) == 130
    assert "8×8" in capsys.readouterr().out.splitlines()[-1]
