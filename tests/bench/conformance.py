"""Conformance: other runtimes, and tinyldm's own modes, judged against the float64 oracle at `--tolerance auto`.

    pip install ".[bench]" && python tests/bench/conformance.py -o docs/conformance.md

Every runtime computes the networks; tinyldm's pipeline (tokens, noise, sampler, guidance) drives them all, so that
what differs is the networks' arithmetic alone. PyTorch shows every module (by the PyTorch recorder), the compiled
runtimes what goes in and out of each network. `--sd15` adds the three networks of Stable Diffusion 1.5 at their
published width, with seeded weights and seeded inputs (12 GB of memory, 4 GB of disk).
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import tinyldm  # noqa: E402
from tinyldm import nn  # noqa: E402
from tinyldm.golden import Golden, GoldenWriter  # noqa: E402
from tinyldm.golden.compare import Comparison, compare  # noqa: E402
from tinyldm.golden.record import Keep, fixture_inputs, run_fixture, write  # noqa: E402
from tinyldm.golden.tolerance import AutoTolerance  # noqa: E402
from tinyldm.golden.torch_recorder import TorchRecorder  # noqa: E402
from tinyldm.golden.tracing import trace  # noqa: E402

PROMPT = "red apple"
Run = Callable[[Any], Mapping[str, np.ndarray]]
Function = Callable[..., np.ndarray]  # arrays in, array out


@dataclasses.dataclass
class Row:
    """One line of the report."""

    model: str
    runtime: str
    arithmetic: str
    comparisons: list[Comparison]
    picture: np.ndarray | None  # the 8-bit values' differences from the oracle's
    seconds: float

    def cells(self) -> list[str]:
        """The line's cells, in the order of `HEAD`."""
        results = [r for c in self.comparisons for r in c.results if r.status != "unjudged"]
        layers = [r for r in results if r.key != "picture"]
        worst = max(layers, key=lambda r: r.used)
        first = next((c.first.key for c in self.comparisons if c.first is not None), None)
        passed = all(c.status == 0 for c in self.comparisons)
        failed = sum(r.used > 1 for r in layers)
        levels = "" if self.picture is None else f"{self.picture.max()}, {np.mean(self.picture > 1):.2%}"
        count = f"{len(layers) - failed} of {len(layers)}"
        worst_cell = f"`{worst.key}` {worst.used:.2f}"
        verdict = "pass" if passed else f"fail, first in `{first}`"
        return [self.model, self.runtime, self.arithmetic, count, worst_cell, levels, verdict]


HEAD = ["model", "runtime", "arithmetic", "tensors within", "worst: share of its limit", "picture", "verdict"]


# Networks of other runtimes behind the interface of tinyldm's ------------------------------------------------------


def adapted(network: Any, functions: Mapping[str, Function]) -> Any:
    """A twin of a tinyldm network whose computing is done by `functions`: `call`, or `encode` and `decode`."""
    kind = type(network)

    class Adapted(kind):
        """The same configuration and checks, another runtime."""

        def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
            return self._unet(*args, **kwargs) if kind.__name__ == "UNet" else self._text(*args)

        def prepare(self, context: np.ndarray) -> np.ndarray:
            return context

        def _unet(self, z: np.ndarray, t: Any, context: np.ndarray) -> np.ndarray:
            t = np.broadcast_to(np.asarray(t), (len(z),))
            nn.begin("unet", z=z, t=t, context=context)
            epsilon = functions["unet"](z, t, context)
            nn.note(epsilon=epsilon)
            return epsilon

        def _text(self, ids: np.ndarray) -> np.ndarray:
            nn.begin("text_encoder", ids=ids)
            context = functions["text_encoder"](ids)
            nn.note(context=context)
            return context

        def decode(self, z: np.ndarray) -> np.ndarray:
            nn.begin("vae.decode", z=z)
            pixels = functions["decode"](z)
            nn.note(pixels=pixels)
            return pixels

    twin = object.__new__(Adapted)
    twin.__dict__.update(network.__dict__)
    return twin


def with_functions(model: Any, functions: Mapping[str, Function]) -> Any:
    """The model with every network computed by another runtime."""
    return dataclasses.replace(model, **{name: adapted(part, functions) for name, part in model.networks.items()})


