"""The golden file: recorded tensors by key, in one safetensors file with metadata, written as a stream.

A key is `STEP/COMPONENT/MODULE` for a module's output (`0007/unet/down_blocks.0.resnets.1.conv1`) and
`STEP/COMPONENT:NAME` for an array at a model's boundary (`0007/unet:epsilon`). `docs/golden-format.md` defines all of
it. The reader trusts nothing: what is not a golden file of a known version is an error that says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np

from tinyldm.checkpoints.base import STORED, from_stored, quoted, tag_of, to_stored
from tinyldm.checkpoints.safetensors import Entry, build_header, read_safetensors
from tinyldm.errors import CheckpointError, InputError
from tinyldm.golden.seeded import integers, stream_key

FORMAT = "tinyldm-golden"
VERSION = 1
COPY_BLOCK = 1 << 22


@dataclass(frozen=True)
class Statistics:
    """What is known of a whole tensor without its values: count, range, moments, and the SHA-256 of its bytes.

    `min`, `max`, `mean` and `std` are of the finite values (`std` divides by the count), in float64; `sha256` is over
    the little-endian bytes in row-major order.
    """

    shape: tuple[int, ...]
    dtype: str
    min: float
    max: float
    mean: float
    std: float
    nonfinite: int
    sha256: str


def statistics(array: np.ndarray) -> Statistics:
    """The `Statistics` of an array."""
    tag = tag_of(array.dtype)
    values = np.asarray(array, np.float64)
    good = np.isfinite(values)
    finite = values if good.all() else values[good]
    low, high, mean, std = (float(f(finite)) if finite.size else 0.0 for f in (np.min, np.max, np.mean, np.std))
    digest = hashlib.sha256(raw_bytes(to_stored(array, tag))).hexdigest()
    nonfinite = int(good.size - np.count_nonzero(good))
    return Statistics(array.shape, tag, low, high, mean, std, nonfinite, digest)


def raw_bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array in row-major order, without a copy where they lie so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def sample_positions(key: str, size: int, count: int) -> np.ndarray:
    """Which elements of the flat tensor `key` a sampled golden holds: `count` positions, the same on every machine.

    Position i is element i of the integer stream of `"sample:" + key` (see `tinyldm.golden.seeded`), modulo `size`.
    """
    return (integers(stream_key(f"sample:{key}"), 0, count) % np.uint64(max(size, 1))).astype(np.int64)


def selected(key: str, patterns: Sequence[str]) -> bool:
    """Whether a key matches one of the patterns (`*`, `?`, `[…]`, as in a shell)."""
    return any(fnmatchcase(key, pattern) for pattern in patterns)


class GoldenWriter:
    """Write a golden file a tensor at a time, in the order of execution; memory holds no tensor longer than its write.

    ```python
    with GoldenWriter(path, {"settings": {…}}) as golden:
        golden.add("0000/unet/conv_in", array)
    ```

    `metadata` values are anything that JSON holds. `sample=K` keeps K values of a tensor that has more, and its
    statistics; `values=False` keeps statistics alone. The file appears when the block ends without an error.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        metadata: Mapping[str, Any] | None = None,
        *,
        sample: int | None = None,
        values: bool = True,
    ) -> None:
        if sample is not None and sample < 1:
            raise InputError(f"sample: must be 1 or more values a tensor, not {sample}")
        self.path = Path(path)
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.sample = sample
        self.values = values
        self.order: list[str] = []
        self._inputs: dict[str, list[str]] = {}
        self._sampled: dict[str, list[int]] = {}
        self._statistics: dict[str, dict[str, Any]] = {}
        self._entries: dict[str, Entry] = {}
        self._digests: dict[str, str] = {}  # of what is stored, to the key under which it is
        self._end = 0
        self._temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")

    def __enter__(self) -> Self:
        with self._writing():
            self._data = self._temporary.open("x+b")
        return self

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Tell an error of the file system as one of this file."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be written: {error.strerror}") from None

    def __contains__(self, key: object) -> bool:
        return key in self._entries or key in self._statistics

    def add(self, key: str, array: np.ndarray, inputs: tuple[np.ndarray, ...] = (), tag: str | None = None) -> None:
        """Append a tensor under a new key, with the inputs of its module if they are to be kept.

        `tag` stores floating tensors as that type (`F32`, `BF16`, …). An input that is already in the file is only
        referred to; another is stored as `KEY:input.0`, `KEY:input.1`, …
        """
        if key in self:
            raise InputError(f"{self.path}: the key {quoted(key)} is recorded twice")
        refs = [self._input(f"{key}:input.{i}", x, tag) for i, x in enumerate(inputs)]
        if refs:
            self._inputs[key] = refs
        self._put(key, array, tag)
        self.order.append(key)

    def add_given(self, name: str, array: np.ndarray) -> None:
        """Store what the run was given under a name, whole, whatever is kept of its results; to be called after them.

        An array that is in the file already is only referred to.
        """
        known = self._digests.get(_digest(array))
        if known is None or known not in self._entries or known in self._sampled:
            known = f"given:input.{name}"
            self._append(known, np.asarray(array, order="C"), None)
        self.metadata.setdefault("given", {})[name] = known

    def stored(self, key: str) -> np.ndarray:
        """Read back the values that were written under a key: the tensor, or its sample `(K,)`."""
        entry = self._entries[key]
        self._data.seek(entry.begin)
        raw = self._data.read(entry.end - entry.begin)
        self._data.seek(0, os.SEEK_END)
        return from_stored(np.frombuffer(raw, STORED[entry.tag]), entry.tag).reshape(entry.shape)

    def _input(self, key: str, array: np.ndarray, tag: str | None) -> str:
        known = self._digests.get(_digest(array))
        if known is not None:
            return known
        self._put(key, array, tag)
        return key

    def _put(self, key: str, array: np.ndarray, tag: str | None) -> None:
        array = np.asarray(array, order="C")
        self._digests.setdefault(_digest(array), key)
        count = array.size if self.sample is None else self.sample
        sampled = array.size > count
        if sampled or not self.values:
            self._statistics[key] = asdict(statistics(array))
        if not self.values:
            return
        if sampled:
            self._sampled[key] = list(array.shape)
            array = array.reshape(-1)[sample_positions(key, array.size, count)]
        self._append(key, array, tag)

    def _append(self, key: str, array: np.ndarray, tag: str | None) -> None:
        own = tag_of(array.dtype)
        tag = tag if tag is not None and array.dtype.kind == "f" else own
        stored = to_stored(array, tag)
        with self._writing():
            self._data.write(raw_bytes(stored))
        end = self._end + stored.size * STORED[tag].itemsize
        self._entries[key] = Entry(tag, array.shape, self._end, end)
        self._end = end

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        with suppress(OSError):
            self._data.close()
        try:
            if kind is None:
                self._finish()
        finally:
            self._temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        """Put the header, which is only known now, in front of the data."""
        record = {
            **self.metadata,
            "order": self.order,
            "inputs": self._inputs,
            "sampled": self._sampled,
            "statistics": self._statistics,
        }
        text = {name: json.dumps(value, ensure_ascii=False, sort_keys=True) for name, value in record.items()}
        text |= {"format": FORMAT, "format_version": str(VERSION)}
        header = build_header(self._entries, text, str(self.path))
        whole = self._temporary.with_suffix(".whole")
        try:
            with self._writing():
                with whole.open("xb") as out, self._temporary.open("rb") as data:
                    out.write(header)
                    shutil.copyfileobj(data, out, COPY_BLOCK)
                whole.replace(self.path)
        finally:
            whole.unlink(missing_ok=True)


