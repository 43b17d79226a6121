"""One-step pictures side by side with OpenVINO: SDXS-512-0.9's architecture, random weights, a 512×512 picture.

    pip install ".[bench]" && python tests/bench/one_step.py -o docs/speed.md

Writes a checkpoint in float16 to a temporary folder (1.3 GB), once in the published layout and once converted by
OpenVINO from the originals' modules. Then each runtime makes pictures in a process of its own, which take turns.
**Cold** is from the start of a process to the first file, with what was compiled or read before in the caches of the
system, of Python (as an installed package has its bytecode) and of tinyldm; **warm** is a further picture of a process
that stays. tinyldm begins with the prompt, OpenVINO with its tokens, and both end with a PNG file. *Outside* is what a
warm picture of tinyldm takes beside its networks.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.networks import Spent
from bench.page import setting, table, write_section
from bench.whole_command import write_checkpoint

ARCHITECTURE, SIDE, LATENT = "sdxs-512", 512, 64
SIGMA = 14.6146  # of the last of SD's 1,000 steps: where a one-step sampler begins
PROMPT = "a fox in the snow"
RUNTIMES = {
    "tinyldm": ("tinyldm", "fast"),
    "OpenVINO, float32": ("openvino", "f32"),
    "tinyldm, bf16": ("tinyldm", "bf16"),
    "OpenVINO, bfloat16": ("openvino", "bf16"),
}
RATIOS = {"float32": ("tinyldm", "OpenVINO, float32"), "bfloat16": ("tinyldm, bf16", "OpenVINO, bfloat16")}
Maker = Callable[[int, Path], float]  # a seed and a file: makes the picture, and gives the seconds in networks

# What a process does ------------------------------------------------------------------------------------------------


def tinyldm_maker(folder: Path, precision: str, threads: int) -> Maker:
    """tinyldm, from the prompt."""
    import tinyldm

    model = tinyldm.load(folder / "published", precision=precision, threads=threads)
    spent = Spent(type(network) for network in model.networks.values())

    def make(seed: int, file: Path) -> float:
        before = spent.seconds
        model.text_to_image(PROMPT, steps=1, guidance_scale=0.0, seed=seed)[0].save(file)
        return spent.seconds - before

    return make


def openvino_maker(folder: Path, precision: str, threads: int) -> Maker:
    """OpenVINO, from the tokens: three compiled networks, and one step of Euler's method between them."""
    import openvino
    from PIL import Image

    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    core = openvino.Core()
    text, unet, decode = (
        core.compile_model(folder / f"{name}.xml", "CPU", options) for name in ("text_encoder", "unet", "decode")
    )
    ids = np.full((1, 77), 49407, np.int64)

    def make(seed: int, file: Path) -> float:
        z = np.random.default_rng(seed).standard_normal((1, 4, LATENT, LATENT), np.float32) * SIGMA
        start = time.perf_counter()
        context = text([ids])[0]
        epsilon = unet([z / np.float32(np.hypot(SIGMA, 1)), np.array(999), context])[0]
        pixels = decode([z - SIGMA * epsilon])[0]
        seconds = time.perf_counter() - start
        levels = np.clip(np.rint(pixels[0] * 127.5 + 127.5), 0, 255).astype(np.uint8)
        Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0))).save(file)
        return seconds

    return make


MAKERS = {"tinyldm": tinyldm_maker, "openvino": openvino_maker}


def serve(runtime: str, precision: str, folder: Path, threads: int) -> None:
    """A process: for every line it is given one picture, answered with the seconds that its networks took."""
    make = MAKERS[runtime](folder, precision, threads)
    with tempfile.TemporaryDirectory() as out:
        for seed, _ in enumerate(sys.stdin):
            print(make(seed, Path(out) / "a.png"), flush=True)


# What is measured ---------------------------------------------------------------------------------------------------


def convert(folder: Path) -> None:
    """The originals' modules of the architecture, with random weights, as OpenVINO's files in float16."""
    import openvino
    import torch
    from bench.conformance_runtimes import wrapped
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tinyldm.architectures import ARCHITECTURES

    published = {name: config for name, (_, config) in ARCHITECTURES[ARCHITECTURE].items()}
    torch.manual_seed(0)
    modules = {
        "text_encoder": CLIPTextModel(CLIPTextConfig(**published["text_encoder"])).eval(),
        "unet": UNet2DConditionModel(**published["unet"]).eval(),
        "vae": AutoencoderTiny(**published["vae"]).eval(),
    }
    z, context = torch.randn(1, 4, LATENT, LATENT), torch.randn(1, 77, published["unet"]["cross_attention_dim"])
    inputs = {
        "text_encoder": (torch.zeros(1, 77, dtype=torch.int64),),
        "unet": (z, torch.tensor(999), context),
        "decode": (z,),
    }
    for name, module in wrapped(modules).items():
        with torch.no_grad():
            model = openvino.convert_model(module, example_input=inputs[name])
        model.reshape({p: list(x.shape) for p, x in zip(model.inputs, inputs[name], strict=True)})
        openvino.save_model(model, folder / f"{name}.xml")


