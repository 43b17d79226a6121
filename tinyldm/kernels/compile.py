"""Compiling kernels once: a decorator, and a cache on disk that is never stale.

Numba's own cache looks at the time stamp of the file that a function is in. A kernel here is made of several files
(the vector instructions, the formulas, the register tile), so its cache folder is named by a hash of all of them, of
the versions of Python, Numba, llvmlite and NumPy, and of the processor with its features. A change in any of those is
another folder; a folder shared between machines is no danger. Each kernel is one file, written under a temporary name
and then renamed, so two first runs at once only do the work twice. Machine code that was damaged, or is that of another
kernel, must never run: a file begins with a digest of the kernel's name and of the rest. Where that does not fit, or
the file can't be read, the kernel is compiled again; where no folder can be written, kernels live in memory only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import platform
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_type_hints

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from numba import types
from numba.core import compiler
from numba.core.caching import _Cache
from numba.core.runtime.nrt import rtsys

from tinyldm.kernels.fork import fork
from tinyldm.kernels.simd import target, unit

KEPT_FOLDERS = 4  # caches of older versions that are left for a program still running
Function = TypeVar("Function", bound=Callable[..., Any])

DIGEST_BYTES = 32  # SHA-256, at the beginning of each file


def user_cache() -> Path:
    """The user's cache folder: TINYLDM_CACHE, else what the platform says. An empty variable is as good as none."""
    if named := os.environ.get("TINYLDM_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "tinyldm"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/tinyldm"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinyldm"


def source_of(folder: Path) -> bytes:
    """A digest of all Python files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.digest()


# Read now: when the first kernel compiles, a new version may have been installed over the one that was imported.
SOURCE = source_of(Path(__file__).parent)


def fingerprint(source: bytes = SOURCE) -> str:
    """What compiled code depends on, as 16 hex digits."""
    versions = (platform.python_version(), numba.__version__, llvmlite.__version__, np.__version__)
    processor = (llvm.get_host_cpu_name(), llvm.get_process_triple(), llvm.get_host_cpu_features().flatten())
    return hashlib.sha256(source + repr((versions, processor, target(), unit())).encode()).hexdigest()[:16]


@cache
def cache_folder() -> Path | None:
    """Where compiled kernels of this version go; None where nothing can be written."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no home folder
        kernels = user_cache() / "kernels"
        folder = kernels / fingerprint()
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        _drop_old(kernels)
        if os.access(folder, os.W_OK):
            return folder
    with contextlib.suppress(OSError):
        # The name holds the user's number, and the folder must be theirs: nobody else's code is ever loaded.
        owner = os.getuid() if hasattr(os, "getuid") else 0
        folder = Path(tempfile.gettempdir()) / f"tinyldm-{owner}-{fingerprint()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if not hasattr(os, "getuid") or folder.lstat().st_uid == owner:
            return folder
    return None


def _drop_old(kernels: Path) -> None:
    """Delete the caches longest unused; whatever else lies there has another kind of name, and stays."""
    used: dict[Path, float] = {}
    for path in kernels.iterdir():
        if re.fullmatch("[0-9a-f]{16}", path.name):
            with contextlib.suppress(OSError):  # another process may be dropping it too
                used[path] = path.stat().st_mtime
    for path in sorted(used, key=lambda path: -used[path])[KEPT_FOLDERS:]:
        shutil.rmtree(path, ignore_errors=True)


class FileCache(_Cache):
    """Numba's cache protocol for a kernel of one signature: one file holds its machine code."""

    def __init__(self, name: str) -> None:
        folder = cache_folder()
        self.name = name
        self.path = None if folder is None else folder / f"{name}.bin"

    @property
    def cache_path(self) -> str | None:
        """The file, as a string."""
        return None if self.path is None else str(self.path)

    def digest(self, code: bytes) -> bytes:
        """What the file must begin with."""
        return hashlib.sha256(self.name.encode() + b"\0" + code).digest()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled kernel, or None if there is none yet."""
        if self.path is None or not self.path.exists():
            return None
        # All that code which is compiled needs; `target_context.refresh`, to compile some, takes ten times as long.
        rtsys.initialize(target_context)
        try:
            content = self.path.read_bytes()
            digest, code = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
            if self.digest(code) != digest:
                return None
            return compiler.CompileResult._rebuild(target_context, *pickle.loads(code))
        except Exception:  # unreadable: whatever is wrong with the file, compiling again puts it right
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write the compiled kernel under a temporary name, then rename it."""
        if self.path is None:
            return
        code = numba.core.serialize.dumps(data._reduce())
        with contextlib.suppress(OSError):  # a full disk, say: the kernel then lives in memory only
            handle, name = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
            temporary = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(self.digest(code) + code)
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)

    def enable(self) -> None:
        """Part of the protocol; the cache is always on."""

    def disable(self) -> None:
        """Part of the protocol; the cache is always on."""

    def flush(self) -> None:
        """Forget the compiled kernel."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


# What a kernel's parameters are, for Numba and for a reader: an array's axes, without gaps but where it is spaced.
Numbers = Annotated[np.ndarray, types.int64[::1]]
Words = Annotated[np.ndarray, types.uint32[::1]]
Row = Annotated[np.ndarray, types.float32[::1]]
Rows = Annotated[np.ndarray, types.float32[:, ::1]]
Images = Annotated[np.ndarray, types.float32[:, :, ::1]]
Spaced = Annotated[np.ndarray, types.float32[:, :, :]]
SpacedImages = Annotated[np.ndarray, types.float32[:, :, :, :]]
Panels = Annotated[np.ndarray, types.float32[:, :, :, ::1]]
Float64Sums = Annotated[np.ndarray, types.float64[:, :, :, ::1]]


def numba_type(annotation: Any) -> Any:
    """What Numba calls the type of a parameter: an array as above, `int`, `float` or a named tuple of those."""
    if annotation in (int, float, None, type(None)):
        return {int: types.int64, float: types.float32}.get(annotation, types.void)
    if fields := getattr(annotation, "_fields", None):
        hints = get_type_hints(annotation, include_extras=True)
        members = [numba_type(hints[name]) for name in fields]
        if len(set(members)) == 1:
            return types.NamedUniTuple(members[0], len(members), annotation)
        return types.NamedTuple(members, annotation)
    return annotation.__metadata__[0]


class Native:
    """A function that is compiled (or loaded) when it is first called, for one signature, and runs without the GIL.

    The signature is what its annotations say (`numba_type`).
    """

    first: tuple[Any, ...] = ()  # the types of arguments in front of the function's own
    _compiling = threading.RLock()

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        self.function = function
        self.__name__, self.__doc__ = name or function.__name__, function.__doc__
        # Numba makes a symbol of this name and of a number that two processes may both give: kernels of one function
        # (`matmul_kernel`), compiled by different processes and loaded by a third, would be taken for each other.
        function.__qualname__ = f"{self.__name__}.{function.__qualname__}"

    @cached_property
    def compiled(self) -> Callable[..., Any]:
        """The compiled function itself, without Numba's choice by argument types: that would refuse read-only arrays.

        The caller sees to it that arrays have the types of the signature and lie contiguous.
        """
        with self._compiling:
            if (known := self.__dict__.get("compiled")) is None:
                dispatcher = self._dispatcher()
                dispatcher._cache = FileCache(self.__name__)
                hints = get_type_hints(self.function, include_extras=True)
                result, *arguments = map(numba_type, (hints.pop("return"), *hints.values()))
                dispatcher.compile(result(*self.first, *arguments))
                known = next(iter(dispatcher.overloads.values())).entry_point
            entry: Callable[..., Any] = known
            return entry

    def _dispatcher(self) -> Any:
        return numba.njit(nogil=True, error_model="numpy")(self.function)


class Kernel(Native):
    """A function that several threads run at once: its first arguments are `counter, units, scratch` (`pool.run`).

    `compiled` takes two more in front of them: the board and the number of helpers of `fork.fork`.
    """

    first = (types.int64, types.int64)

    def _dispatcher(self) -> Any:
        name = f"{self.__name__}_on_threads"
        names = ", ".join(f"a{i}" for i in range(self.function.__code__.co_argcount))
        # Numba finds a cached function's globals by the name of its module.
        scope: dict[str, Any] = {"fork": fork, "part": super()._dispatcher(), "__name__": self.function.__module__}
        exec(f"def {name}(board, helpers, {names}): fork(part, board, helpers, ({names}))", scope)
        return numba.njit(nogil=True)(scope[name])


Stage = Callable[..., None]  # of kernels


def stage(function: Function) -> Function:
    """Make a function a stage of kernels: compiled once for all that call it."""
    return cast(Function, numba.njit(error_model="numpy", inline="always")(function))
