"""How to compute: the backend, its dtype, and for the Numba backend the precision, the threads, the memory policy."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyldm import ops
from tinyldm.errors import InputError

BACKENDS = ("numba", "reference")
PRECISIONS = ("fast", "strict", "bf16")
SEAMLESS = ("x", "y", "both")


class Kernels:
    """The functions of `tinyldm.kernels`, each call on so many threads, whatever others use meanwhile.

    They are imported when the first is asked for, because Numba takes a while to import.
    """

    def __init__(self, threads: int | None) -> None:
        self._threads = threads

    def __getattr__(self, name: str) -> Any:
        from tinyldm import kernels

        function = getattr(kernels, name)
        if self._threads is not None and callable(function):
            function = kernels.pool.on_threads(self._threads, function)
        setattr(self, name, function)  # found at once the next time
        return function


@dataclass(frozen=True)
class Runtime:
    """How to compute: the backend, its dtype, and for the Numba backend the precision, threads and memory policy.

    `backend="reference"` takes float32 and float64, `backend="numba"` float32 only. Raises `InputError` otherwise.
    `operators` compute in place of the backend's: any object with the functions of `tinyldm.ops` (of the Numba backend
    those of `tinyldm.kernels`, which takes weights that it has prepared). `ops` is what computes.
    Where images are `seamless`, along `x`, `y` or `both`, a convolution sees beyond an edge what is at the other side.
    """

    backend: str = "reference"
    dtype: np.dtype[Any] = field(default=np.dtype(np.float32))
    precision: str = "fast"
    threads: int | None = None
    low_memory: bool = False
    seamless: str | None = None
    operators: Any = field(default=None, repr=False, compare=False)
    ops: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "dtype", np.dtype(self.dtype))
        except TypeError:
            raise InputError(f"dtype {self.dtype!r} is unknown; known are float32 and float64") from None
        if self.backend not in BACKENDS:
            raise InputError(f"backend {self.backend!r} is unknown; known are {', '.join(BACKENDS)}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {self.precision!r} is unknown; known are {', '.join(PRECISIONS)}")
        if self.dtype not in (np.float32, np.float64):
            raise InputError(f"dtype {self.dtype} is not supported; supported are float32 and float64")
        if self.backend == "numba" and self.dtype != np.float32:
            raise InputError(f"the numba backend computes in float32, not {self.dtype}; choose backend='reference'")
        if self.seamless not in (None, *SEAMLESS):
            raise InputError(f"seamless {self.seamless!r} is unknown; known are {', '.join(SEAMLESS)}")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads must be at least 1, not {self.threads}")
        own = ops if self.backend == "reference" else Kernels(self.threads)
        object.__setattr__(self, "ops", own if self.operators is None else self.operators)

    @classmethod
    def choose(
        cls,
        backend: str | None = None,
        dtype: Any = "float32",
        precision: str | None = None,
        threads: int | None = None,
        low_memory: bool = False,
    ) -> Runtime:
        """A runtime from arguments; `TINYLDM_BACKEND`, `_PRECISION` and `_THREADS` stand in for those not given.

        Raises `InputError` for a value that is not known, with the name of the variable where it came from one.
        """
        for name, given, known in (("BACKEND", backend, BACKENDS), ("PRECISION", precision, PRECISIONS)):
            value = os.environ.get(f"TINYLDM_{name}")
            if not given and value and value not in known:
                raise InputError(f"TINYLDM_{name} {value!r} is unknown; known are {', '.join(known)}")
        named = os.environ.get("TINYLDM_THREADS")
        if threads is None and named:
            if not named.isascii() or not named.isdigit() or not int(named):
                raise InputError(f"TINYLDM_THREADS must be a whole number of 1 or more, not {named!r}")
            threads = int(named)
        backend = backend or os.environ.get("TINYLDM_BACKEND") or "numba"
        if backend == "reference" and precision == "bf16":
            raise InputError(f"precision {precision!r} is of the numba backend; the reference has none")
        precision = precision or os.environ.get("TINYLDM_PRECISION") or "fast"
        return cls(backend, dtype, precision, threads, low_memory)
