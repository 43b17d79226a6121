"""Warnings of a job, such as words of a prompt that were cut off, told to who asked for it and not to the terminal.

`warnings.catch_warnings` changes what the whole process does; here each thread hears its own.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

_heard: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@contextlib.contextmanager
def hearing() -> Iterator[None]:
    """While the server runs: pass warnings on to the block of `noted` that they are raised in, if there is one."""
    before = warnings.showwarning

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        heard = _heard.get()
        if heard is None:
            before(message, *where, **more)
        else:
            heard.append(str(message))

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


@contextlib.contextmanager
def noted() -> Iterator[list[str]]:
    """The warnings that this thread raises within the block, as they come."""
    heard: list[str] = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)
