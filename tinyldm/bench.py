"""How fast this machine computes: each model and each operator, against its best matrix product.

    tinyldm bench                             the embedded checkpoint
    tinyldm bench --architecture sd15         Stable Diffusion 1.5's architecture with random weights, at 512×512

Times are medians of several runs after one that is not counted. A GFLOP is 10⁹ multiplications and additions of
convolutions, linear layers and attention products (two for each multiply-add of `tinyldm.cost`), counted as if every
product were computed: a convolution that takes fewer (Winograd's) can pass the best matrix product.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np

from tinyldm import cost
from tinyldm.memory import human_bytes, machine_bytes
from tinyldm.models.build import rebuilt
from tinyldm.models.network import Network
from tinyldm.models.unet2d import UNet2D

MATMUL_SIZE = 1536  # of the square matrices whose product is the machine's best
TEXT_ENCODERS = {"text_encoder": "text encoder", "text_encoder_2": "text encoder 2"}


@dataclass
class Timing:
    """What something took: seconds (the median), multiply-adds, how often it was called, and the peak memory."""

    name: str
    seconds: float
    multiply_adds: int
    calls: int = 1
    peak_bytes: int = 0

    @property
    def gflops(self) -> float:
        """10⁹ multiplications and additions a second."""
        return 2e-9 * self.multiply_adds / self.seconds if self.seconds else 0.0


@dataclass
class Report:
    """What a bench found: the machine and its best matrix product, each model, and each model's operators."""

    title: str
    machine: str
    backend: str
    matmul_gflops: float
    models: list[Timing] = field(default_factory=list)
    operators: dict[str, list[Timing]] = field(default_factory=dict)

    @property
    def peak_bytes(self) -> int:
        """The most memory that any model took, weights and interpreter included."""
        return max((t.peak_bytes for t in self.models), default=0)

    def as_json(self) -> dict[str, Any]:
        """The report in plain containers."""

        def row(t: Timing) -> dict[str, Any]:
            numbers = {"name": t.name, "seconds": t.seconds, "calls": t.calls, "multiply_adds": t.multiply_adds}
            return {**numbers, "gflops": t.gflops, "share_of_matmul": t.gflops / self.matmul_gflops}

        models = [{**row(t), "peak_bytes": t.peak_bytes} for t in self.models]
        operators = {
            model: [{**row(t), "share_of_time": t.seconds / _total(rows)} for t in rows]
            for model, rows in self.operators.items()
        }
        return {**vars(self), "models": models, "operators": operators, "peak_bytes": self.peak_bytes}

    def as_text(self) -> str:
        """The report as tables."""
        lines = [
            self.title,
            self.machine,
            self.backend,
            f"best matrix product: {self.matmul_gflops:.0f} GFLOP/s (NumPy, float32)",
            "",
            f"{'model':34} {'time':>10} {'GFLOP/s':>9} {'of matmul':>10} {'peak memory':>12}",
        ]
        for t in self.models:
            lines.append(f"{t.name:34} {human_seconds(t.seconds)} {self._rate(t)} {human_bytes(t.peak_bytes):>12}")
        for model, rows in self.operators.items():
            lines += ["", f"{model + ':':34} {'time':>10} {'GFLOP/s':>9} {'of matmul':>10} {'of the time':>12} calls"]
            for t in rows:
                share = f"{t.seconds / _total(rows):12.1%}"
                lines.append(f"  {t.name:32} {human_seconds(t.seconds)} {self._rate(t)} {share} {t.calls:5}")
        return "\n".join(line.rstrip() for line in lines)

    def _rate(self, t: Timing) -> str:
        if not t.multiply_adds:
            return " " * 20
        return f"{t.gflops:9.1f} {t.gflops / self.matmul_gflops:10.0%}"


def _total(rows: list[Timing]) -> float:
    return sum(t.seconds for t in rows) or math.inf


