"""What `--preview 1` costs a picture of the embedded checkpoint: runs with and without, in turn, in one process.

    python tests/bench/previews.py -o docs/long-work.md

A preview is written after every step but the last, as the command does it. Seconds by the clock, medians of many runs
of the walk without the decoder; the share is the median of the ratios of neighbouring runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.page import setting, table, write_section

import tinyldm
from tinyldm.commands.previews import Previews
from tinyldm.pipelines.request import request
from tinyldm.pipelines.walk import Walk, latents

STEPS = 25


def seconds(model: tinyldm.LatentDiffusion, every: str | None, folder: Path) -> float:
    """Of one walk to the last latent, and of what is left to write then."""
    wanted = request("red apple", seed=0, steps=STEPS).resolved(model.parts)
    with Previews(argparse.Namespace(preview=every, show=False)).of(model) as previews:
        start = time.perf_counter()
        for _ in latents(
            model.parts, wanted, Walk(callback=lambda step: previews.see(step, lambda k: folder / "a.png"))
        ):
            pass
    return time.perf_counter() - start


def cost(threads: int, rounds: int) -> list[str]:
    """A row: milliseconds of a step without and with a preview, and by how much the second is longer."""
    model = tinyldm.load(threads=threads)
    runs = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for k in range(rounds + 2):  # the first ones compile, and write the files that the others replace
            pair = {every: seconds(model, every, Path(folder)) for every in ((None, "1"), ("1", None))[k % 2]}
            runs.append((pair[None], pair["1"]))
    without, with_previews = (statistics.median(run[k] for run in runs[2:]) for k in (0, 1))
    ratio = statistics.median(b / a for a, b in runs[2:])
    each = 1e6 * without * (ratio - 1) / (STEPS - 1)
    steps = [f"{1e3 * total / STEPS:.2f} ms" for total in (without, with_previews)]
    return [str(threads), *steps, f"{each:.0f} µs", f"{ratio - 1:.2%}"]


def main() -> None:
    """Measure, and print or write the section."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=40)
    p.add_argument("-o", "--output", type=Path)
    args = p.parse_args()
    head = ["threads", "a step", "with `--preview 1`", "a preview", "of the run"]
    text = f"{table(head, [cost(threads, args.rounds) for threads in (1, 2)])}\n\n{setting(2, [])}"
    if args.output:
        write_section(args.output, "previews", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
