"""How fast this machine computes: each model and each operator, against its best matrix product.

    tinyldm bench                             the embedded checkpoint
    tinyldm bench --architecture sd15         Stable Diffusion 1.5's architecture with random weights, at 512×512

Times are medians of several runs after one that is not counted. A GFLOP is 10⁹ multiplications and additions of
convolutions, linear layers and attention products (two for each multiply-add of `tinyldm.cost`).
"""

from __future__ import annotations

import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinyldm import cost
from tinyldm.checkpoints.base import TensorSource
from tinyldm.errors import InputError
from tinyldm.models.config import read_config
from tinyldm.models.text_encoder import INERT as TEXT_INERT
from tinyldm.models.text_encoder import TextEncoder, TextEncoderConfig
from tinyldm.models.text_encoder import parameters as text_parameters
from tinyldm.models.unet import UNet
from tinyldm.models.unet_config import UNetConfig
from tinyldm.models.unet_config import parameters as unet_parameters
from tinyldm.models.vae import AutoencoderConfig, AutoencoderKL
from tinyldm.models.vae import parameters as vae_parameters
from tinyldm.nn import Runtime

# Published architectures, as their config files state them (what is not here is the class's default).
ARCHITECTURES: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {
        "text_encoder": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "projection_dim": 768,
        },
        "unet": {"sample_size": 64, "cross_attention_dim": 768},
        "vae": {
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "sample_size": 512,
        },
    }
}
MATMUL_SIZE = 1536  # of the square matrices whose product is the machine's best


class RandomWeights(TensorSource):
    """Weights of given shapes with random values of a sensible size: enough for time, not for pictures."""

    path = "random weights"
    metadata: Mapping[str, str] = {}

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = dict(shapes)
        self._noise = np.random.default_rng(0).standard_normal(1 << 20, np.float32)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the architecture has."""
        return tuple(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the architecture wants."""
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        """`F32`."""
        return "F32"

    def read(self, name: str, dtype: Any = np.float32) -> np.ndarray:
        """Random values of variance one over the fan-in; ones for the gain of a norm."""
        shape = self._shapes[name]
        if len(shape) == 1:
            return np.full(shape, float(name.endswith("weight")), dtype)
        scale = np.float32(1 / math.sqrt(max(1, math.prod(shape[1:]))))
        return (np.resize(self._noise, shape) * scale).astype(dtype, copy=False)


def random_model(architecture: str, runtime: Runtime) -> SimpleNamespace:
    """The three networks of a published architecture with random weights.

    Raises `InputError` for an architecture that is not known.
    """
    if architecture not in ARCHITECTURES:
        raise InputError(f"architecture {architecture!r} is unknown; known: {', '.join(ARCHITECTURES)}")
    kinds: dict[str, tuple[Any, Any, Any, list[str]]] = {
        "text_encoder": (TextEncoder, TextEncoderConfig, text_parameters, TEXT_INERT),
        "unet": (UNet, UNetConfig, unet_parameters, []),
        "vae": (AutoencoderKL, AutoencoderConfig, vae_parameters, []),
    }
    networks = {}
    for name, config in ARCHITECTURES[architecture].items():
        network, config_class, parameters, inert = kinds[name]
        shapes = dict(parameters(read_config(config_class, config, component=name, inert=inert)))
        networks[name] = network(config, RandomWeights(shapes), runtime)
    return SimpleNamespace(**networks, networks=networks, runtime=runtime)


@dataclass
class Timing:
    """What something took: seconds (the median), multiply-adds, and how often it was called."""

    name: str
    seconds: float
    multiply_adds: int
    calls: int = 1

    @property
    def gflops(self) -> float:
        """10⁹ multiplications and additions a second."""
        return 2e-9 * self.multiply_adds / self.seconds if self.seconds else 0.0


