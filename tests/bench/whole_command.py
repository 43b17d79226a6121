"""The whole command side by side: a 512×512 picture of Stable Diffusion 1.5's architecture, from start to file.

    pip install ".[bench]" && python tests/bench/whole_command.py --rounds 3 --steps 20

Writes a checkpoint with random weights in the published layout to a temporary folder (2.1 GB in float16), then runs
`tinyldm sample`, `tinyldm sample --low-memory` and a script with diffusers' pipeline in turn, each as a process of its
own, and prints seconds and peak resident memory. Cold start and loading are included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tinyldm.architectures import ARCHITECTURES, RandomWeights
from tinyldm.checkpoints.recognise import Component
from tinyldm.models.build import expected
from tinyldm.pipelines.convert import write_component, write_tokenizer

CLASSES = {"text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
DIFFUSERS = """
import sys, torch
from diffusers import StableDiffusionPipeline
torch.set_num_threads(int(sys.argv[3]))
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.float32)
pipe("red apple", num_inference_steps=int(sys.argv[2]), generator=torch.manual_seed(0)).images[0].save(sys.argv[4])
"""


def write_checkpoint(folder: Path) -> None:
    """Stable Diffusion 1.5's architecture with random weights in float16, in the published layout."""
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (folder / "tokenizer").mkdir()
    write_tokenizer(folder / "tokenizer", "<|endoftext|>")
    for name, config in ARCHITECTURES["sd15"].items():
        (folder / name).mkdir()
        weights = RandomWeights(expected(CLASSES[name], config))
        write_component(folder / name, Component(CLASSES[name], config, weights), "F16")


def commands(model: Path, steps: int, threads: int, out: Path) -> dict[str, list[str]]:
    """What is run, by name."""
    ours = [sys.executable, "-m", "tinyldm", "sample", "red apple", "--model", str(model), "--steps", str(steps)]
    ours += ["--seed", "0", "--threads", str(threads), "-o", str(out)]
    theirs = [sys.executable, "-c", DIFFUSERS, str(model), str(steps), str(threads), str(out)]
    return {"tinyldm": ours, "tinyldm --low-memory": [*ours, "--low-memory"], "diffusers": theirs}


def run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak resident gigabytes of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[:6])} … ended with status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="names of the commands to run")
    parser.add_argument("--checkpoint", type=Path, help="keep the checkpoint in this folder, and use it again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        model = args.checkpoint or Path(temporary) / "model"
        if not (model / "model_index.json").exists():
            model.mkdir(parents=True, exist_ok=True)
            write_checkpoint(model)
        every = commands(model, args.steps, args.threads, Path(temporary) / "a.png")
        chosen = {name: every[name] for name in args.only or every}
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
        for _ in range(args.rounds):
            for name, command in chosen.items():
                results[name].append(run(command))
                print(f"{name}: {results[name][-1][0]:.1f} s, {results[name][-1][1]:.2f} GB", file=sys.stderr)
    print(f"| command, {args.steps} steps | seconds | peak GB |\n|---|---|---|")
    for name, rows in results.items():
        seconds, peak = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"| {name} | {seconds:.1f} | {peak:.2f} |")


if __name__ == "__main__":
    main()
