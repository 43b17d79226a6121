"""Memory for results, used again: an array that nobody holds any more leaves its memory to the next of about its size.

A model's intermediate images take up to hundreds of megabytes each. Memory fresh from the system comes as pages that it
must fill with zeros first, when they are first touched: at 512×512 that is a fifth of the time of a decode. The sizes
repeat from layer to layer and from step to step, so memory is kept instead: what `empty` gives is an ordinary array
whose memory comes back here when the last array or view that shows it is gone.

All of it together stays within `SPARE` times what was once in use at the same time: beyond that, what has lain idle
longest goes back to the system. Within `frugal()`, where memory is short, `LITTLE` lies idle, and a piece is not given
to an array of half its size.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
from collections import deque
from collections.abc import Iterator

import numpy as np

SMALLEST = 1 << 17  # bytes; smaller arrays stay within the C library's own reserve
SPARE = 1.25  # of what was in use at once: lent and idle memory in all
LITTLE = 1 << 25  # bytes that lie idle at most, where memory is short
HUGE = 1 << 22  # bytes from which on NumPy asks Linux for huge pages
ALIGNMENT = 64  # bytes of a cache line
FLOAT32 = np.dtype(np.float32).str


def fresh(size: int) -> np.ndarray:
    """`size` uninitialised bytes, in pages of whatever size the system has at hand.

    NumPy asks Linux for huge ones. Where free memory lies in pieces, as it does when files have been read, the system
    then moves others' pages out of the way first: that took three times as long as to fill the weights of a network
    in, and nothing was quicker afterwards.
    """
    if size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(size, np.uint8)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        raise MemoryError(f"no memory for an array of {size} bytes") from None
    return np.frombuffer(memory, np.uint8)


class _Piece:
    """Memory of `size` bytes, aligned, at the address `start`."""

    __slots__ = ("memory", "size", "start")

    def __init__(self, size: int) -> None:
        self.memory = fresh(size + ALIGNMENT)
        start = self.memory.ctypes.data
        self.start, self.size = start + -start % ALIGNMENT, size


class _Loan:
    """A piece that an array shows: it comes back when the array and its views are gone."""

    __slots__ = ("__array_interface__", "piece")

    def __init__(self, piece: _Piece, shape: tuple[int, ...]) -> None:
        self.piece = piece
        self.__array_interface__ = {"shape": shape, "typestr": FLOAT32, "data": (piece.start, False), "version": 3}

    def __del__(self) -> None:
        _reserve.returned.append(self.piece)  # atomic: this may run at any time, in any thread


class _Reserve:
    """What is lent and what lies idle."""

    def __init__(self) -> None:
        self.returned: deque[_Piece] = deque()
        self.idle: list[_Piece] = []  # what came back longest ago first
        self.lent = self.most_lent = 0  # bytes
        self.frugal = 0  # how many blocks of `frugal` are under way
        self.lock = threading.Lock()

    def take(self, size: int) -> _Piece:
        """Memory of at least `size` bytes: the smallest idle piece that is large enough, or new memory."""
        with self.lock:
            self.collect()
            found, most = None, 2 * size - 1 if self.frugal else math.inf
            for piece in self.idle:
                if size <= piece.size <= most and (found is None or piece.size < found.size):
                    found = piece
            if found is not None:
                self.idle.remove(found)
            else:
                spare = SPARE * max(self.most_lent, self.lent + size) - self.lent - size
                self.shrink_to(min(spare, LITTLE) if self.frugal else spare)
                found = _Piece(size)
            self.lent += found.size
            self.most_lent = max(self.most_lent, self.lent)
            return found

    def collect(self) -> None:
        """Take in what came back."""
        while self.returned:
            piece = self.returned.popleft()
            self.lent -= piece.size
            self.idle.append(piece)

    def shrink_to(self, size: float) -> None:
        """Let go of what has lain idle longest, until no more than `size` bytes do."""
        total = sum(piece.size for piece in self.idle)
        while self.idle and total > size:
            total -= self.idle.pop(0).size


_reserve = _Reserve()


@contextlib.contextmanager
def frugal() -> Iterator[None]:
    """A block in which little memory lies idle; it may be slower."""
    with _reserve.lock:
        _reserve.frugal += 1
        _reserve.collect()
        _reserve.shrink_to(LITTLE)
    try:
        yield
    finally:
        with _reserve.lock:
            _reserve.frugal -= 1


def empty(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised float32 array, as `np.empty` gives, from memory that is used again."""
    size = 4 * math.prod(shape)
    if size < SMALLEST:
        return np.empty(shape, np.float32)
    return np.asarray(_Loan(_reserve.take(size), shape))
