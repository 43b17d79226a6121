"""A session of profiling the embedded checkpoint: networks, operators, blocks, and a sampler's own arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from drawing import write_numbers, write_table

import tinyldm
from tinyldm import bench, cost, kernels
from tinyldm.diffusion.brownian import POOL, Seeds, brownian_halves
from tinyldm.diffusion.random import TorchGenerator, torch_randn
from tinyldm.diffusion.samplers import make_sampler
from tinyldm.diffusion.samplers.base import denoise

SIDE, STEPS, REPEAT = 64, 25, 7  # of the pictures, in pixels; of the sampler; of which the best counts
LATENT = (1, 4, 16, 16)
GUIDED = "UNet, batch 2 (one guided step)"
INTERVALS = 18  # that a question of the Brownian path adds, about


def best(run: Callable[[], Any]) -> float:
    """Seconds of processor time, the least of several."""
    run()
    taken = []
    for _ in range(REPEAT):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return min(taken)


def in_turns(one: Callable[[], Any], other: Callable[[], Any]) -> tuple[float, float]:
    """Two things that do the same, A B A B: the least of each."""
    pairs = [(best(one), best(other)) for _ in range(2)]
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def in_processor_time(run: Callable[[], bench.Report]) -> bench.Report:
    """A bench by the clock of this process: of one thread, whatever else the machine does."""
    bench.time = SimpleNamespace(perf_counter=time.process_time)
    try:
        return run()
    finally:
        bench.time = time


def networks(folder: Path, report: bench.Report) -> None:
    """What `tinyldm bench` says: every network, and the operators of a guided step."""
    rows = [(t.name, f"{1e3 * t.seconds:.1f} ms", f"{t.gflops / report.matmul_gflops:.0%}") for t in report.models]
    write_table(folder / "profiling-networks.md", ("network", "time", "of the best matrix product"), rows)
    whole = sum(t.seconds for t in report.operators[GUIDED])
    rows = [
        (f"`{t.name}`", f"{t.seconds / whole:.0%}", t.calls, f"{t.gflops / report.matmul_gflops:.0%}")
        for t in report.operators[GUIDED][:7]
    ]
    head = ("operator of a guided step", "of its time", "calls", "of the best matrix product")
    write_table(folder / "profiling-operators.md", head, rows)


def blocks(folder: Path, model: tinyldm.LatentDiffusion) -> None:
    """What `tinyldm cost` says of the same step, block by block."""
    found = cost.by_block(cost.unet_costs(model.unet, 16, 16, cost.context_tokens(model)))
    whole = cost.total(found)
    rows = [(f"`{b.path}`", f"{b.multiply_adds / whole:.0%}", f"{b.parameters:,}") for b in found if b.multiply_adds]
    write_table(folder / "profiling-blocks.md", ("block", "of the multiply-adds", "parameters"), rows)


def own_arithmetic(name: str) -> float:
    """Seconds that a sampler takes for a call of the model, without the model."""
    noise = torch_randn(LATENT, 0)
    config = tinyldm.load().scheduler_config

    def run() -> None:
        sampler: Any = make_sampler(name, config, STEPS)
        if hasattr(sampler, "path"):
            sampler.path.halving = kernels.brownian_halves  # as a model has it
        denoise(lambda z, t: noise, sampler, noise, TorchGenerator(1))

    return best(run) / make_sampler(name, config, STEPS).calls()


def path_of_noise(folder: Path) -> None:
    """The parts of a question of the Brownian path: as they are defined, and as they are computed."""
    places = [(1 << 20) + 1000 * k for k in range(INTERVALS)]
    known, first = Seeds(1), torch_randn(LATENT, 0).ravel()
    seeds, scales, sides = known(places), np.ones((INTERVALS, 3), np.float32), [0] * INTERVALS

    def by_numpy() -> None:
        for place in places:
            key = (place - (1 << 20), 20)
            np.random.SeedSequence(1, spawn_key=key, pool_size=POOL).generate_state(4)

    seeding = in_turns(by_numpy, lambda: known(places))
    halving = in_turns(
        lambda: brownian_halves(first, seeds, scales, sides),
        lambda: kernels.brownian_halves(first, seeds, scales, sides),
    )
    pairs = {
        "their seeds: by NumPy's class, or the one word that is used": seeding,
        "their halves, with the normals: by NumPy, or compiled": halving,
    }
    rows = [(what, f"{1e6 * a:.0f} µs", f"{1e6 * b:.0f} µs") for what, (a, b) in pairs.items()]
    write_table(folder / "profiling-path.md", (f"of {INTERVALS} intervals", "plain", "as it is"), rows)


def make(folder: Path) -> None:
    """Write the tables and numbers of the page on profiling."""
    model = tinyldm.load(threads=1)
    report = in_processor_time(lambda: bench.bench(model, SIDE, SIDE, REPEAT))
    networks(folder, report)
    blocks(folder, model)
    path_of_noise(folder)
    step = next(t.seconds for t in report.models if t.name == GUIDED)
    own = {name: own_arithmetic(name) for name in ("ddim", "dpm++_2m", "dpm++_sde")}
    rows = [(f"`{name}`", f"{1e6 * seconds:.0f} µs", f"{seconds / step:.2%}") for name, seconds in own.items()]
    write_table(folder / "profiling-samplers.md", ("sampler", "own time of a call", "of a guided step"), rows)
    numbers = {"machine": bench.machine(), "matmul": f"{report.matmul_gflops:.0f}", "step": f"{1e3 * step:.0f}"}
    write_numbers(folder / "profiling.json", numbers)
