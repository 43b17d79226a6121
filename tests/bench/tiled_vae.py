"""Decoding in tiles beside decoding whole: seconds and peak memory, and what diffusers' blended tiles change.

    pip install ".[bench]" && python tests/bench/tiled_vae.py --rounds 2 -o docs/large-pictures.md

Stable Diffusion 1.5's decoder with random weights, each decode a process of its own, whole and tiled in turn; the peak
is that of its resident memory, Python and weights included. Then the embedded checkpoint's decoder on a picture that it
has encoded: how far tiles are from the whole, here and in diffusers, in levels of 255.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.page import setting, table, write_section

import tinyldm
from tinyldm.checkpoints.embedded import embedded
from tinyldm.models.tiled import TILE
from tinyldm.typing import Array

DECODE = """
import resource, sys, time
import numpy as np
from tinyldm.architectures import random_model
from tinyldm.runtime import Runtime

side, tile = int(sys.argv[1]), int(sys.argv[2])
model = random_model("sd15", Runtime("numba"))
model = model.tiled(tile) if tile else model
z = np.random.default_rng(0).standard_normal((1, 4, side // 8, side // 8)).astype(np.float32)
model.vae.decode(z[:, :, :8, :8])  # weights are read and kernels compiled
start = time.perf_counter()
model.vae.decode(z)
seconds = time.perf_counter() - start
print(seconds, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def decoded(side: int, tile: int) -> tuple[float, float]:
    """Seconds and peak bytes of a decode in a process of its own; tile 0 is whole."""
    command = [sys.executable, "-c", DECODE, str(side), str(tile)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(out[0]), float(out[1])


def memory_and_time(side: int, rounds: int) -> str:
    """Whole and tiled in turn."""
    runs = [(decoded(side, 0), decoded(side, TILE)) for _ in range(rounds)]
    rows = []
    for name, k in (("whole", 0), (f"`--vae-tiling` (bands of {TILE} rows)", 1)):
        seconds, peaks = (statistics.median(run[k][i] for run in runs) for i in (0, 1))
        ratios = [statistics.median(run[k][i] / run[0][i] for run in runs) for i in (0, 1)]
        rows.append([name, f"{seconds:.1f}", f"{ratios[0]:.2f}", f"{peaks / 1e9:.2f}", f"{ratios[1]:.2f}"])
    return table([f"{side}×{side}, SD 1.5's decoder", "seconds", "/ whole", "peak GB", "/ whole"], rows)


def levels(pixels: Array) -> Array:
    """Pixels in [-1, 1] as levels from 0 to 255, not rounded."""
    return np.clip(np.asarray(pixels, np.float64) / 2 + 0.5, 0, 1) * 255


def differences(side: int) -> str:
    """How far the tiled decoders are from the whole one on a real picture."""
    import torch
    from diffusers import AutoencoderKL

    model = tinyldm.load()
    picture = model.text_to_image("red apple", seed=0)[0].resize((side, side), Image.Resampling.LANCZOS)
    z = model.vae.unscale(model.encode(picture))
    theirs: Any = AutoencoderKL.from_pretrained(embedded() / "vae")
    with torch.no_grad():
        whole = levels(theirs.decode(torch.from_numpy(z)).sample.numpy())
        theirs.enable_tiling()
        blended = levels(theirs.decode(torch.from_numpy(z)).sample.numpy())
    rows = []
    for name, found, wanted in (
        ("tinyldm", levels(model.tiled(16).vae.decode(z)), levels(model.vae.decode(z))),
        ("diffusers `enable_tiling()`", blended, whole),
    ):
        error = np.abs(found - wanted)
        seen = f"{(np.round(found) != np.round(wanted)).mean():.1%}"
        rows.append([name, f"{error.max():.2g}", f"{error.mean():.2g}", seen])
    return table([f"tiled against whole, {side}×{side}", "largest", "mean", "of 8-bit values that change"], rows)


def main() -> None:
    """Measure, and print or write the section."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--side", type=int, default=1024)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("-o", "--output", type=Path)
    args = p.parse_args()
    text = "\n\n".join([setting(2, ["torch", "diffusers"]), memory_and_time(args.side, args.rounds), differences(256)])
    text = re.sub(r"\n{3,}", "\n\n", text) + "\n\nDifferences in levels of 255, of the embedded checkpoint's decoder.\n"
    text += f"Made by `python tests/bench/tiled_vae.py --rounds {args.rounds} -o docs/large-pictures.md`.\n"
    if args.output:
        write_section(args.output, "tiled_vae.py", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
