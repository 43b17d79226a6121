"""The random streams that a seed may mean, by name: PyTorch's on a CPU, PyTorch's on an NVIDIA GPU, NumPy's.

| name | the stream of | used by |
|---|---|---|
| `torch` | `torch.Generator("cpu")` | diffusers, whose examples draw on the CPU |
| `cuda`, `cuda:43008` | `torch.Generator("cuda")`, on a card of so many threads | the web interfaces, on a GPU |
| `numpy` | `numpy.random.RandomState` | the pipelines that run ONNX and OpenVINO models, which take such a generator |
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from tinyldm.diffusion.philox import CudaGenerator
from tinyldm.diffusion.random import Generator, PictureStreams, Seeded, TorchGenerator, check_seed, checked
from tinyldm.errors import InputError


class NumpyGenerator(Seeded):
    """A stateful random stream, that of `numpy.random.RandomState(seed)`; its `seed` is from 0 to 2**32 - 1.

    NumPy keeps this older generator's bits for good. It draws in float64, which is rounded to float32 where that is
    asked for.
    """

    def __init__(self, seed: int = 0):
        self._initial_seed = check_seed(seed)
        if self._initial_seed >= 2**32:
            raise InputError(f"seed: {seed} is out of NumPy's range; with rng numpy it must be from 0 to 2**32 - 1")
        self._state = np.random.RandomState(self._initial_seed)

    def randn(self, shape: int | tuple[int, ...], dtype: type | str | np.dtype = np.float32) -> np.ndarray:
        """Standard normals of the shape, float32 or float64: those of `RandomState.randn`."""
        shape, dtype = checked(shape, dtype)
        return np.asarray(self._state.standard_normal(shape)).astype(dtype)


GENERATORS: dict[str, Callable[[int], Generator]] = {
    "torch": TorchGenerator,
    "cuda": CudaGenerator,
    "numpy": NumpyGenerator,
}


def generators(rng: str) -> Callable[[int], Generator]:
    """What makes the generator of a seed: a key of `GENERATORS`, or `cuda:THREADS` for a card of so many threads.

    Raises `InputError` for another name, and for a number that no card has.
    """
    kind, colon, threads = rng.partition(":") if isinstance(rng, str) else (rng, "", "")
    if kind not in GENERATORS or (colon and kind != "cuda"):
        raise InputError(f"rng: {rng!r} is unknown; take {', '.join(GENERATORS)}, or cuda:THREADS for another card")
    if not colon:
        return GENERATORS[kind]
    if not (threads.isascii() and threads.isdigit()) or len(threads) > 9:
        raise InputError(f"rng: {rng!r}: the number of the card's threads is missing, as in cuda:43008")
    make = partial(CudaGenerator, threads=int(threads))
    make(0)  # says what is wrong with the number
    return make


def picture_streams(seed: int, count: int, kind: str = "torch") -> PictureStreams:
    """The streams of `count` pictures with the seeds `seed`, `seed` + 1, …, modulo $2^{64}$; `kind` as `generators`."""
    make = generators(kind)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"count: {count!r} is not a number of pictures; it must be an integer of 1 or more")
    first = check_seed(seed)
    return PictureStreams([make((first + k) % 2**64) for k in range(count)])
