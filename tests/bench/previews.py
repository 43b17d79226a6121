"""What `--preview 1` costs a picture of the embedded checkpoint: runs on one thread, without and with, in turn.

    python tests/bench/previews.py -o docs/long-work.md

A preview is written after every step but the last, as the command does it, where another lies already. Processor time,
which other programs on the machine change less than the clock: of a walk without previews, and of what previews take of
the thread that computes, and of the thread that writes. Of many runs the one that took least counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.page import setting, table, write_section

import tinyldm
from tinyldm.commands.previews import Previews
from tinyldm.pipelines.request import request
from tinyldm.pipelines.walk import Walk, latents

STEPS = 25


class Timed(Previews):
    """Previews that know what they took of each thread."""

    seeing = writing = 0.0

    def see(self, step: Any, file_of: Callable[[int], Path]) -> None:
        """In the thread that computes."""
        start = time.thread_time()
        super().see(step, file_of)
        self.seeing += time.thread_time() - start

    def write(self) -> None:
        """In the thread that writes."""
        start = time.thread_time()
        super().write()
        self.writing = time.thread_time() - start


def taken(model: tinyldm.LatentDiffusion, every: str | None, folder: Path) -> tuple[float, float, float]:
    """Seconds of the processor: of a walk to the last latent, of which by seeing, and of which by writing."""
    wanted = request("red apple", seed=0, steps=STEPS).resolved(model.parts)
    previews = Timed(argparse.Namespace(preview=every, show=False)).of(model)
    how = Walk(callback=lambda step: previews.see(step, lambda k: folder / "a.png"))
    start = time.process_time()
    with previews:
        for _ in latents(model.parts, wanted, how):
            pass
    return time.process_time() - start, previews.seeing, previews.writing


def cost(rounds: int) -> str:
    """A step without previews, and what a preview takes of each thread."""
    model = tinyldm.load(threads=1)
    runs: dict[str | None, list[tuple[float, float, float]]] = {None: [], "1": []}
    with tempfile.TemporaryDirectory() as folder:
        for every in (None, "1") * (rounds + 1):
            runs[every].append(taken(model, every, Path(folder)))
    step = min(run[0] for run in runs[None]) / STEPS
    seeing, writing = (min(run[k] for run in runs["1"][1:]) / (STEPS - 1) for k in (1, 2))
    rows = [["a guided step, without previews", f"{1e3 * step:.1f} ms", ""]]
    for name, seconds in (("the thread that computes", seeing), ("the thread that writes", writing)):
        rows.append([f"a preview, in {name}", f"{1e3 * seconds:.2f} ms", f"{seconds / step:.1%}"])
    return table(["on one thread", "processor time", "of the step"], rows)


def main() -> None:
    """Measure, and print or write the section."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("-o", "--output", type=Path)
    args = p.parse_args()
    text = f"{cost(args.rounds)}\n\n{setting(1, [])}"
    if args.output:
        write_section(args.output, "previews", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
