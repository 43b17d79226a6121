"""What is being written, under a name of its own until it is whole, so that no run leaves half of a checkpoint.

A run that is interrupted or ended (SIGTERM) removes it. One that is killed cannot; so the file or folder is locked
while it is written, which ends with the process, and the next run in that folder removes what nobody holds.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from tinyldm.errors import CheckpointError

STALE = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # a folder, or a file if it is a safetensors one


def temporary_for(path: Path) -> Path:
    """A name beside a path that nothing has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock on a file or folder until the block or the process ends; nothing where the system has none."""
    descriptor = lock(path)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def lock(path: Path) -> int | None:
    """An open descriptor that holds a lock on a file or folder; None where another holds it or none can be had."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def remove_stale(folder: Path) -> list[str]:
    """Remove what killed runs left in a folder; returns the names."""
    removed = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if not STALE.fullmatch(path.name) or not (path.is_dir() or ".safetensors." in path.name) or path.is_symlink():
            continue
        descriptor = lock(path)
        if descriptor is not None:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed.append(path.name)
    return removed


@contextlib.contextmanager
def handled(number: int, handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> Iterator[None]:
    """Have a signal handled so in this block; in another thread than the main one, which hears none, as before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)


@contextlib.contextmanager
def ended_cleanly() -> Iterator[None]:
    """Let SIGTERM end the block as an exit does (status 143), so that what is half written is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with handled(signal.SIGTERM, end):
        yield


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `CheckpointError` where the block can't write to a path."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {reason(error)}") from None


def reason(error: OSError) -> str:
    """Why something could not be written; of a copied folder, why its first file could not."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][0][-1])
    return error.strerror or str(error) or type(error).__name__
