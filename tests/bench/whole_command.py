"""The whole command side by side: a 512×512 picture of Stable Diffusion 1.5's architecture, from start to file.

    pip install ".[bench]" && python tests/bench/whole_command.py --rounds 5 --steps 20 -o docs/speed.md

Writes a checkpoint with random weights in the published layout to a temporary folder (2.1 GB in float16), then runs
`tinyldm sample`, the same with `--precision bf16` and with `--low-memory`, and a script with diffusers' pipeline in
turn, each as a process of its own, and prints seconds and peak resident memory (VmHWM, so on Linux only). Cold start
and loading are included; a step of each that is not counted comes first, so that every file has been read once. Ratios
are to diffusers, or where it does not run to `tinyldm sample`. Then `tinyldm sample` on the embedded checkpoint: its
first run, kernels not compiled yet, its second, and further pictures of one process; and what of each is outside the
networks.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.page import setting, table, write_section
from tiny_checkpoints import INDEX, SCHEDULER

from tinyldm.architectures import ARCHITECTURES, RandomWeights
from tinyldm.checkpoints.published_folder import write_component, write_tokenizers
from tinyldm.checkpoints.recognised import Component, Recognised
from tinyldm.models.build import expected
from tinyldm.text.tokenizer_folder import TOKENIZERS

DIFFUSERS = """
import sys, torch
from diffusers import StableDiffusionPipeline
torch.set_num_threads(int(sys.argv[3]))
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.float32)
pipe("red apple", num_inference_steps=int(sys.argv[2]), generator=torch.manual_seed(0)).images[0].save(sys.argv[4])
"""
FURTHER = """
import sys, time
sys.path.append(sys.argv[1])
import tinyldm
from networks import Spent
model = tinyldm.load()
spent = Spent(type(network) for network in model.networks.values())
for i in range(int(sys.argv[2]) + 1):
    start, before = time.perf_counter(), spent.seconds
    model.text_to_image("red apple", seed=i)[0].save(sys.argv[3])
    took = time.perf_counter() - start
    if i:
        print(took, took - (spent.seconds - before))
