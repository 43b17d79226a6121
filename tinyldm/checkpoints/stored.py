"""What is stored in a file: its bytes, mapped into memory, and the element types that they are read as.

Each element type has a published tag, a form in which it lies in a file, and a conversion for when it is used. A tag is
the name that the safetensors format gives a type (`F32`, `BF16`, `I64`, …); torch storages map onto the same tags.
NumPy has no bfloat16, so its bits are stored as `uint16` and widened to float32: a bfloat16 is the upper half of the
float32 with the same value.
"""

from __future__ import annotations

import mmap
import stat
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike

from tinyldm.errors import CheckpointError
from tinyldm.ops.bfloat16 import BFLOAT16, bfloat16_to_float32, float32_to_bfloat16

# How an element lies in the file, little-endian. BOOL is a byte: only zero is false.
STORED: dict[str, np.dtype] = {
    "BOOL": np.dtype("u1"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}
HALVES = {"F16": np.dtype(np.float16), "BF16": BFLOAT16}  # types of 16 bits, and what they are unconverted
FLOATING = ("F64", "F32", "F16", "BF16")
TAG_OF_NUMPY = {dtype.newbyteorder("="): tag for tag, dtype in STORED.items() if tag not in ("BOOL", "BF16")}
TAG_OF_NUMPY[np.dtype(bool)] = "BOOL"


class MappedFile:
    """The bytes of one regular file, mapped into memory, read-only, without reading them: `size`, `view(begin, end)`.

    Pages come from the disk when they are touched and can be given back.
    """

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

    def release(self) -> None:
        """Give the resident pages back to the system; touched again, they are read from the disk again."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let go of the file. Arrays that were read from it without a copy stay valid, and keep the mapping alive."""
        if self._map is not None:
            with suppress(BufferError):  # arrays still point into it: it goes with the last of them
                self._map.close()
        self._map = None
        self.size = 0


def tag_of(dtype: DTypeLike) -> str:
    """The published tag of a NumPy type, of either byte order; a type without one is a `CheckpointError`."""
    dtype = np.dtype(dtype)
    tag = TAG_OF_NUMPY.get(dtype.newbyteorder("="))
    if tag is None:
        raise CheckpointError(f"dtype {dtype} cannot be stored; those that can are {', '.join(STORED)}")
    return tag


def from_stored(stored: np.ndarray, tag: str, dtype: DTypeLike | None = None) -> np.ndarray:
    """A read-only array of `dtype` from elements as they lie in a file; `None` keeps the stored type.

    No copy is made when nothing has to change. Bfloat16 comes out as float32 if the type is to be kept, and as its
    bits for `BFLOAT16`. A value that is finite in the file and not in `dtype` is a `CheckpointError`; NaN and infinity
    pass between floating types.
    """
    if tag == "BF16" and dtype is BFLOAT16:
        values = stored.astype(np.uint16, copy=False).view(BFLOAT16)
    elif tag == "BF16":
        values = np.asarray(bfloat16_to_float32(stored))
    elif tag == "BOOL":
        values = np.asarray(stored != 0)
    else:
        values = stored
    wanted = values.dtype.newbyteorder("=") if dtype is None else np.dtype(dtype)
    values = _cast(values, wanted)
    if not (values.flags.aligned and values.flags.c_contiguous):
        values = values.copy(order="C")
    values = values.view()
    values.flags.writeable = False
    return values


def to_stored(values: np.ndarray, tag: str) -> np.ndarray:
    """Elements as they lie in a file of type `tag`, contiguous; only floating types are converted, rounded to nearest.

    A value that is finite in `values` and not in the stored type is a `CheckpointError`.
    """
    found = tag_of(values.dtype)
    if tag not in STORED:
        raise CheckpointError(f"dtype {tag!r} is not one of {', '.join(STORED)}")
    if found != tag and not (found in FLOATING and tag in FLOATING):
        raise CheckpointError(f"dtype {found} cannot be stored as {tag}: only floating types are converted")
    if tag != "BF16":
        return _cast(values, STORED[tag])
    single = _cast(values, np.dtype(np.float32))
    stored = float32_to_bfloat16(single)
    if np.any(np.isinf(bfloat16_to_float32(stored)) & np.isfinite(single)):
        raise CheckpointError("holds values beyond the range of bfloat16")
    return stored


def _cast(values: np.ndarray, wanted: np.dtype) -> np.ndarray:
    # A signalling NaN raises the processor's "invalid" flag between floating types, where it is no error.
    invalid: Literal["ignore", "raise"] = "ignore" if wanted.kind in "fc" else "raise"
    try:
        with np.errstate(over="raise", invalid=invalid):
            return values.astype(wanted, order="C", copy=False)
    except FloatingPointError:
        raise CheckpointError(f"holds values beyond the range of {wanted.name}") from None