def human_seconds(seconds: float) -> str:
    """A time in the unit that fits, ten characters wide: ` 890.1 ms`."""
    for unit, size in (("s ", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:7.2f} {unit}"
    return f"{seconds / 1e-6:7.2f} µs"


class TimedOperators:
    """A backend's operators, each call timed and its multiply-adds counted, by name in `timings`."""

    def __init__(self, operators: Any) -> None:
        self._operators = operators
        self.timings: dict[str, Timing] = {}

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._operators, name)
        if not callable(function):
            return function

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            y = function(*args, **kwargs)
            t = self.timings.setdefault(name, Timing(name, 0.0, 0, 0))
            t.seconds += time.perf_counter() - start
            t.calls += 1
            t.multiply_adds += multiply_adds(name, args, y)
            return y

        return timed


def multiply_adds(name: str, args: tuple[Any, ...], y: Any) -> int:
    """The multiply-adds of a call of the operator `name`."""
    shapes: list[tuple[int, ...]] = [getattr(array, "shape", ()) for array in (*args, y)]
    if name == "attention":
        return 2 * math.prod(shapes[0]) * shapes[1][1]
    if name.startswith("linear"):
        weights = [w.shape for w in args[1]] if isinstance(args[1], list) else [shapes[1]]
        return math.prod(shapes[0][:-1]) * sum(map(math.prod, weights))
    if "conv2d" in name and not name.startswith(("prepare", "choose")):
        filters = shapes[5 if name == "norm_silu_conv2d" else 1]
        return math.prod(shapes[-1]) * math.prod(filters[1:])
    return 0


def bench(
    model: Any,
    height: int,
    width: int,
    repeat: int = 5,
    progress: Callable[[str], None] = lambda name: None,
) -> Report:
    """Time the networks of `model` for pictures of `height` × `width` pixels (`tinyldm bench`).

    `progress` is told the name of each network before it runs.
    """
    title = f"{model.path}, {width}×{height}"
    report = Report(title, machine(), describe_runtime(model), best_matmul())
    for name, work in workloads(model, height, width).items():
        progress(name)
        forget_peak()
        report.models.append(Timing(name, median_seconds(work, repeat), work.multiply_adds, peak_bytes=peak_bytes()))
        report.operators[name] = by_operator(work, repeat)
    return report


@dataclass(frozen=True)
class Work:
    """What is timed: what a network is asked to do, and how many multiply-adds it takes."""

    network: Network[Any]
    task: Callable[[Any], Any]
    multiply_adds: int

    def __call__(self) -> Any:
        """Do it."""
        return self.task(self.network)


def workloads(model: Any, height: int, width: int) -> dict[str, Work]:
    """What is timed, by name."""
    rng = np.random.default_rng(0)
    works = {}
    for attribute, name in TEXT_ENCODERS.items():
        encoder = getattr(model, attribute)
        if encoder is not None:
            ids = rng.integers(0, encoder.config.vocab_size, (2, encoder.config.max_position_embeddings))
            products = 2 * cost.total(cost.text_encoder_costs(encoder))
            works[f"{name}, 2 prompts"] = Work(encoder, methodcaller("__call__", ids), products)
    factor, config = model.vae.config.factor, model.vae.config
    h, w = height // factor, width // factor
    one = cost.total(cost.unet_costs(model.unet, h, w, cost.context_tokens(model)))
    works["UNet, batch 1"] = Work(model.unet, unet_task(model, rng, 1, h, w), one)
    works["UNet, batch 2 (one guided step)"] = Work(model.unet, unet_task(model, rng, 2, h, w), 2 * one)
    encoding, decoding = (cost.total(c) for c in cost.vae_costs(model.vae, height, width))
    latent = rng.standard_normal((1, model.vae.latent_channels, h, w), np.float32)
    pixels = np.tanh(rng.standard_normal((1, config.in_channels, height, width), np.float32))
    works["VAE decode"] = Work(model.vae, methodcaller("decode", latent), decoding)
    works["VAE encode"] = Work(model.vae, methodcaller("encode", pixels), encoding)
    return works


