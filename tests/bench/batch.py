"""How much of a batch's time passes outside the networks, and how much memory it takes as rows go by.

    python tests/bench/batch.py [--rows 1000] [--steps 25] [--batch-size N] [--threads 1]

Prints the share of the time from the first row to the last that no network was computing, what that time goes to, and
the most memory that the process had taken by row 10, 100, 1,000. The rows are of the embedded checkpoint: for a larger
one the share is smaller. Other programs on the machine make the figures worse; processor time is printed beside.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

import tinyldm
from tinyldm.batches.run import How


class Clock:
    """The time that passes in some functions; those that they call are not counted twice."""

    def __init__(self) -> None:
        self.seconds, self.processor, self.depth = 0.0, 0.0, 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.depth += 1
            begun, busy = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.seconds += time.perf_counter() - begun
                    self.processor += time.thread_time() - busy

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="print where the time outside the networks goes")
    args = parser.parse_args()

    model, clock = tinyldm.load(threads=args.threads), Clock()
    names = (model.path / "captions.txt").read_text(encoding="utf-8").splitlines()
    model.text_to_image(names[0], steps=1)  # the kernels are compiled and the weights read
    for network, methods in (
        (model.unet, ["__call__", "prepare"]),
        (model.vae, ["decode"]),
        (model.text_encoder, ["__call__"]),
    ):
        kind = type(network)
        for method in methods:
            setattr(kind, method, clock.around(getattr(kind, method)))
    marks = {10, 100, 1000, args.rows}
    begun: list[float] = []

    def watch(report: Any, made: Any) -> None:
        if report.made in marks:
            taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
            print(f"row {report.made:6,}: {taken:7.1f} MB at most, {time.perf_counter() - begun[0]:7.1f} s", flush=True)

    rows = [{"prompt": names[k % len(names)], "seed": k} for k in range(args.rows)]
    how = How(
        args.batch_size, began=lambda report: begun.extend([time.perf_counter(), time.thread_time()]), watch=watch
    )
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        clock.seconds = clock.processor = 0.0
        if args.profile:
            profile.enable()
        tinyldm.batch(rows, folder, model=model, settings={"steps": args.steps}, how=how)
        whole, busy = time.perf_counter() - begun[0], time.thread_time() - begun[1]
    profile.disable()
    print(f"outside the networks: {1 - clock.seconds / whole:.1%} of {whole:.1f} s")
    print(f"of the processor time of the thread that computes: {1 - clock.processor / busy:.1%} of {busy:.1f} s")
    if args.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