@dataclass
class Report:
    """What a bench found: the machine's best matrix product, each model, each operator, and the peak memory."""

    backend: str
    matmul_gflops: float
    models: list[Timing] = field(default_factory=list)
    operators: dict[str, list[Timing]] = field(default_factory=dict)
    peak_bytes: int = 0

    def as_json(self) -> dict[str, Any]:
        """The report in plain containers."""

        def row(t: Timing) -> dict[str, Any]:
            return {
                "name": t.name,
                "seconds": t.seconds,
                "calls": t.calls,
                "multiply_adds": t.multiply_adds,
                "gflops": t.gflops,
                "share_of_matmul": t.gflops / self.matmul_gflops,
            }

        return {
            "backend": self.backend,
            "matmul_gflops": self.matmul_gflops,
            "models": [row(t) for t in self.models],
            "operators": {model: [row(t) for t in rows] for model, rows in self.operators.items()},
            "peak_bytes": self.peak_bytes,
        }

    def as_text(self) -> str:
        """The report as tables."""
        head = f"{'':34} {'seconds':>9} {'calls':>6} {'GFLOP/s':>9} {'of matmul':>10}"
        lines = [f"{self.backend}; best matrix product {self.matmul_gflops:.0f} GFLOP/s", "", head]
        lines += [self._line(t) for t in self.models]
        for model, rows in self.operators.items():
            whole = sum(t.seconds for t in rows)
            lines += ["", f"{model}, by operator"]
            lines += [f"{self._line(t)}  {t.seconds / whole:5.1%} of the time" for t in rows]
        return "\n".join([*lines, "", f"peak memory {self.peak_bytes / 1e9:.2f} GB"])

    def _line(self, t: Timing) -> str:
        rate = f"{t.gflops:9.1f} {t.gflops / self.matmul_gflops:10.0%}" if t.multiply_adds else " " * 20
        return f"{t.name:34} {t.seconds:9.4f} {t.calls:6} {rate}"


class TimedOps:
    """A backend's operators, each call timed and its multiply-adds counted."""

    def __init__(self, ops: Any) -> None:
        self._ops = ops
        self.timings: dict[str, Timing] = {}

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._ops, name)
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
    if name == "attention":
        return 2 * args[0].shape[0] * args[0].shape[1] * args[1].shape[1] * args[0].shape[2]
    if name.startswith("linear"):
        return args[0].size // args[0].shape[-1] * math.prod(args[1].shape)
    if "conv2d" in name and not name.startswith(("prepare", "choose")):
        weight = args[5] if name == "norm_silu_conv2d" else args[1]
        return y.size * math.prod(weight.shape[1:])
    return 0


def bench(model: Any, height: int, width: int, repeat: int = 5, operators: bool = True) -> Report:
    """Time the networks of `model` for pictures of `height` × `width` pixels (`tinyldm bench`)."""
    from tinyldm.pipelines.describe import describe_runtime

    report = Report(describe_runtime(model), best_matmul())
    for name, (run, products) in workloads(model, height, width).items():
        report.models.append(Timing(name, median_seconds(run, repeat), products))
        if operators:
            report.operators[name] = by_operator(model.runtime, run)
    scale = 1 if sys.platform == "darwin" else 1024
    report.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return report


def workloads(model: Any, height: int, width: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """What is timed: a function of no arguments and its multiply-adds, by name."""
    h, w = height // model.vae.config.factor, width // model.vae.config.factor
    tokens, channels = model.text_encoder.config.max_position_embeddings, model.unet.config.in_channels
    rng = np.random.default_rng(0)
    ids = rng.integers(0, model.text_encoder.config.vocab_size, (2, tokens))
    z = rng.standard_normal((2, channels, h, w), np.float32)
    context = rng.standard_normal((2, tokens, model.unet.config.context_dim), np.float32)
    one, both = model.unet.prepare(context[:1]), model.unet.prepare(context)
    pixels = np.tanh(rng.standard_normal((1, 3, height, width), np.float32))
    unet = cost.total(cost.unet_costs(model.unet, h, w, tokens))
    encoder, decoder = (cost.total(c) for c in cost.vae_costs(model.vae, height, width))
    latent = z[:1, : model.vae.config.latent_channels]
    return {
        "text encoder, 2 prompts": (
            lambda: model.text_encoder(ids),
            2 * cost.total(cost.text_encoder_costs(model.text_encoder)),
        ),
        "UNet, batch 1": (lambda: model.unet(z[:1], 500, one), unet),
        "UNet, batch 2 (one guided step)": (lambda: model.unet(z, 500, both), 2 * unet),
        "VAE decode": (lambda: model.vae.decode(latent), decoder),
        "VAE encode": (lambda: model.vae.encode(pixels), encoder),
    }


def by_operator(runtime: Runtime, run: Callable[[], Any]) -> list[Timing]:
    """The time of one run by operator, the longest first."""
    ops = runtime.ops
    timed = TimedOps(ops)
    runtime.__dict__["ops"] = timed  # the property's cache: models ask the runtime for its operators at every call
    try:
        run()
    finally:
        runtime.__dict__["ops"] = ops
    return sorted(timed.timings.values(), key=lambda t: -t.seconds)


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
