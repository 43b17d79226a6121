"""A file mapped into memory to be read: pages come from the disk when they are touched and can be given back."""

from __future__ import annotations

import mmap
import stat
from contextlib import suppress
from os import PathLike
from pathlib import Path

import numpy as np

from tinyldm.errors import CheckpointError


class MappedFile:
    """The bytes of one regular file, read-only, without reading them: `size`, `view(begin, end)`, `array(…)`."""

    def __init__(self, path: str | PathLike[str]):
        self.path = Path(path)
        try:
            # Opening a named pipe would wait for a writer; so look first.
            mode = self.path.stat().st_mode
            if not stat.S_ISREG(mode):
                what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
                raise CheckpointError(f"{path}: is {what}, wanted a checkpoint file")
            with self.path.open("rb") as file:
                self.size = file.seek(0, 2)
                self._map = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ) if self.size else None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None

    def view(self, begin: int, end: int) -> memoryview:
        """The bytes from `begin` up to `end`, not copied; the range must lie in the file."""
        if not 0 <= begin <= end <= self.size:
            raise CheckpointError(f"{self.path}: bytes {begin} to {end} asked of a file of {self.size} bytes")
        return memoryview(self._map or b"")[begin:end]

    def array(self, dtype: np.dtype, begin: int, end: int) -> np.ndarray:
        """The same bytes as a flat, read-only array of `dtype`."""
        return np.frombuffer(self.view(begin, end), dtype)

    def release(self, begin: int = 0, end: int | None = None) -> None:
        """Give the resident pages of a range back to the system; touched again, they are read from the disk again."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            first = begin - begin % mmap.PAGESIZE
            length = (self.size if end is None else end) - first
            if length > 0:
                self._map.madvise(mmap.MADV_DONTNEED, first, length)

    def close(self) -> None:
        """Let go of the file. Arrays that were read from it without a copy stay valid, and keep the mapping alive."""
        if self._map is not None:
            with suppress(BufferError):  # arrays still point into it: it goes with the last of them
                self._map.close()
        self._map = None
        self.size = 0
