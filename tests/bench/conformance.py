"""Conformance: other runtimes, and tinyldm's own modes, judged against the float64 oracle at `--tolerance auto`.

    pip install ".[bench]" && python tests/bench/conformance.py -o docs/conformance.md

Every runtime computes the networks; tinyldm's pipeline (tokens, noise, sampler, guidance) drives them all, so that
what differs is the networks' arithmetic alone. PyTorch shows every module (by the PyTorch recorder). A compiled
runtime runs twice: as it is, for the picture and what goes in and out of each network, and with every module's output
among the network's own, which hinders some of its fusions, for the layers. `--sd15` runs Stable Diffusion 1.5 at its
published width with seeded weights instead (16 GB of memory, 8 GB of disk). Each has a part of the page, which is
replaced.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from bench.page import table, write_section  # noqa: E402
from conformance_runtimes import (  # noqa: E402
    Maker,
    converted,
    onnxruntime_maker,
    openvino_maker,
    torch_functions,
    torch_modules,
    with_functions,
)

import tinyldm  # noqa: E402
from tinyldm.golden import Golden, GoldenWriter  # noqa: E402
from tinyldm.golden.compare import compare  # noqa: E402
from tinyldm.golden.comparison import Comparison  # noqa: E402
from tinyldm.golden.record import Recording, write  # noqa: E402
from tinyldm.golden.tolerance import AutoTolerance  # noqa: E402
from tinyldm.golden.torch_recorder import TorchRecorder  # noqa: E402
from tinyldm.golden.tracing import trace  # noqa: E402

PROMPTS = ("red apple", "fox", "owl", "guitar")  # each with its place as the seed
STARTED = time.perf_counter()
Run = Callable[[Any], Mapping[str, np.ndarray]]


@dataclasses.dataclass
class Case:
    """A run of a model: its oracle's file, and what is run."""

    oracle: Path
    run: Run


@dataclasses.dataclass
class Subject:
    """A model to run everything on: its name, its folder, its cases."""

    name: str
    folder: Path
    load: Callable[..., Any]
    cases: list[Case]


@dataclasses.dataclass
class Row:
    """One line of the report."""

    model: str
    runtime: str
    arithmetic: str
    comparisons: list[Comparison]
    picture: np.ndarray  # the 8-bit values' differences from the oracle's
    seconds: float

    def cells(self) -> list[str]:
        """The line's cells, in the order of `HEAD`."""
        results = [r for c in self.comparisons for r in c.results if r.status != "unjudged"]
        layers = [r for r in results if r.key != "picture"]
        worst = max(layers, key=lambda r: r.used)
        first = next((c.first.key for c in self.comparisons if c.first is not None), None)
        failed = sum(r.used > 1 for r in layers)
        levels = f"{self.picture.max()}, {np.mean(self.picture > 1):.2%}"
        count = f"{len(layers) - failed} of {len(layers)}"
        worst_cell = f"`{worst.key}` {worst.used:.2f}"
        verdict = f"fail, first in `{first}`" if failed else "pass"
        error = f"{self.first_epsilon():.1e}"
        return [self.model, self.runtime, self.arithmetic, count, worst_cell, error, levels, verdict]

    def first_epsilon(self) -> float:
        """The relative RMS error of the UNet's output in the first step, over all cases; later inputs differ."""
        found = [[r for r in c.results if r.key.endswith("/unet:epsilon")][:1] for c in self.comparisons]
        errors = [r.metrics.rel_rmse for results in found for r in results if r.metrics is not None]
        return float(np.sqrt(np.mean(np.square(errors))))


HEAD = ["model", "runtime", "arithmetic", "tensors within", "worst: share of its limit"]
HEAD += ["error of the first epsilon", "picture", "verdict"]


# Running and judging -------------------------------------------------------------------------------------------------


def judge(case: Case, arithmetic: str, files: Sequence[Path]) -> tuple[list[Comparison], np.ndarray]:
    """Compare what a runtime recorded with the oracle: the tensors, and the picture in 8-bit levels."""
    with Golden(case.oracle) as oracle:
        tolerance = AutoTolerance(oracle, arithmetic)
        comparisons, picture = [], None
        for path in files:
            with Golden(path) as candidate:
                comparisons.append(compare(oracle, candidate, tolerance, allow_missing=True, same_model=False))
                if picture is None and "picture" in candidate:
                    picture = np.abs(candidate["picture"].astype(int) - oracle["picture"])
    assert picture is not None, "a run ends with a picture"
    return comparisons, picture