"""


def write_checkpoint(folder: Path, architecture: str = "sd15") -> None:
    """A published architecture with random weights in float16, in the published layout."""
    components = ARCHITECTURES[architecture]
    (folder / "model_index.json").write_text(json.dumps({**INDEX, "vae": ["diffusers", components["vae"][0]]}))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    parts = Recognised(architecture, architecture)
    for name, (class_name, config) in components.items():
        (folder / name).mkdir()
        parts.components[name] = Component(class_name, config, RandomWeights(expected(class_name, config)))
        write_component(folder / name, parts.components[name], "F16")
    write_tokenizers(folder, parts, TOKENIZERS)


def commands(model: Path, steps: int, threads: int, out: Path) -> dict[str, list[str]]:
    """What is run, by name."""
    ours = [sys.executable, "-m", "tinyldm", "sample", "red apple", "--model", str(model), "--steps", str(steps)]
    ours += ["--seed", "0", "--threads", str(threads), "-o", str(out)]
    theirs = [sys.executable, "-c", DIFFUSERS, str(model), str(steps), str(threads), str(out)]
    return {
        "tinyldm": ours,
        "tinyldm --precision bf16": [*ours, "--precision", "bf16"],
        "tinyldm --low-memory": [*ours, "--low-memory"],
        "diffusers": theirs,
    }


def peak_of(command: list[str], environment: dict[str, str] | None = None) -> tuple[float, float]:
    """Seconds of a command, and the peak of its resident memory in bytes as the kernel counts it (VmHWM).

    The count is read until the process ends; that of `getrusage` would begin with this process's own.
    """
    with tempfile.TemporaryFile() as errors:
        start, peak = time.perf_counter(), 0
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            with contextlib.suppress(OSError):
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
                peak = max(peak, int(found[1]) * 1024 if found else 0)
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            print(errors.read().decode(errors="replace"), file=sys.stderr)
            raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, peak


def alternate(commands: dict[str, list[str]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds and peak of every command, one a round."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for i in range(rounds):
        for name, command in commands.items():
            results[name].append(peak_of(command))
            seconds, peak = results[name][-1]
            print(f"round {i + 1} of {rounds}: {name} {seconds:.1f} s, {peak / 1e9:.2f} GB", file=sys.stderr)
    return results


def embedded(rounds: int, out: Path) -> list[list[str]]:
    """Rows of `tinyldm sample` on the embedded checkpoint, in rounds that each begin with an empty cache of kernels.

    Seconds, peak, and the seconds outside the networks; last those of further pictures of one process.
    """
    results: dict[str, list[tuple[float, float, float]]] = {"first run": [], "second run": []}
    for i in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            inside = Path(cache) / "seconds"
            words = [sys.executable, str(Path(__file__).parent / "networks.py"), str(inside), "sample", "red apple"]
            for name, rows in results.items():
                took = peak_of([*words, "--seed", "0", "-o", str(out)], {**os.environ, "TINYLDM_CACHE": cache})
                rows.append((*took, took[0] - float(inside.read_text())))
                print(f"round {i + 1} of {rounds}: {name} {rows[-1][0]:.1f} s", file=sys.stderr)
    words = [sys.executable, "-c", FURTHER, str(Path(__file__).parent), str(rounds), str(out)]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    further = [[float(word) for word in line.split()] for line in done.stdout.splitlines()]
    found = []
    for name, rows in results.items():
        seconds, peaks, outside = (statistics.median(column) for column in zip(*rows, strict=True))
        found.append([name, f"{seconds:.1f}", f"{peaks / 1e9:.2f}", f"{outside:.2f}"])
    seconds, outside = (statistics.median(column) for column in zip(*further, strict=True))
    return [*found, ["a further picture", f"{seconds:.1f}", "", f"{outside:.3f}"]]


def medians(results: dict[str, list[tuple[float, float]]], base: str) -> list[list[str]]:
    """A row of each: median seconds and peak, and the median of the rounds' ratios to the command `base`."""
    rows = []
    for name, pairs in results.items():
        seconds, peaks = zip(*pairs, strict=True)
        row = [name, f"{statistics.median(seconds):.1f}", f"{statistics.median(peaks) / 1e9:.2f}"]
        if base in results:
            for column in range(2):
                ratios = [mine[column] / other[column] for mine, other in zip(pairs, results[base], strict=True)]
                row.append(f"{statistics.median(ratios):.2f}")
        rows.append(row)
    return rows


def report(results: dict[str, list[tuple[float, float]]], rows: list[list[str]], args) -> str:
    """What was measured, as Markdown."""
    peers = ["torch", "diffusers"] if "diffusers" in results else []
    base = "diffusers" if "diffusers" in results else "tinyldm"
    head = [f"512×512, {args.steps} steps", "seconds", "peak GB"]
    if base in results:
        head += [f"seconds / {base}'s", f"peak / {base}'s"]
    only = f" --only {shlex.join(args.only)}" if args.only else ""
    parts = [
        setting(args.threads, peers),
        f"Medians of {args.rounds} rounds in which the commands alternate, ratios of each round.",
        "",
        table(head, medians(results, base)),
        "",
        table(["embedded checkpoint, 25 steps", "seconds", "peak GB", "seconds outside the networks"], rows),
        "",
        f"Made by `python tests/bench/whole_command.py --rounds {args.rounds} --steps {args.steps}{only}`.",
    ]
    return "\n".join(parts)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="names of the commands to run: tinyldm, …, diffusers")
    parser.add_argument("--checkpoint", type=Path, help="keep the checkpoint in this folder, and use it again")
    parser.add_argument("-o", "--output", type=Path, help="Markdown page whose part is replaced")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        model, out = args.checkpoint or Path(temporary) / "model", Path(temporary) / "a.png"
        if not (model / "model_index.json").exists():
            model.mkdir(parents=True, exist_ok=True)
            write_checkpoint(model)
        every = commands(model, args.steps, args.threads, out)
        names = args.only or list(every)
        alternate({name: commands(model, 1, args.threads, out)[name] for name in names}, 1)
        results = alternate({name: every[name] for name in names}, args.rounds)
        page = report(results, embedded(args.rounds, out), args)
    print(page)
    if args.output:
        write_section(args.output, "whole_command.py", page)


if __name__ == "__main__":
    main()
