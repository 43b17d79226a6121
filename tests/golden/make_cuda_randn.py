"""`diffusion/cuda_randn.safetensors`: what `torch.rand` and `torch.randn` give on an NVIDIA GPU.

    python tests/golden/make_cuda_randn.py recorded.npz

keeps a small part of a recording of a real card, made with PyTorch on it; `python tests/golden/make_cuda_randn.py` on a
machine with such a card records that part anew. Arrays are named `function/dtype/seed/shape`; of large ones the first
and last 256 values stand here, and of uniform ones the digest of all.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden.provenance import save_golden

SEEDS = (0, 42, 2**32 + 5, 123456789012)
SHAPES = {
    "randn/float32": ("1", "5", "257", "1x4x16x16", "1x4x64x64", "1x16x128x128"),
    "randn/float64": ("17",),
    "rand/float32": ("5", "16384"),
    "rand/float64": ("1000",),
}
DRAWS = ("0-rand-7", "1-randn-1000", "2-rand-300000", "3-randn-9")  # of one generator, in turn
ENDS = 256


def recorded(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, Any]]:
    """Arrays, digests and the card of a recording."""
    with np.load(path) as file:
        facts = json.loads(bytes(file["json"]))
        arrays = {name: file[name] for name in names()}
    return arrays, facts["sha256"], facts["environment"]


def drawn() -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, Any]]:
    """The same, drawn on this machine's card."""
    import torch

    arrays = {}
    for seed in SEEDS:
        for kind, shapes in SHAPES.items():
            function, dtype = kind.split("/")
            for shape in shapes:
                generator = torch.Generator("cuda").manual_seed(seed)
                sizes, options = tuple(map(int, shape.split("x"))), {"generator": generator, "device": "cuda"}
                made = getattr(torch, function)(sizes, dtype=getattr(torch, dtype), **options)
                arrays[f"{kind}/{seed}/{shape}"] = made.cpu().numpy()
        generator = torch.Generator("cuda").manual_seed(seed)
        for draw in DRAWS:
            _, function, size = draw.split("-")
            made = getattr(torch, function)(int(size), generator=generator, device="cuda")
            arrays[f"mixed/float32/{seed}/{draw}"] = made.cpu().numpy()
    digests = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
    card = torch.cuda.get_device_properties(0)
    count, held = card.multi_processor_count, card.max_threads_per_multi_processor
    environment = {"torch": torch.__version__, "cuda": torch.version.cuda, "name": card.name}
    return arrays, digests, environment | {"multi_processor_count": count, "max_threads_per_multi_processor": held}


def names() -> list[str]:
    """The names of the arrays that are kept."""
    single = [f"{kind}/{seed}/{shape}" for seed in SEEDS for kind, shapes in SHAPES.items() for shape in shapes]
    return [*single, *(f"mixed/float32/{seed}/{draw}" for seed in SEEDS for draw in DRAWS)]


def ends(array: np.ndarray) -> np.ndarray:
    """A small array, or the first and last values of a large one."""
    flat = array.ravel()
    return flat if flat.size <= 2 * ENDS else np.concatenate([flat[:ENDS], flat[-ENDS:]])


def main() -> None:
    """Write the golden file."""
    arrays, digests, card = recorded(Path(sys.argv[1])) if len(sys.argv) > 1 else drawn()
    whole = {name: digests[name] for name in arrays if "rand" in name.replace("randn", "")}
    kept = {name: ends(array) for name, array in arrays.items()}
    save_golden("diffusion/cuda_randn", kept, (), card=card, seeds=SEEDS, ends=ENDS, whole=whole)


if __name__ == "__main__":
    main()