def row(subject: Subject, runtime: str, arithmetic: str, record: Callable[[Case, Path], list[Path]]) -> Row:
    """Record every case and judge it; `record` writes files into a folder, the first with the picture."""
    start = time.perf_counter()
    comparisons, pictures = [], []
    for case in subject.cases:
        with tempfile.TemporaryDirectory(dir=case.oracle.parent) as folder:
            found, picture = judge(case, arithmetic, record(case, Path(folder)))
        comparisons += found
        pictures.append(picture)
    return Row(subject.name, runtime, arithmetic, comparisons, np.stack(pictures), time.perf_counter() - start)


def run_own(subject: Subject, precision: str, arithmetic: str = "float32") -> Row:
    """A mode of tinyldm, every module of it."""
    model = subject.load(backend="numba", precision=precision)

    def record(case: Case, folder: Path) -> list[Path]:
        write(folder / "own", case.run, model, {"settings": {}}, Recording())
        return [folder / "own"]

    return row(subject, f"tinyldm {tinyldm.__version__}, {precision}", arithmetic, record)


def run_torch(subject: Subject, dtype: str) -> Row:
    """PyTorch, every module of it."""
    modules = torch_modules(subject.folder, dtype)
    functions = torch_functions(modules, dtype)

    def record(case: Case, folder: Path) -> list[Path]:
        model = with_functions(subject.load(backend="reference"), functions)
        with TorchRecorder(folder / "layers", select="*/*/*", **modules):
            write_run(folder / "run", case.run, model)
        return [folder / "run", folder / "layers"]

    return row(subject, f"PyTorch {version('torch')}", dtype, record)


def run_converted(subject: Subject, runtime: str, arithmetic: str, make: Callable[[], Maker]) -> Row:
    """A compiled runtime: as it is, and with its layers shown."""
    made: dict[bool, Any] = {}

    def record(case: Case, folder: Path) -> list[Path]:
        for layers, name in ((False, "run"), (True, "layers")):
            if len(subject.cases) == 1:
                made.clear()  # a large network is not kept twice
                gc.collect()
            if layers not in made:
                made[layers] = converted(make(), subject.folder, layers)
            write_run(folder / name, case.run, with_functions(subject.load(backend="reference"), made[layers]), layers)
        return [folder / "run", folder / "layers"]

    return row(subject, runtime, arithmetic, record)


def write_run(path: Path, run: Run, model: Any, layers_only: bool = False) -> None:
    """Run, and write what passes between the networks and what their runtime shows; or the latter alone."""
    with GoldenWriter(path) as writer:
        select = "*/*/*" if layers_only else "*"
        with trace(select, sink=lambda key, array, inputs: writer.add(key, array)):
            more = run(model)
        for key, array in {} if layers_only else more.items():
            writer.add(key, array)


def runtimes(names: Sequence[str]) -> Iterator[Callable[[Subject], Row]]:
    """What was asked for, in the order of the table."""
    if "tinyldm" in names:
        yield lambda s: run_own(s, "strict")
        yield lambda s: run_own(s, "fast")
        yield lambda s: run_own(s, "bf16", "bfloat16")
    if "torch" in names:
        yield lambda s: run_torch(s, "float32")
        yield lambda s: run_torch(s, "bfloat16")
    if "openvino" in names:
        label = f"OpenVINO {version('openvino').split('-')[0]}"
        yield lambda s: run_converted(s, label, "float32", lambda: openvino_maker("f32"))
        yield lambda s: run_converted(s, label, "bfloat16", lambda: openvino_maker("bf16"))
    if "onnxruntime" in names:
        label = f"ONNX Runtime {version('onnxruntime')}"
        yield lambda s: run_converted(s, label, "float32", onnxruntime_maker)


# What is run ---------------------------------------------------------------------------------------------------------


def record_oracles(subject: Subject, arithmetics: Sequence[str]) -> None:
    """The float64 oracle of every case, with the honest errors."""
    model = subject.load(backend="reference", dtype="float64")
    for case in subject.cases:
        write(case.oracle, case.run, model, {"settings": {}}, Recording(rounding=arithmetics, tell=tell))


def text_to_image(prompt: str, seed: int, steps: int, side: int | None, model: Any) -> dict[str, np.ndarray]:
    """A run from a prompt to the picture."""
    (image,) = model.text_to_image(prompt, steps=steps, seed=seed, width=side, height=side)
    return {"picture": np.moveaxis(np.asarray(image), -1, 0)[None]}


def checkpoint_subject(model: str | None, steps: int, folder: Path) -> Subject:
    """A checkpoint, from each of the prompts to the picture."""
    path = tinyldm.load(model, backend="reference").path

    def load(**options: Any) -> Any:
        return tinyldm.load(path, **options)

    cases = [Case(folder / f"oracle-{i}", partial(text_to_image, p, i, steps, None)) for i, p in enumerate(PROMPTS)]
    return Subject(f"{path.name}, {len(cases)} prompts, {steps} steps", path, load, cases)


