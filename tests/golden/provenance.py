"""How golden tensors are stored and read back, each with where it came from.

A golden is one safetensors file (an eight-byte little-endian header length, a JSON header, the raw arrays). Its
`__metadata__` has one entry, `provenance`: a JSON object with the versions of the originals, the configuration, the
seed, the patches applied to the original, and the sha256 of the tensors' bytes in name order. The reader here is a
dozen lines of its own, so that the goldens do not depend on the code that they check.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "U32": "<u4", "U64": "<u8"}


def digest(tensors: dict[str, np.ndarray]) -> str:
    """The sha256 over name, dtype, shape and bytes of every tensor, in name order."""
    h = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        h.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        h.update(array.tobytes())
    return h.hexdigest()


def save_golden(
    name: str, tensors: dict[str, np.ndarray], packages: tuple[str, ...] = ("torch",), **provenance: Any
) -> Path:
    """Write `tests/golden/<name>.safetensors`; `packages` are the originals whose versions are recorded."""
    from safetensors.numpy import save_file

    tensors = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    record = {
        "versions": {package: version(package) for package in packages},
        **provenance,
        "sha256": digest(tensors),
    }
    path = HERE / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"provenance": json.dumps(record, sort_keys=True)})
    return path


def load_golden(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read `tests/golden/<name>.safetensors`; returns the tensors and their provenance, the digest verified."""
    blob = (HERE / f"{name}.safetensors").read_bytes()
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    provenance = json.loads(header.pop("__metadata__")["provenance"])
    data = blob[8 + length :]
    tensors = {
        key: np.frombuffer(data[slice(*entry["data_offsets"])], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for key, entry in header.items()
    }
    if digest(tensors) != provenance["sha256"]:
        raise ValueError(f"golden {name}: the tensors are not those that were recorded (sha256 differs)")
    return tensors, provenance
