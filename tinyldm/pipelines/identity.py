"""What tells one set of weights from another, without reading all of them."""

from __future__ import annotations

import hashlib

import numpy as np

from tinyldm.tree import Weights


def digest_of(weights: Weights) -> str:
    """A digest of all names and shapes, and of the vectors (biases, norms), which every training changes: 16 digits."""
    found = hashlib.sha256()
    for node in weights.modules():
        for name, shape in sorted(node.shapes.items()):
            found.update(f"{node.path}.{name}{shape}".encode())
            if len(shape) == 1:
                found.update(node.read(name, np.float32).tobytes())
    return found.hexdigest()[:16]