def sd15_subject(folder: Path) -> Subject:
    """Stable Diffusion 1.5 at its published width with seeded weights, two steps to a picture of 64×64."""
    path = write_sd15(folder / "sd15")

    def load(**options: Any) -> Any:
        return tinyldm.load(path, low_memory=options.get("dtype") == "float64", **options)

    return Subject(
        "SD 1.5, seeded, 2 steps", path, load, [Case(folder / "oracle", partial(text_to_image, "a", 0, 2, 64))]
    )


def write_sd15(folder: Path) -> Path:
    """Write the published configurations with seeded weights, in the published layout, a weight at a time."""
    from tiny_checkpoints import INDEX, SCHEDULER, write_tokenizer

    from tinyldm.architectures import ARCHITECTURES
    from tinyldm.checkpoints.safetensors import SafetensorsWriter
    from tinyldm.golden.seeded import seeded_weight
    from tinyldm.models import text_encoder, unet_config, vae
    from tinyldm.models.network import read_config

    kinds = {
        "text_encoder": (text_encoder, text_encoder.TextEncoderConfig, "CLIPTextModel"),
        "unet": (unet_config, unet_config.UNetConfig, "UNet2DConditionModel"),
        "vae": (vae, vae.AutoencoderConfig, "AutoencoderKL"),
    }
    for name, (module, kind, original) in kinds.items():
        config = ARCHITECTURES["sd15"][name][1]
        shapes = dict(module.parameters(read_config(kind, config, component=name)))
        (folder / name).mkdir(parents=True)
        extra = {"model_type": "clip_text_model"} if name == "text_encoder" else {"_class_name": original}
        (folder / name / "config.json").write_text(json.dumps({**config, **extra}))
        file = "model.safetensors" if name == "text_encoder" else "diffusion_pytorch_model.safetensors"
        with SafetensorsWriter(folder / name / file, {n: ("F32", s) for n, s in shapes.items()}) as writer:
            for weight, shape in shapes.items():
                writer.write(weight, seeded_weight(weight, shape))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    write_tokenizer(folder / "tokenizer")
    settings = folder / "tokenizer" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": 77}))
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    return folder


# The page ------------------------------------------------------------------------------------------------------------


def section(rows: Sequence[Row], skipped: Sequence[str], command: str) -> str:
    """The part of the page about one model, in Markdown."""
    machine = f"{cpu()} ({platform.system()}, Python {platform.python_version()}, NumPy {np.__version__})"
    notes = [f"\nNot run: {reason}." for reason in skipped]
    made = f"Made by `{command}` on {machine}, {time.strftime('%Y-%m-%d')}."
    return "\n".join([made, "", table(HEAD, [row.cells() for row in rows]), *notes])


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def tell(text: str) -> None:
    """What is being done, on the standard error, with the seconds since the start and the largest memory so far."""
    print(f"{time.perf_counter() - STARTED:6.0f} s {peak_memory():5.1f} GB  {text}", file=sys.stderr, flush=True)


def peak_memory() -> float:
    """The largest resident memory of this process so far, in GB; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0.0
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", help="checkpoint folder (default: the embedded one)")
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--runtimes", nargs="+", default=["tinyldm", "torch", "openvino", "onnxruntime"])
    p.add_argument("--sd15", action="store_true", help="Stable Diffusion 1.5 at full width, seeded weights, instead")
    p.add_argument("-o", "--output", type=Path, help="Markdown page whose part is replaced (default: print)")
    args = p.parse_args()
    rows, skipped = [], []
    with tempfile.TemporaryDirectory(prefix="conformance-") as top:
        subject = sd15_subject(Path(top)) if args.sd15 else checkpoint_subject(args.model, args.steps, Path(top))
        tell(f"{subject.name}: recording the oracle")
        record_oracles(subject, ["float32", "bfloat16"])
        for run in runtimes(args.runtimes):
            try:
                found = run(subject)
            except (RuntimeError, ImportError) as error:
                skipped.append(f"{subject.name}: {str(error).splitlines()[0]}")
                tell(f"not run: {skipped[-1]}")
                continue
            rows.append(found)
            gc.collect()
            tell(" | ".join([*found.cells(), f"{found.seconds:.0f} s"]))
    text = section(rows, skipped, " ".join(["python", "tests/bench/conformance.py", *sys.argv[1:]]))
    print(text)
    if args.output:
        write_section(args.output, "sd15" if args.sd15 else subject.folder.name, text)


if __name__ == "__main__":
    main()
