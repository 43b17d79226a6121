"""Threads: who does which piece of a kernel's work.

A kernel's work is cut into units by the shapes alone (a block of rows, a block of image tiles, a head). Threads take
the next unit from a shared counter until none is left. Which thread does a unit changes from run to run, what a unit
computes does not, and no sum is ever split over units: so the bytes that come out are the same for any number of
threads.

The helpers are Python threads that stay in machine code, where they take part in one kernel after the other
(`fork.py`). A helper that has nothing to do watches for the next kernel a while before it sleeps: a model is hundreds
of kernels with little between them, and waking a thread takes as long as a small one. Several callers may run kernels
at the same time: the helpers help the first of them, the others do their work alone.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

import numpy as np

from tinyldm.errors import InputError
from tinyldm.kernels.buffers import ALIGNMENT, fresh
from tinyldm.kernels.compile import Kernel, Native
from tinyldm.kernels.fork import BOARD, OPEN, STATE, serve

WORTH_A_THREAD = 2e6  # multiply-adds: some 40 microseconds
LINE = ALIGNMENT // 4  # float32 values
WATCHED = 20_000  # looks for a next task before a helper sleeps: some 200 microseconds


def _available() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class _State:
    threads = 0
    crew: Crew | None = None
    lock = threading.Lock()


P = ParamSpec("P")
T = TypeVar("T")

_local = threading.local()
_within: ContextVar[int] = ContextVar("threads", default=0)  # of the block that the caller is in; 0 outside any


def threads() -> int:
    """How many threads kernels use here: those of the innermost `using_threads`, else those of the process.

    Of the process: `set_threads`, else TINYLDM_THREADS, else its processors.
    """
    if within := _within.get():
        return within
    if not _State.threads:
        asked = os.environ.get("TINYLDM_THREADS", "")
        if asked and not (asked.isascii() and asked.isdigit() and int(asked) > 0):
            raise InputError(f"TINYLDM_THREADS must be a whole number of 1 or more, not {asked!r}")
        _State.threads = int(asked) if asked else _available()
    return _State.threads


def set_threads(count: int | None) -> None:
    """Use `count` threads in this process from now on; None for the default."""
    _check(count)
    with _State.lock:
        if count and count == _State.threads:
            return
        _State.threads = count or 0
        if _State.crew is not None:
            _State.crew.dismiss()
            _State.crew = None


def _check(count: int | None) -> None:
    if count is not None and count < 1:
        raise InputError(f"threads must be at least 1, not {count}")


@contextlib.contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Use `count` threads for what is called within the block, and for nothing that others call meanwhile.

    None for those of the process.
    """
    _check(count)
    token = _within.set(count or 0)
    try:
        yield
    finally:
        _within.reset(token)


def on_threads(count: int, function: Callable[P, T]) -> Callable[P, T]:
    """The function, each call of it within `using_threads(count)`; for what is called very often."""
    enter, leave = _within.set, _within.reset

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        token = enter(count)
        try:
            return function(*args, **kwargs)
        finally:
            leave(token)

    return run


@Native
def serve_jobs(board: int, seen: int, looks: int) -> int:
    """Help until no job comes for so many looks; see `fork.serve`."""
    state: int = serve(board, seen, looks)
    return state


class Crew:
    """Helpers, each a thread, and the board where they find the next job."""

    def __init__(self, helpers: int) -> None:
        self.helpers = helpers
        self.free = threading.Lock()  # held by the caller whom the helpers help
        self.board = new_board()
        self.address = self.board.ctypes.data
        self._asleep = 0
        self._counting = threading.Lock()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._dismissed = False
        serve = serve_jobs.compiled
        for _ in range(helpers):
            threading.Thread(target=self._work, args=(serve,), name="tinyldm", daemon=True).start()

    def wake(self, most: int = OPEN) -> None:
        """Have those who sleep watch again, so many of them at most."""
        if self._asleep:
            with self._counting:
                count = min(self._asleep, most)
                self._asleep -= count
            for _ in range(count):
                self._bell.put(None)

    def dismiss(self) -> None:
        """Let every helper end."""
        self._dismissed = True
        self.wake()

    def _work(self, serve: Callable[[int, int, int], int]) -> None:
        seen = 0
        while not self._dismissed:
            seen = serve(self.address, seen, WATCHED)
            with self._counting:
                self._asleep += 1
            # From here on a caller rings. One that looked just before may have posted a job; if not, it works alone.
            if self._dismissed or self.board[STATE] & OPEN:
                self.wake()
            self._bell.get()


def _crew(helpers: int) -> Crew:
    """The crew of the process, of so many helpers at least: it grows when more are asked for."""
    with _State.lock:
        if _State.crew is None or _State.crew.helpers < helpers:
            if _State.crew is not None:
                _State.crew.dismiss()
            _State.crew = Crew(helpers)
        return _State.crew


def _forget_after_fork() -> None:
    _State.crew, _State.lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)  # a child has no threads but the one that forked


def aligned(size: int) -> np.ndarray:
    """`size` uninitialised float32 values that begin on a cache line."""
    raw = fresh(4 * size + ALIGNMENT)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + 4 * size].view(np.float32)


def new_board() -> np.ndarray:
    """A board without a job (`fork.py`)."""
    board = aligned(2 * BOARD).view(np.int64)
    board[:] = 0
    return board


def _own_board() -> int:
    """The address of a board of this thread's own, for work that it does alone."""
    board = getattr(_local, "board", None)
    if board is None:
        _local.board = board = new_board()
    return board.ctypes.data


def _scratch(size: int) -> np.ndarray:
    """At least `size` float32 values that belong to this thread, kept from call to call."""
    buffer = getattr(_local, "buffer", None)
    if buffer is None or buffer.size < size:
        _local.buffer = buffer = None  # let go of the old one first
        _local.buffer = buffer = aligned(max(size, 1 << 14))
    return buffer


def run(kernel: Kernel, units: int, work: float, scratch: int, *arguments: object) -> None:
    """Call `kernel(counter, units, scratch, *arguments)` on as many threads as there is work for.

    `work` is about how many multiply-adds the kernel does: little work is done before another thread has woken up.
    `scratch` is how many float32 values each thread needs for itself.
    """
    if units == 0:
        return
    compiled = kernel.compiled
    counter = np.zeros(1, np.int64)
    each = -(-scratch // LINE) * LINE
    helpers = min(threads() - 1, units - 1, OPEN) if work >= WORTH_A_THREAD else 0
    crew = _crew(threads() - 1) if helpers else None
    if crew is None or not crew.free.acquire(blocking=False):
        compiled(_own_board(), 0, counter, units, _scratch(each)[:each], *arguments)
        return
    try:
        memory = _scratch(each * (helpers + 1))[:each]
        crew.wake(helpers)
        compiled(crew.address, helpers, counter, units, memory, *arguments)
    finally:
        crew.free.release()
