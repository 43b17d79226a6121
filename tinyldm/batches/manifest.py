"""What was made from what: a file of JSON lines in the folder of a batch, which only grows.

A picture is written under a temporary name, brought to the disk, and renamed; then its line is added here. So at any
moment each picture is whole or not there, and one that is there without a line is known by its own metadata.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from tinyldm.errors import InputError
from tinyldm.pipelines.pictures import write_whole

FILE = "manifest.jsonl"
SETTLED = 1.0  # seconds after which lines are brought to the disk
SEEN = 60.0  # seconds in which a network's file system shows what another machine has written
TEMPORARY = re.compile(r"\.(.+\.png)\.\w{8}", re.IGNORECASE)  # as `write_whole` names them


class Kept(NamedTuple):
    """What the manifest says of a picture: what it was made from, and its size in bytes; -1 for one that failed."""

    key: str
    size: int


class Manifest:
    """The folder of a batch, held by one run at a time; `known` is what it said of each file when it was opened.

    Raises `InputError` where the folder can't be written, is held by another run, or has a file of that name that no
    batch wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / FILE
        self.known: dict[str, Kept] = {}
        self._file: IO[bytes] | None = None
        self._settled = -SETTLED

    def __enter__(self) -> Manifest:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
            self._lock()
            self._read()
        except (OSError, InputError) as error:
            self.__exit__()
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.path}: can't be written: {error.strerror or error}") from None
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()  # and with it the lock
            self._file = None

    def _lock(self) -> None:
        """Hold the folder; the system lets go of it when the process ends, however it ends."""
        with contextlib.suppress(ImportError):  # Windows
            import fcntl

            try:
                fcntl.flock(self._open.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{self.folder}: another batch is at work in this folder; wait, or take another"
                ) from None

    @property
    def _open(self) -> IO[bytes]:
        assert self._file is not None, "the manifest is not open"
        return self._file

    def _read(self) -> None:
        """Read what is there, and cut off a last line that was not finished."""
        self._open.seek(0)
        end = 0
        for number, line in enumerate(self._open, 1):
            if not line.endswith(b"\n"):
                break
            end += len(line)
            try:
                said = json.loads(line)
                self.known[said["file"]] = Kept(said["key"], said.get("bytes", -1))
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{self.path}, line {number}: is no line of a batch; move the file away") from None
        self._open.truncate(end)

    def has(self, name: str, key: str) -> bool:
        """Whether a picture is there, whole, and made from this."""
        known = self.known.get(name)
        if known is None or known.key != key or known.size < 0:
            return False
        with contextlib.suppress(OSError):
            return (self.folder / name).stat().st_size == known.size
        return False

    def write(self, name: str, picture: bytes) -> None:
        """Write a picture, whole or not at all. Raises `InputError` where that can't be done."""
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path.parent}: can't be made: {error.strerror or error}") from None
        write_whole(path, lambda file: file.write(picture))

    def wait_for(self, name: str) -> None:
        """Wait until a picture that another machine has written is seen here. Raises `InputError` where it never is."""
        end = time.monotonic() + SEEN
        while not (self.folder / name).exists():
            if time.monotonic() > end:
                raise InputError(
                    f"{self.folder / name}: a worker wrote it, and it is not here: the folder is not shared"
                )
            time.sleep(0.2)

    def add(self, said: Mapping[str, Any]) -> None:
        """Add a line about a picture. Raises `InputError` where that can't be done."""
        try:
            self._open.write(json.dumps(said, ensure_ascii=False).encode() + b"\n")
            self._open.flush()
        except OSError as error:
            raise InputError(f"{self.path}: can't be written: {error.strerror or error}") from None

    def settle(self) -> None:
        """Bring the lines to the disk, unless that was done a moment ago: one that is lost is found by its picture."""
        if time.monotonic() - self._settled > SETTLED:
            with contextlib.suppress(OSError):  # not every file system has that
                os.fsync(self._open.fileno())
            self._settled = time.monotonic()

    def clear(self, names: Iterable[str]) -> None:
        """Remove what a run that was killed has left of these files under temporary names."""
        wanted = set(names)
        for folder in {self.folder / Path(name).parent for name in wanted}:
            for path in folder.glob(".*") if folder.is_dir() else ():
                found = TEMPORARY.fullmatch(path.name)
                if found and (path.parent / found[1]).relative_to(self.folder).as_posix() in wanted:
                    path.unlink(missing_ok=True)