class Process:
    """A process that makes pictures."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        runtime, precision = RUNTIMES[name]
        command = [sys.executable, __file__, "--serve", runtime, precision, str(folder), "--threads", str(threads)]
        self.started = time.perf_counter()
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def picture(self) -> float:
        """One picture; the seconds in networks."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("a process ended; what it said is above")
        return float(answer)

    def end(self) -> None:
        """Let it end."""
        self.process.communicate()


def measure(names: list[str], folder: Path, rounds: int, threads: int) -> dict[str, dict[str, list[float]]]:
    """Seconds by runtime: cold, warm, and outside the networks, one a round, after a first that is not counted."""
    found: dict[str, dict[str, list[float]]] = {name: {"cold": [], "warm": [], "outside": []} for name in names}
    for i in range(rounds + 1):
        for name in names:
            process = Process(name, folder, threads)
            process.picture()
            cold = time.perf_counter() - process.started
            process.end()
            print(f"cold, round {i} of {rounds}: {name} {cold:.2f} s", file=sys.stderr)
            found[name]["cold"] += [cold] * (i > 0)
    processes = {name: Process(name, folder, threads) for name in names}
    for i in range(rounds + 1):
        for name, process in processes.items():
            start = time.perf_counter()
            inside = process.picture()
            warm = time.perf_counter() - start
            print(f"warm, round {i} of {rounds}: {name} {warm:.2f} s", file=sys.stderr)
            found[name]["warm"] += [warm] * (i > 0)
            found[name]["outside"] += [warm - inside] * (i > 0)
    for process in processes.values():
        process.end()
    return found


def report(found: dict[str, dict[str, list[float]]], rounds: int, threads: int, command: str) -> str:
    """What was measured, as Markdown."""
    times = [[name, *(f"{statistics.median(values):.2f} s" for values in found[name].values())] for name in found]
    ratios = []
    for kind, (ours, theirs) in RATIOS.items():
        if ours in found and theirs in found:
            of = [
                statistics.median(a / b for a, b in zip(found[ours][when], found[theirs][when], strict=True))
                for when in ("cold", "warm")
            ]
            ratios.append([f"{kind}: tinyldm / OpenVINO", *(f"{ratio:.2f}" for ratio in of)])
    parts = [
        setting(threads, ["openvino"] if ratios else [], "float32 and products of bfloat16"),
        f"Medians of {rounds} rounds in which the processes take turns; a ratio below 1 is tinyldm faster.",
        "",
        *([table(["ratio", "cold", "warm"], ratios), ""] if ratios else []),
        table(["a picture", "cold", "warm", "of which outside the networks"], times),
        "",
        f"Made by `{command}`.",
    ]
    return "\n".join(parts)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES), choices=RUNTIMES, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, help="keep the files in this folder, and use them again")
    parser.add_argument("--serve", nargs=3, metavar=("RUNTIME", "PRECISION", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, help="Markdown page whose part is replaced")
    args = parser.parse_args()
    if args.serve:
        runtime, precision, folder = args.serve
        serve(runtime, precision, Path(folder), args.threads)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.checkpoint or Path(temporary)
        if not (folder / "published" / "model_index.json").exists():
            (folder / "published").mkdir(parents=True, exist_ok=True)
            write_checkpoint(folder / "published", ARCHITECTURE)
        if any(name.startswith("OpenVINO") for name in args.runtimes) and not (folder / "decode.xml").exists():
            converting = multiprocessing.get_context("spawn").Process(target=convert, args=(folder,))
            converting.start()  # a process of its own, whose memory is free again
            converting.join()
            if converting.exitcode:
                raise SystemExit("OpenVINO could not convert the networks; what it said is above")
        found = measure(args.runtimes, folder, args.rounds, args.threads)
    page = report(found, args.rounds, args.threads, f"python tests/bench/one_step.py --rounds {args.rounds}")
    print(page)
    if args.output:
        write_section(args.output, "one_step.py", page)


if __name__ == "__main__":
    main()
