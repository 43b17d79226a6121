"""Ctrl-C and SIGTERM: an exception, so that what is under way is cleaned up, and none of them lost.

Python raises the exception wherever its main thread happens to be. In a finaliser, or in a function that C calls, it
can't leave: Python prints a traceback there and goes on; C code of a library may clear it, or raise an `ImportError` in
its place. So a signal is also noted here. Where Python says that an exception could not leave, the signal is sent again
a moment later; what ends a run after a signal is taken for the interrupt; and `check` asks between the steps of a run.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

AGAIN = 0.05  # seconds after which a lost signal is sent again
DEAF = 2.0  # seconds after a signal in which another is not heard: what cleans up is left in peace


class _State:
    signal = 0  # that arrived in this run; 0 for none
    when = 0.0
    is_over = False  # the run has ended: a signal that is on its way is late


def arrived() -> int:
    """The number of the signal that interrupted this run; 0 where none has."""
    return _State.signal


def over() -> None:
    """The interrupted run has ended, and what is left is to say so: no signal disturbs that, one sent again neither."""
    _State.is_over = True


def check() -> None:
    """Raise `KeyboardInterrupt` where a signal has arrived and its own exception was lost."""
    if _State.signal:
        raise KeyboardInterrupt


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Note the signals of a run, in the main thread; other threads get none."""
    _State.signal, _State.when, _State.is_over = 0, 0.0, False
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [(number, signal.signal(number, _note)) for number in signals if signal.getsignal(number) is not None]
    hook, sys.unraisablehook = sys.unraisablehook, _send_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before:
            signal.signal(number, handler)


def _note(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if not _State.is_over and (not _State.signal or now - _State.when > DEAF):
        _State.signal, _State.when = number, now
        raise KeyboardInterrupt


def _send_again(unraisable: Any) -> None:
    """Of an interrupt that could not leave where it was raised: raise it anew. Other exceptions are shown as always."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    number, _State.when = _State.signal or signal.SIGINT, -DEAF
    timer = threading.Timer(AGAIN, _send, [number])
    timer.daemon = True
    timer.start()


def _send(number: int) -> None:
    """Send a signal to the main thread, so that it wakes where it waits; Windows has no such call."""
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)