def _digest(array: np.ndarray) -> str:
    array = np.asarray(array, order="C")
    h = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=16)
    h.update(raw_bytes(array))
    return h.hexdigest()


class Golden:
    """An open golden file: `golden[key]` reads a tensor, `golden.order` has the keys in the order of execution."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = str(path)
        self._file = read_safetensors(path)
        try:
            self._read_metadata()
        except BaseException:
            self._file.close()
            raise

    def _read_metadata(self) -> None:
        text = self._file.metadata
        if text.get("format") != FORMAT:
            raise InputError(f"{self.path}: is a safetensors file, but not a golden file (no format {FORMAT!r} in it)")
        if text.get("format_version") != str(VERSION):
            found = quoted(text.get("format_version"))
            raise InputError(f"{self.path}: golden format version {found}; this tinyldm reads version {VERSION}")
        self.metadata: dict[str, Any] = {}
        for name, value in text.items():
            if name not in ("format", "format_version"):
                try:
                    self.metadata[name] = json.loads(value)
                except (ValueError, RecursionError):
                    raise InputError(f"{self.path}: the metadata entry {quoted(name)} is not JSON") from None
        self.order: list[str] = self._checked("order", list, [])
        self.inputs: dict[str, list[str]] = self._checked("inputs", dict, {})
        self.sampled: dict[str, list[int]] = self._checked("sampled", dict, {})
        self.given: dict[str, str] = self._checked("given", dict, {})
        known: dict[str, Any] = self._checked("statistics", dict, {})
        try:
            self.statistics = {key: Statistics(**{**s, "shape": tuple(s["shape"])}) for key, s in known.items()}
        except (TypeError, KeyError):
            raise InputError(f"{self.path}: the metadata entry 'statistics' is malformed") from None
        self._check_keys()

    def _checked(self, name: str, kind: type, default: Any) -> Any:
        value = self.metadata.get(name, default)
        if type(value) is not kind:
            raise InputError(f"{self.path}: the metadata entry {name!r} must be a JSON {kind.__name__}")
        return value

    def _check_keys(self) -> None:
        """Every key of the order must be there, every tensor be in the order or an input, every reference resolve."""
        if not all(type(key) is str for key in self.order) or len(set(self.order)) != len(self.order):
            raise InputError(f"{self.path}: the order must list every key once")
        for key in self.order:
            if key not in self:
                raise InputError(f"{self.path}: the order lists {quoted(key)}, of which the file has nothing")
        listed = set(self.order)
        for key, refs in self.inputs.items():
            lost = [r for r in refs if r not in self] if type(refs) is list else [key]
            if key not in listed or lost:
                raise InputError(f"{self.path}: the inputs of {quoted(key)} refer to what the file does not have")
        lost = [name for name, ref in self.given.items() if type(ref) is not str or ref not in self._file]
        if lost:
            raise InputError(f"{self.path}: the given input {quoted(lost[0])} refers to what the file does not have")
        stray = next((n for n in self._file.names if n not in listed and ":input." not in n), None)
        if stray is not None:
            raise InputError(f"{self.path}: the tensor {quoted(stray)} is not listed in the order")
        for key in self.sampled:
            if key not in self._file or key not in self.statistics:
                raise InputError(f"{self.path}: {quoted(key)} is said to be sampled, but has no values or statistics")

    def __contains__(self, key: object) -> bool:
        return key in self._file or key in self.statistics

    def __iter__(self) -> Iterator[str]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, key: str) -> np.ndarray:
        """The values: the tensor, or the sampled ones `(K,)`; bfloat16 as float32."""
        if key not in self._file:
            if key in self.statistics:
                raise InputError(f"{self.path}: of {quoted(key)} only statistics were recorded")
            raise InputError(f"{self.path}: has no tensor {quoted(key)}")
        return self._file.read(key, None)

    def has_values(self, key: str) -> bool:
        """Whether there are values, and not statistics alone."""
        return key in self._file

    def has_whole(self, key: str) -> bool:
        """Whether there are all values of the tensor, and not a sample."""
        return key in self._file and key not in self.sampled

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of the whole tensor, whether all of it was kept or not."""
        if key in self.sampled:
            return tuple(self.sampled[key])
        return self._file.shape(key) if key in self._file else self.statistics[key].shape

    def dtype(self, key: str) -> str:
        """The published tag of the stored type: `F32`, `BF16`, …"""
        return self._file.dtype(key) if key in self._file else self.statistics[key].dtype

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
