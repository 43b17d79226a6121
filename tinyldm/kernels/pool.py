"""Threads: who does which piece of a kernel's work.

A kernel's work is cut into units by the shapes alone (a block of rows, a block of image tiles, a head). Threads take
the next unit from a shared counter until none is left. Which thread does a unit changes from run to run, what a unit
computes does not, and no sum is ever split over units: so the bytes that come out are the same for any number of
threads.

Kernels release the GIL, so plain Python threads run them at once; and because all state of a run is in its arguments,
several callers may run kernels at the same time. A helper that has nothing to do watches for the next kernel a while
before it sleeps: a model is hundreds of kernels with little between them, and waking a thread takes as long as a small
one.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

import numpy as np

from tinyldm.errors import InputError
from tinyldm.kernels.compile import Kernel, kernel
from tinyldm.kernels.simd import address, wait_for_change

WORTH_A_THREAD = 2e6  # multiply-adds: some 40 microseconds
ALIGNMENT = 64  # bytes of a cache line
WATCHED = 20_000  # looks for a next task before a helper sleeps: some 200 microseconds


def _available() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class _State:
    threads = 0
    crew: Crew | None = None
    lock = threading.Lock()


_local = threading.local()


def threads() -> int:
    """How many threads kernels use: `set_threads`, else TINYLDM_THREADS, else the processors of this process."""
    if not _State.threads:
        asked = os.environ.get("TINYLDM_THREADS", "")
        if asked and not (asked.isdigit() and int(asked) > 0):
            raise InputError(f"TINYLDM_THREADS must be a positive number, not {asked!r}")
        _State.threads = int(asked) if asked else _available()
    return _State.threads


def set_threads(count: int | None) -> None:
    """Use `count` threads from now on; None for the default."""
    if count is not None and count < 1:
        raise InputError(f"threads must be at least 1, not {count}")
    with _State.lock:
        if count and count == _State.threads:
            return
        _State.threads = count or 0
        if _State.crew is not None:
            _State.crew.dismiss()
            _State.crew = None


@contextlib.contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """`set_threads` for the length of a block."""
    before = _State.threads
    set_threads(count)
    try:
        yield
    finally:
        set_threads(before or None)


class Task:
    """A part in a kernel, for a helper or, if none has begun it when the caller is done, for nobody."""

    def __init__(self, part: Callable[[], None]) -> None:
        self.part = part
        self.error: BaseException | None = None
        self._claim = threading.Lock()
        self._done = threading.Lock()
        self._done.acquire()

    def run(self) -> None:
        """Do it, unless it was called off."""
        if not self._claim.acquire(blocking=False):
            return
        try:
            self.part()
        except BaseException as error:
            self.error = error
        self._done.release()

    def finish(self) -> None:
        """Call it off if it has not begun; else wait for its end, and raise what it raised."""
        if self._claim.acquire(blocking=False):
            return
        self._done.acquire()
        if self.error is not None:
            raise self.error


@kernel("void(int64[::1], int64, int64)")
def watch_kernel(posted, seen, looks):  # type: ignore[no-untyped-def]
    """Return when the number of posted tasks is no longer `seen`, or after so many looks."""
    wait_for_change(address(posted), seen, looks)


class Crew:
    """Helpers, each a thread, that do the tasks that are posted."""

    def __init__(self, helpers: int) -> None:
        self._helpers = helpers
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._posted = np.zeros(1, np.int64)
        self._watch = watch_kernel.compiled
        for _ in range(helpers):
            threading.Thread(target=self._work, name="tinyldm", daemon=True).start()

    def post(self, task: Task | None) -> None:
        """Give a task to whichever helper is first; None ends one."""
        self._tasks.put(task)
        self._posted[0] += 1

    def dismiss(self) -> None:
        """Let every helper end."""
        for _ in range(self._helpers):
            self.post(None)

    def _work(self) -> None:
        while (task := self._next()) is not None:
            task.run()
            del task  # its arrays are not held while waiting for the next

    def _next(self) -> Task | None:
        seen = int(self._posted[0])
        with contextlib.suppress(Empty):
            return self._tasks.get_nowait()
        self._watch(self._posted, seen, WATCHED)
        return self._tasks.get()


def _crew(helpers: int) -> Crew:
    with _State.lock:
        if _State.crew is None:
            _State.crew = Crew(helpers)
        return _State.crew


def _forget_after_fork() -> None:
    _State.crew, _State.lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)  # a child has no threads but the one that forked


def aligned(size: int) -> np.ndarray:
    """`size` uninitialised float32 values that begin on a cache line."""
    raw = np.empty(size + ALIGNMENT // 4, np.float32)
    start = -raw.ctypes.data % ALIGNMENT // 4
    return raw[start : start + size]


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
    for argument in arguments:  # kernels compute addresses from shapes
        assert not isinstance(argument, np.ndarray) or argument.flags.c_contiguous, "a kernel was given a strided array"

    def take_part() -> None:
        compiled(counter, units, _scratch(scratch), *arguments)

    helpers = min(threads(), units) - 1
    if helpers < 1 or work < WORTH_A_THREAD:
        take_part()
        return
    crew = _crew(threads() - 1)
    tasks = [Task(take_part) for _ in range(helpers)]
    for task in tasks:
        crew.post(task)
    try:
        take_part()
    finally:
        for task in tasks:
            task.finish()
