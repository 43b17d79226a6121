"""What `--preview 1` costs a picture of the embedded checkpoint: runs with and without, in turn, in one process.

    python tests/bench/previews.py -o docs/long-work.md

A preview is written after every step but the last, as the command does it, where another lies already. The walk to the
last latent is timed, without the decoder, until all previews are written: by the clock, and on one thread, which others
on the machine change less, in processor time of the whole process. Of many runs the fastest counts.
"""

from __future__ import annotations

import argparse
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


def seconds(model: tinyldm.LatentDiffusion, every: str | None, folder: Path) -> tuple[float, float]:
    """By the clock and of the processor, of one walk to the last latent and the last preview."""
    wanted = request("red apple", seed=0, steps=STEPS).resolved(model.parts)
    previews = Previews(argparse.Namespace(preview=every, show=False)).of(model)
    how = Walk(callback=lambda step: previews.see(step, lambda k: folder / "a.png"))
    start, before = time.perf_counter(), time.process_time()
    with previews:
        for _ in latents(model.parts, wanted, how):
            pass
    return time.perf_counter() - start, time.process_time() - before


def cost(threads: int, rounds: int) -> list[list[str]]:
    """Rows: milliseconds of a step without and with a preview, and by how much the run is longer."""
    model = tinyldm.load(threads=threads)
    runs: dict[str | None, list[tuple[float, float]]] = {None: [], "1": []}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for every in runs:
            seconds(model, every, Path(folder))  # compiles, and writes the files that the others replace
        for k in range(2 * rounds):
            every = (None, "1", "1", None)[k % 4]
            runs[every].append(seconds(model, every, Path(folder)))
    rows = []
    for k, clock in enumerate(("by the clock", "processor time")[: 2 if threads == 1 else 1]):
        plain, with_previews = (min(run[k] for run in runs[every]) for every in (None, "1"))
        steps = [f"{1e3 * total / STEPS:.2f} ms" for total in (plain, with_previews)]
        rows.append([str(threads), clock, *steps, f"{with_previews / plain - 1:.1%}"])
    return rows


def main() -> None:
    """Measure, and print or write the section."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=40)
    p.add_argument("-o", "--output", type=Path)
    args = p.parse_args()
    head = ["threads", "seconds", "a step", "with `--preview 1`", "the run is longer by"]
    rows = [row for threads in (1, 2) for row in cost(threads, args.rounds)]
    text = f"{table(head, rows)}\n\n{setting(2, [])}"
    if args.output:
        write_section(args.output, "previews", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