def unet_task(model: Any, rng: np.random.Generator, batch: int, h: int, w: int) -> Callable[[Any], Any]:
    """A step of the UNet with random latents and conditions; what depends on the prompt alone is made before."""
    config = model.unet.config
    z = rng.standard_normal((batch, config.in_channels, h, w), np.float32)
    if isinstance(model.unet, UNet2D):
        labels = None if config.num_class_embeds is None else np.zeros(batch, np.int64)
        return methodcaller("__call__", z, 500, labels)
    shapes = cost.condition_shapes(config, batch)
    conditions = {name: np.ones(shape, np.int64) for name, shape in shapes.items()}
    context = rng.standard_normal((batch, cost.context_tokens(model), config.context_dim), np.float32)
    prepared: list[Any] = []

    def step(unet: Any) -> Any:
        if not prepared:
            prepared.append(unet.prepare(context))
        return unet(z, 500, prepared[0], **conditions)

    return step


def by_operator(work: Work, repeat: int = 1) -> list[Timing]:
    """The time of a work by operator, each the median of `repeat` runs; the longest first.

    A twin of the network does it, in place of which the network's own weights are let go.
    """
    timed = TimedOperators(work.network.runtime.ops)
    work.network.weights.drop()
    twin = rebuilt(work.network, dataclasses.replace(work.network.runtime, operators=timed))
    work.task(twin)  # prepares the weights
    runs = []
    for _ in range(repeat):
        timed.timings = {}
        work.task(twin)
        runs.append(timed.timings)
    for name, timing in runs[0].items():
        timing.seconds = statistics.median(timings[name].seconds for timings in runs)
    return sorted(runs[0].values(), key=lambda t: -t.seconds)


def median_seconds(run: Callable[[], Any], repeat: int) -> float:
    """The median time of `repeat` runs, after one that is not counted."""
    run()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def best_matmul() -> float:
    """GFLOP/s of NumPy's product of two large square float32 matrices: the best of several."""
    a = np.random.default_rng(0).standard_normal((MATMUL_SIZE, MATMUL_SIZE), np.float32)
    best = math.inf
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2e-9 * MATMUL_SIZE**3 / best


# The machine --------------------------------------------------------------------------------------------------------


def describe_runtime(model: Any) -> str:
    """The backend in use, its precision, vectors and threads."""
    runtime = model.runtime
    if runtime.backend == "reference":
        return f"reference (NumPy {np.__version__}), {runtime.dtype}"
    ops = runtime.ops
    vectors = f"{ops.target().name} vectors of {ops.target().width} numbers"
    threads = f"{ops.threads()} thread{'s' * (ops.threads() > 1)}"
    return f"numba, float32, precision {runtime.precision}, {vectors}, {threads}{_products(ops, runtime.precision)}"


def _products(kernels: Any, precision: str) -> str:
    """What multiplies bfloat16 values, and what that is good for."""
    if precision != "bf16":
        return ""
    gain = "saves memory and no time here" if kernels.unit() == "none" else "half the memory for weights, and faster"
    return f", products of bfloat16 by {kernels.unit_in_words()}: {gain}"


def machine() -> str:
    """The processor by name, how many there are, and the memory: `AMD EPYC (znver4), 2 processors, 24.6 GB`."""
    import llvmlite.binding as llvm

    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = [f"{processor_name()} ({llvm.get_host_cpu_name()})", f"{count} processor{'s' * (count > 1)}"]
    memory = machine_bytes()
    parts += [] if memory is None else [human_bytes(memory)]
    return ", ".join(parts)


def processor_name() -> str:
    """What the system calls the processor."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def forget_peak() -> None:
    """Let the peak of the memory begin anew, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most memory that this process has had resident, since `forget_peak` on Linux; 0 where nobody counts."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
