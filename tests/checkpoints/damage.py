"""Damaged copies of files, for the tests that feed them to the readers."""

import random
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tinyldm.errors import CheckpointError


def mutate(blob: bytes, rng: random.Random, pieces: tuple[bytes, ...]) -> bytes:
    """A damaged copy: bytes changed, cut out, put in, doubled, or the end cut off; early bytes more often than late."""
    damaged = bytearray(blob)
    for _ in range(rng.choice((1, 1, 2, 4))):
        within = len(damaged) if rng.random() < 0.3 else min(len(damaged), 400)
        at = rng.randrange(within + 1)
        kind = rng.randrange(6)
        if kind == 0:
            damaged[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            damaged[at : at + 1] = bytes([(damaged[at] if at < len(damaged) else 0) ^ 1 << rng.randrange(8)])
        elif kind == 2:
            del damaged[at : at + rng.randrange(1, 30)]
        elif kind == 3:
            damaged[at:at] = rng.choice(pieces)
        elif kind == 4:
            other = rng.randrange(len(damaged) + 1)
            damaged[at:at] = damaged[other : other + rng.randrange(1, 60)]
        else:
            del damaged[rng.randrange(len(damaged) + 1) :]
    return bytes(damaged)


def refused(read, path) -> bool:
    """Whether a reader refuses a file, in one line; any other exception is the test's failure."""
    try:
        read(path)
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) < 1000 + len(str(path))  # noqa: PT017
        return True
    return False


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Inside the block, the most bytes that were allocated in it so far."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
