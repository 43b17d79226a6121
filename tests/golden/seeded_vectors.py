"""Print test vectors of the seeded-weight generator: `python tests/golden/seeded_vectors.py`.

This is the generator a second time, one number at a time in Python's own integers and floats, as one would port it to
another language; `docs/goldens.md` defines it, and the tests compare it with `tinyldm.golden.seeded`.
"""

from __future__ import annotations

import hashlib
import math
import struct

MASK = 2**64 - 1
VECTORS = [
    ("conv_in.weight", (320, 4, 3, 3), 0),
    ("conv_in.weight", (320, 4, 3, 3), 1),
    ("mid_block.attentions.0.proj_in.weight", (16, 16), 0),
    ("conv_norm_out.weight", (8,), 0),
    ("conv_norm_out.bias", (8,), 0),
]
INPUTS = [("z", (1, 4, 8, 8), 0)]


def key(name: str, seed: int) -> int:
    """Step 1: the state that the stream of this name and seed starts from."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little")


def uniform(start: int, i: int) -> float:
    """Steps 2 and 3: element i of the stream, in [-1, 1)."""
    s = (start + (i + 1) * 0x9E3779B97F4A7C15) & MASK
    s = ((s ^ (s >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    s = ((s ^ (s >> 27)) * 0x94D049BB133111EB) & MASK
    s ^= s >> 31
    return (s >> 11) * 2.0**-53 * 2.0 - 1.0


def float32(value: float) -> bytes:
    """Step 5: the nearest float32 (ties to even), as its four bytes, most significant first."""
    return struct.pack(">f", value)


def weight(name: str, shape: tuple[int, ...], i: int, seed: int = 0) -> bytes:
    """Element i, in C order, of a weight."""
    scale, offset = 0.1, 0.0
    if len(shape) >= 2:
        scale = math.sqrt(3.0 / max(1, math.prod(shape[1:])))
    elif name.endswith("weight"):
        offset = 1.0
    return float32(uniform(key(name, seed), i) * scale + offset)


def model_input(name: str, i: int, seed: int = 0) -> bytes:
    """Element i, in C order, of an input."""
    return float32(uniform(key(name, seed), i) * math.sqrt(3.0))


def line(label: str, start: int, shape: tuple[int, ...], seed: int, values: list[bytes]) -> str:
    """One row of the table: the first three values, and the last."""
    cells = " | ".join(f"`{value.hex()}`" for value in values)
    return f"| {label} | {list(shape)} | {seed} | `{start:016x}` | {cells} |"


def table() -> str:
    """All vectors as a Markdown table."""
    rows = ["| name | shape | seed | key | [0] | [1] | [2] | last |", "|---|---|---|---|---|---|---|---|"]
    for name, shape, seed in VECTORS:
        places = (0, 1, 2, math.prod(shape) - 1)
        rows.append(line(f"`{name}`", key(name, seed), shape, seed, [weight(name, shape, i, seed) for i in places]))
    for name, shape, seed in INPUTS:
        places = (0, 1, 2, math.prod(shape) - 1)
        rows.append(
            line(f"`{name}` (input)", key(name, seed), shape, seed, [model_input(name, i, seed) for i in places])
        )
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
