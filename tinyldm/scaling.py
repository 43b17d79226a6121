"""How time grows with the picture and shrinks with threads: of each network at several sizes, a row at a time.

    tinyldm bench --scale

Time a pixel grows where arithmetic does: attention's products grow with the square of the pixels, all others with the
pixels. Time a multiply-add shows what arithmetic does not explain: caches that are too small, blocks that do not
fit, threads that wait.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tinyldm.bench import Work, describe_runtime, machine, median_seconds, workloads
from tinyldm.memory import check_memory
from tinyldm.models.network import Network

N = TypeVar("N", bound=Network[Any])

SIDES = (256, 512, 768, 1024)
WORKS = ("UNet, batch 1", "VAE decode")
HEAD = ("work", "threads", "picture", "time", "time a pixel", "multiply-adds a pixel", "time a multiply-add")


@dataclasses.dataclass(frozen=True)
class Point:
    """The time of a work for a square picture, `side` in pixels; `threads` is None for the reference's own."""

    work: str
    threads: int | None
    side: int
    seconds: float
    multiply_adds: int

    def as_json(self) -> dict[str, Any]:
        """The point in plain containers, with what a reader compares."""
        pixels = self.side**2
        return dataclasses.asdict(self) | {
            "microseconds_a_pixel": 1e6 * self.seconds / pixels,
            "multiply_adds_a_pixel": self.multiply_adds / pixels,
            "picoseconds_a_multiply_add": 1e12 * self.seconds / self.multiply_adds,
        }

    def cells(self) -> list[str]:
        """Its row of a table, in the order of `HEAD`."""
        found = self.as_json()
        return [
            self.work,
            "" if self.threads is None else str(self.threads),
            f"{self.side}×{self.side}",
            f"{self.seconds:.3g} s" if self.seconds < 100 else f"{self.seconds:.0f} s",
            f"{found['microseconds_a_pixel']:.2f} µs",
            f"{found['multiply_adds_a_pixel']:,.0f}",
            f"{found['picoseconds_a_multiply_add']:.1f} ps",
        ]


def scale(
    model: Any,
    sides: Sequence[int] = SIDES,
    repeat: int = 5,
    progress: Callable[[str], None] = lambda what: None,
) -> Iterator[Point]:
    """The points of a model, each as soon as it is measured, the median of `repeat` runs.

    On 1, 2, 4, … threads up to those of the runtime. `progress` is told what runs next, with how long it is expected to
    take. Raises `InputError` before anything runs for a size that the model does not have or the memory does not hold.
    """
    for side in sides:
        h, w = model.parts.latent_size(side, side)
        check_memory(model, h, w, f"{side}×{side}")
    works = {side: workloads(model, side, side) for side in sides}
    pace: dict[int | None, float] = {}  # seconds a multiply-add, as found last

    def measured(name: str, work: Work, threads: int | None, side: int) -> Point:
        expected = pace[threads] * work.multiply_adds * (repeat + 1) if threads in pace else 0.0
        on = "" if threads is None else f", {threads} thread{'s' * (threads > 1)}"
        progress(f"{name}{on}, {side}×{side}" + (f": about {expected:.0f} s" if expected >= 1 else ""))
        seconds = median_seconds(work, repeat)
        pace[threads] = seconds / work.multiply_adds
        return Point(name, threads, side, seconds, work.multiply_adds)

    for name in WORKS:
        for network in model.networks.values():
            network.weights.drop()
        for threads in thread_counts(model.runtime):
            for side in sides:
                work = works[side][name]
                yield measured(
                    name, dataclasses.replace(work, network=on_threads(work.network, threads)), threads, side
                )


def thread_counts(runtime: Any) -> list[int | None]:
    """1, 2, 4, … and the threads of a runtime; of the reference, whose threads are NumPy's, one None."""
    if runtime.backend == "reference":
        return [None]
    most = runtime.threads or runtime.ops.threads()
    return [*(1 << i for i in range((most - 1).bit_length())), most]


def on_threads(network: N, threads: int | None) -> N:
    """The network on so many threads; it shares the weights, and what was prepared from them."""
    result = copy.copy(network)
    result.runtime = dataclasses.replace(network.runtime, threads=threads)
    result.weights = network.weights.computed_by(result.runtime)
    return result


def head(model: Any, repeat: int) -> str:
    """What stands above the rows: the model, the machine, and the table's head, in Markdown."""
    about = f"{model.path}; {machine()}; {describe_runtime(model)}; medians of {repeat} runs."
    return "\n".join([about, "", row(HEAD), row(["---"] * len(HEAD))])


def row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"
