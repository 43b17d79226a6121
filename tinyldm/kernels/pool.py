"""Threads: who does which piece of a kernel's work.

A kernel's work is cut into units by the shapes alone (a block of rows, a block of image tiles, a head). Threads take
the next unit from a shared counter until none is left. Which thread does a unit changes from run to run, what a unit
computes does not, and no sum is ever split over units: so the bytes that come out are the same for any number of
threads.

Kernels release the GIL, so plain Python threads run them at once; and because all state of a run is in its arguments,
several callers may run kernels at the same time.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tinyldm.errors import InputError
from tinyldm.kernels.compile import Kernel

WORTH_A_THREAD = 2e6  # multiply-adds: some 40 microseconds
ALIGNMENT = 64  # bytes of a cache line


def _available() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class _State:
    threads = 0
    executor: ThreadPoolExecutor | None = None
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
        _State.executor = None  # its idle threads end when it is collected


@contextlib.contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """`set_threads` for the length of a block."""
    before = _State.threads
    set_threads(count)
    try:
        yield
    finally:
        set_threads(before or None)


def _executor(workers: int) -> ThreadPoolExecutor:
    with _State.lock:
        if _State.executor is None:
            _State.executor = ThreadPoolExecutor(workers, thread_name_prefix="tinyldm")
        return _State.executor


def _forget_after_fork() -> None:
    _State.executor, _State.lock = None, threading.Lock()


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
    executor = _executor(threads() - 1)
    futures = [executor.submit(take_part) for _ in range(helpers)]
    take_part()
    for future in futures:
        # What has not begun by now has nothing left to do.
        if not future.cancel():
            future.result()