def torch_modules(folder: Path, dtype: str) -> dict[str, Any]:
    """The originals' modules of a checkpoint folder."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    kinds = {"text_encoder": CLIPTextModel, "unet": UNet2DConditionModel, "vae": AutoencoderKL}
    kind = getattr(torch, dtype)
    return {name: cls.from_pretrained(folder / name, dtype=kind).to(kind).eval() for name, cls in kinds.items()}


def wrapped(modules: Mapping[str, Any]) -> dict[str, Any]:
    """The originals as modules of arrays only, for calling and for converting."""
    import torch

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = modules["text_encoder"]

        def forward(self, ids):
            return self.net(ids)[0]

    class Unet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = modules["unet"]

        def forward(self, z, t, context):
            return self.net(z, t, context, return_dict=False)[0]

    class Decode(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = modules["vae"]

        def forward(self, z):
            return self.net.decode(z, return_dict=False)[0]

    return {"text_encoder": Text().eval(), "unet": Unet().eval(), "decode": Decode().eval()}


def torch_functions(modules: Mapping[str, Any], dtype: str) -> dict[str, Function]:
    """PyTorch itself."""
    import torch

    kind = getattr(torch, dtype)

    def function(module: Any) -> Function:
        def run(*arrays: np.ndarray) -> np.ndarray:
            given = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
            given = [x.to(kind) if x.is_floating_point() else x for x in given]
            with torch.inference_mode():
                return module(*given).float().numpy()

        return run

    return {name: function(module) for name, module in wrapped(modules).items()}


def converted(make: Callable[[Any, list[np.ndarray]], Function], folder: Path) -> dict[str, Function]:
    """Runtimes that convert a module for fixed shapes: done when a network is first called with them."""
    modules = wrapped(torch_modules(folder, "float32"))

    def function(module: Any) -> Function:
        known: dict[Any, Function] = {}

        def run(*arrays: np.ndarray) -> np.ndarray:
            shapes = tuple(a.shape for a in arrays)
            inputs = [np.ascontiguousarray(a, a.dtype if a.dtype.kind == "i" else np.float32) for a in arrays]
            if shapes not in known:
                known[shapes] = make(module, inputs)
            return known[shapes](*inputs)

        return run

    return {name: function(module) for name, module in modules.items()}


def openvino_maker(hint: str) -> Callable[[Any, list[np.ndarray]], Function]:
    """OpenVINO with a precision hint; a processor that can't compute in it is refused."""
    import openvino
    import torch

    core = openvino.Core()

    def make(module: Any, inputs: list[np.ndarray]) -> Function:
        with torch.no_grad():
            found = openvino.convert_model(module, example_input=tuple(map(torch.from_numpy, inputs)))
        compiled = core.compile_model(found, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if used != hint:
            raise RuntimeError(f"this processor computes {used} where {hint} was asked for")
        return lambda *arrays: np.array(compiled(list(arrays))[0], np.float32)

    return make


def onnxruntime_maker() -> Callable[[Any, list[np.ndarray]], Function]:
    """ONNX Runtime on the processor."""
    import onnxruntime
    import torch

    folder = tempfile.TemporaryDirectory(prefix="conformance-onnx-")

    def make(module: Any, inputs: list[np.ndarray]) -> Function:
        file = Path(folder.name) / f"{len(list(Path(folder.name).iterdir()))}.onnx"
        torch.onnx.export(module, tuple(map(torch.from_numpy, inputs)), str(file), dynamo=False)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]
        return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]

    return make


# Running and judging -------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Subject:
    """A model to run everything on: its name, its folder, its oracle's file, and the run."""

    name: str
    folder: Path
    oracle: Path
    run: Run
    load: Callable[..., Any]


def judge(subject: Subject, runtime: str, arithmetic: str, files: Sequence[Path], seconds: float) -> Row:
    """Compare what a runtime recorded with the oracle."""
    comparisons, picture = [], None
    with Golden(subject.oracle) as oracle:
        tolerance = AutoTolerance(oracle, arithmetic)
        for path in files:
            with Golden(path) as candidate:
                comparisons.append(compare(oracle, candidate, tolerance, allow_missing=True, same_model=False))
                if "picture" in candidate:
                    picture = np.abs(candidate["picture"].astype(int) - oracle["picture"])
    return Row(subject.name, runtime, arithmetic, comparisons, picture, seconds)


def run_own(subject: Subject, precision: str, folder: Path) -> Row:
    """A mode of tinyldm, every module of it."""
    start = time.perf_counter()
    model = subject.load(backend="numba", precision=precision)
    path = folder / "own"
    write(path, subject.run, model, {}, {"settings": {}}, Keep())
    return judge(subject, f"tinyldm {tinyldm.__version__}, {precision}", "float32", [path], time.perf_counter() - start)


def run_torch(subject: Subject, dtype: str, folder: Path) -> Row:
    """PyTorch, every module of it."""
    start = time.perf_counter()
    modules = torch_modules(subject.folder, dtype)
    model = with_functions(subject.load(backend="reference"), torch_functions(modules, dtype))
    layers, boundaries = folder / "layers", folder / "boundaries"
    with TorchRecorder(layers, select="*/*/*", **modules):
        boundary_file(boundaries, subject.run, model)
    seconds = time.perf_counter() - start
    return judge(subject, f"PyTorch {version('torch')}", dtype, [layers, boundaries], seconds)


def run_converted(subject: Subject, runtime: str, arithmetic: str, maker: Callable[[], Any], folder: Path) -> Row:
    """A compiled runtime, what goes in and out of its networks."""
    start = time.perf_counter()
    functions = converted(maker(), subject.folder)
    path = folder / "boundaries"
    boundary_file(path, subject.run, with_functions(subject.load(backend="reference"), functions))
    return judge(subject, runtime, arithmetic, [path], time.perf_counter() - start)


def boundary_file(path: Path, run: Run, model: Any) -> None:
    """Run, and write what passes between the networks."""
    with GoldenWriter(path) as writer:
        with trace(sink=lambda key, array, inputs: writer.add(key, array)):
            more = run(model)
        for key, array in more.items():
            writer.add(key, array)


def runtimes(names: Sequence[str]) -> Iterator[Callable[[Subject, Path], Row]]:
    """What was asked for, in the order of the table."""
    if "tinyldm" in names:
        yield lambda s, f: run_own(s, "strict", f)
        yield lambda s, f: run_own(s, "fast", f)
    if "torch" in names:
        yield lambda s, f: run_torch(s, "float32", f)
        yield lambda s, f: run_torch(s, "bfloat16", f)
    if "openvino" in names:
        label = f"OpenVINO {version('openvino').split('-')[0]}"
        yield lambda s, f: run_converted(s, label, "float32", lambda: openvino_maker("f32"), f)
        yield lambda s, f: run_converted(s, label, "bfloat16", lambda: openvino_maker("bf16"), f)
    if "onnxruntime" in names:
        label = f"ONNX Runtime {version('onnxruntime')}"
        yield lambda s, f: run_converted(s, label, "float32", onnxruntime_maker, f)


# What is run ---------------------------------------------------------------------------------------------------------


def record_oracle(subject: Subject, arithmetics: Sequence[str]) -> None:
    """The float64 oracle, with the honest errors."""
    from tinyldm.golden.rounding import rounded_model

    model = subject.load(backend="reference", dtype="float64")
    twins = {a: rounded_model(model, a) for a in arithmetics}
    write(subject.oracle, subject.run, model, twins, {"settings": {}}, Keep())


def checkpoint_subject(model: str | None, steps: int, folder: Path) -> Subject:
    """A checkpoint, from a prompt to the picture."""
    path = tinyldm.load(model, backend="reference").path

    def run(m: Any) -> dict[str, np.ndarray]:
        (image,) = m.text_to_image(PROMPT, steps=steps, seed=0)
        return {"picture": np.moveaxis(np.asarray(image), -1, 0)[None]}

    def load(**options: Any) -> Any:
        return tinyldm.load(path, **options)

    return Subject(f"{path.name}, {steps} steps", path, folder / "oracle", run, load)


def sd15_subject(folder: Path) -> Subject:
    """Stable Diffusion 1.5's networks at their published width, seeded weights: each on a seeded input of its own."""
    path = write_sd15(folder / "sd15")

    def load(**options: Any) -> Any:
        return tinyldm.load(path, low_memory=options.get("dtype") == "float64", **options)

    inputs = fixture_arrays(load(backend="reference"))

    def run(m: Any) -> dict[str, np.ndarray]:
        for component in ("text_encoder", "unet", "vae"):
            run_fixture(m, component, inputs[component])
        return {}

    return Subject("SD 1.5, seeded", path, folder / "oracle", run, load)


def fixture_arrays(model: Any) -> dict[str, dict[str, np.ndarray]]:
    """The seeded inputs, small; of the autoencoder the decoder's alone."""
    sizes = {"vae": (4, 4)}
    arrays = {name: fixture_inputs(model, name, 0, sizes.get(name, (8, 8))) for name in model.networks}
    arrays["vae"].pop("pixels")
    return arrays


def write_sd15(folder: Path) -> Path:
    """Write the published configurations with seeded weights, in the published layout, a weight at a time."""
    from tinyldm.bench import ARCHITECTURES
    from tinyldm.checkpoints.safetensors import SafetensorsWriter
    from tinyldm.golden.seeded import seeded_weight
    from tinyldm.models import text_encoder, unet_config, vae
    from tinyldm.models.config import read_config

    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_checkpoints import INDEX, SCHEDULER, write_tokenizer

    kinds = {
        "text_encoder": (text_encoder, text_encoder.TextEncoderConfig, "CLIPTextModel"),
        "unet": (unet_config, unet_config.UNetConfig, "UNet2DConditionModel"),
        "vae": (vae, vae.AutoencoderConfig, "AutoencoderKL"),
    }
    for name, (module, kind, original) in kinds.items():
        config = ARCHITECTURES["sd15"][name]
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
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    return folder


# The page ------------------------------------------------------------------------------------------------------------

PAGE = """# Conformance

Other runtimes, and tinyldm's own modes, judged against the float64 oracle. Made by

    {command}

on {machine}, {date}.

{table}

Each row is one runtime computing the networks (text encoder, UNet, decoder); tinyldm's tokens, noise, sampler and
guidance drive them all. *Tensors within*: how many recorded tensors are within their limit, which is 4 × the error
that an honest evaluation in the row's arithmetic makes in that tensor, in the maximum and in the root mean square
([how it is defined](golden-format.md#tolerances)). PyTorch and tinyldm show every module; of the compiled runtimes only
what goes in and out of each network can be seen. *Picture*: the largest difference from the oracle's 8-bit picture, and
the share of values that are more than one level off. A row passes when every tensor is within its limit.
{notes}"""


def page(rows: Sequence[Row], skipped: Sequence[str], command: str) -> str:
    """The report in Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    notes = "".join(f"\nNot run: {reason}.\n" for reason in skipped)
    machine = f"{cpu()} ({platform.system()}, Python {platform.python_version()}, NumPy {np.__version__})"
    return PAGE.format(command=command, machine=machine, date=time.strftime("%Y-%m-%d"), table=table, notes=notes)


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", help="checkpoint folder (default: the embedded one)")
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--runtimes", nargs="+", default=["tinyldm", "torch", "openvino", "onnxruntime"])
    p.add_argument("--sd15", action="store_true", help="Stable Diffusion 1.5 at full width too, seeded weights")
    p.add_argument("--only-sd15", action="store_true", help="and nothing else")
    p.add_argument("-o", "--output", type=Path, help="Markdown file (default: print)")
    args = p.parse_args()
    rows, skipped = [], []
    with tempfile.TemporaryDirectory(prefix="conformance-") as top:
        subjects = [] if args.only_sd15 else [lambda f: checkpoint_subject(args.model, args.steps, f)]
        subjects += [sd15_subject] if args.sd15 or args.only_sd15 else []
        for i, make in enumerate(subjects):
            folder = Path(top) / str(i)
            folder.mkdir()
            subject = make(folder)
            print(f"{subject.name}: recording the oracle", file=sys.stderr)
            record_oracle(subject, ["float32", "bfloat16"])
            for run in runtimes(args.runtimes):
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    try:
                        row = run(subject, Path(own))
                    except (RuntimeError, ImportError) as error:
                        skipped.append(f"{subject.name}: {str(error).splitlines()[0]}")
                        continue
                rows.append(row)
                gc.collect()
                print(" | ".join(row.cells()), f"| {row.seconds:.0f} s", file=sys.stderr)
    text = page(rows, skipped, " ".join(["python", "tests/bench/conformance.py", *sys.argv[1:]]))
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
