"""The compile cache: found again, never stale, never fatal."""

import gc
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llvmlite.binding import FeatureMap

from tinyldm.kernels import compile as compiling
from tinyldm.kernels import matmul, packing
from tinyldm.kernels.compile import Native, Row, cache_folder, fingerprint, source_of, user_cache
from tinyldm.kernels.simd import TARGETS, WIDENED, target, unit


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLDM_CACHE", str(tmp_path / "cache"))
    cache_folder.cache_clear()
    yield tmp_path / "cache"
    cache_folder.cache_clear()


def doubled():
    """A new kernel object each time, as in a new process."""

    def double(x: Row) -> None:
        for i in range(len(x)):
            x[i] *= 2

    kernel = Native(double)
    x = np.arange(3, dtype=np.float32)
    kernel.compiled(x)
    return x.tolist()


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="variables of other systems")
def test_where_the_cache_is(monkeypatch, tmp_path):
    """An empty variable must not put the cache into whatever folder the command is run in."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for named, xdg, wanted in (
        ("/a", "/b", Path("/a")),
        (None, "/b", Path("/b/tinyldm")),
        ("", "/b", Path("/b/tinyldm")),
        ("", "", tmp_path / ".cache" / "tinyldm"),
        (None, None, tmp_path / ".cache" / "tinyldm"),
    ):
        for name, value in (("TINYLDM_CACHE", named), ("XDG_CACHE_HOME", xdg)):
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        assert user_cache() == wanted


def test_kernels_are_kept_in_a_folder_named_by_their_sources(folder):
    assert user_cache() == folder
    assert doubled() == [0, 2, 4]
    (file,) = folder.rglob("*.bin")
    assert file.parent.name == fingerprint()
    written = file.stat().st_mtime_ns
    assert doubled() == [0, 2, 4]
    assert file.stat().st_mtime_ns == written


def one_bit_off(content):
    """In the machine code: such a file still unpickles, and may end the process, or compute something else."""
    place = len(content) // 4
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES = {
    "nothing": lambda content: b"",
    "junk": lambda content: b"junk",
    "truncated": lambda content: content[:-100],
    "zeros": lambda content: bytes(len(content)),
    "one bit": one_bit_off,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_file_is_compiled_again(folder, damage):
    doubled()
    (file,) = folder.rglob("*.bin")
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert doubled() == [0, 2, 4]
    digest, code = file.read_bytes()[:32], file.read_bytes()[32:]
    assert hashlib.sha256(b"double\0" + code).digest() == digest


def test_the_file_of_another_kernel(folder):
    def treble(x: Row, y: Row) -> None:
        for i in range(len(x)):
            x[i] = 3 * y[i]

    doubled()
    (file,) = folder.rglob("*.bin")
    x, y = np.zeros(3, np.float32), np.arange(3, dtype=np.float32)
    Native(treble).compiled(x, y)
    (other,) = {*folder.rglob("*.bin")} - {file}
    other.replace(file)
    assert doubled() == [0, 2, 4]


def test_a_folder_in_the_place_of_a_file(folder):
    doubled()
    (file,) = folder.rglob("*.bin")
    file.unlink()
    file.mkdir()
    assert doubled() == [0, 2, 4]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_full_disk_leaves_nothing_half_written(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiling.Path, "replace", full)
    assert doubled() == [0, 2, 4]
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_any_kernel_file_changes_the_fingerprint(tmp_path):
    copy = tmp_path / "kernels"
    shutil.copytree(Path(compiling.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert fingerprint(source_of(copy)) == fingerprint()
    for path in copy.glob("*.py"):
        text = path.read_text()
        path.write_text(text + "\n")
        assert fingerprint(source_of(copy)) != fingerprint()
        path.write_text(text)


CHANGES = {
    "processor": (compiling.llvm, "get_host_cpu_name", lambda: "another"),
    "features": (compiling.llvm, "get_host_cpu_features", lambda: FeatureMap(avx2=True)),
    "vectors": (compiling, "target", lambda: next(shape for shape in TARGETS.values() if shape is not target())),
    "Numba": (compiling.numba, "__version__", "0.0"),
    "llvmlite": (compiling.llvmlite, "__version__", "0.0"),
    "NumPy": (compiling.np, "__version__", "0.0"),
    "Python": (compiling.platform, "python_version", lambda: "0.0"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_machine_or_version_has_another_fingerprint(change, monkeypatch):
    before = fingerprint()
    monkeypatch.setattr(*CHANGES[change])
    assert fingerprint() != before


def test_a_folder_in_use_is_not_an_old_one(folder):
    own = folder / "kernels" / fingerprint()
    own.mkdir(parents=True)
    (own / "a.bin").write_text("")
    for i, path in enumerate([own, *(folder / "kernels" / f"{i:016x}" for i in range(8))]):
        path.mkdir(exist_ok=True)
        os.utime(path, (i, i))
    assert cache_folder() == own
    assert (own / "a.bin").exists()


def test_old_folders_are_dropped(folder):
    for i in range(8):
        old = folder / "kernels" / f"{i:016x}"
        old.mkdir(parents=True)
        os.utime(old, (i, i))
    assert cache_folder().name == fingerprint()
    kept = {path.name for path in (folder / "kernels").iterdir()}
    assert kept == {fingerprint(), *(f"{i:016x}" for i in (5, 6, 7))}
    assert len(kept) == compiling.KEPT_FOLDERS


def test_what_else_lies_there_stays(folder):
    """TINYLDM_CACHE may name a folder that has another use too."""
    for i in range(8):
        (folder / "kernels" / f"mine{i}").mkdir(parents=True)
    (folder / "kernels" / "mine.txt").write_text("")
    assert cache_folder().name == fingerprint()
    assert len(list((folder / "kernels").iterdir())) == 10


def test_a_folder_that_another_process_drops_meanwhile(folder, monkeypatch):
    gone = folder / "kernels" / f"{0:016x}"
    real = compiling.Path.iterdir
    monkeypatch.setattr(compiling.Path, "iterdir", lambda path: [gone, *real(path)])
    assert cache_folder() == folder / "kernels" / fingerprint()


def test_without_a_writable_folder(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("TINYLDM_CACHE", str(blocked))  # a file: no folder can be made in it
    for temporary in (tmp_path, blocked):
        monkeypatch.setattr(compiling.tempfile, "gettempdir", lambda temporary=temporary: str(temporary))
        cache_folder.cache_clear()
        assert doubled() == [0, 2, 4]
        assert (cache_folder() is None) == (temporary == blocked)
    cache_folder.cache_clear()


# In processes of their own: a copy of the package, as it would be installed -------------------------------------------

ACTIVATE = """
import numpy as np
from tinyldm import kernels
print(kernels.silu(np.linspace(-3, 3, 100, dtype=np.float32)).tobytes().hex()[:64])
"""


@pytest.fixture
def installed(tmp_path):
    """A copy of the package in a folder of its own."""
    package = Path(compiling.__file__).parents[1]
    shutil.copytree(package, tmp_path / "site" / "tinyldm", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "site"


def start(site, cache, code=ACTIVATE):
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", "TINYLDM_CACHE": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        cwd=site,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert errors == ""
    return out


def test_first_runs_at_the_same_time(installed, tmp_path):
    outputs = {finished(process) for process in [start(installed, tmp_path / "cache") for _ in range(3)]}
    assert len(outputs) == 1
    files = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert files == ["activation_kernel.bin"]  # and nothing half written


def test_an_install_that_can_not_be_written(installed, tmp_path):
    """Everything read-only, as root too: the package is not written to, the caches can't be."""
    before = {path: path.stat().st_mtime_ns for path in installed.rglob("*")}
    first = finished(start(installed, tmp_path / "cache"))
    blocked = tmp_path / "file"
    blocked.write_text("")
    nowhere = f"import tempfile; tempfile.tempdir = {str(blocked)!r}\n"
    assert finished(start(installed, blocked, nowhere + ACTIVATE)) == first
    assert {path: path.stat().st_mtime_ns for path in installed.rglob("*")} == before


def test_a_change_in_a_file_that_a_kernel_is_made_of(installed, tmp_path):
    """The formula of SiLU is not in the file of the kernel that computes it."""
    once = finished(start(installed, tmp_path / "cache"))
    assert finished(start(installed, tmp_path / "cache")) == once
    formulas = installed / "tinyldm" / "kernels" / "formulas.py"
    stat, text = formulas.stat(), formulas.read_text()
    changed = text.replace("x / (exp(lanes, -x) + 1.0)", "x / (exp(lanes, -x) + 2.0)")
    assert changed != text
    formulas.write_text(changed)
    os.utime(formulas, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # not even the time stamp tells
    assert finished(start(installed, tmp_path / "cache")) != once
    formulas.write_text(text)
    assert finished(start(installed, tmp_path / "cache")) == once


def test_the_second_run_compiles_nothing(installed, tmp_path):
    finished(start(installed, tmp_path / "cache"))
    refuse = """
import numba.core.compiler as compiler
def refuse(*_, **__):
    raise AssertionError("compiled again")
compiler.compile_extra = refuse
"""
    finished(start(installed, tmp_path / "cache", refuse + ACTIVATE))
    compiles = "import numba; assert numba.njit(lambda x: len([x]))(1) == 1"  # what others' code may ask for
    finished(start(installed, tmp_path / "cache", ACTIVATE + compiles))
    failed = start(installed, tmp_path / "other", refuse + ACTIVATE)
    failed.communicate()
    assert failed.returncode != 0


def test_every_kernel_has_a_name_of_its_own_for_numba():
    """Those that one function makes too: Numba's own number for them may be the same in two processes."""
    kernels = [k.function for k in gc.get_objects() if issubclass(type(k), Native)]
    names = [f.__qualname__ for f in kernels if f.__module__ == matmul.__name__]
    assert len(names) >= 3
    assert len(set(names)) == len(names)


FORMS = """
import sys
import numpy as np
from tinyldm import kernels
from tinyldm.kernels import packing
x = np.array([[1e-40]], np.float32)  # zero for a unit of pairs, and not when it is widened
for form in sys.argv[1:]:
    print(bool(kernels.linear(x, packing.pack_weight(np.ones((1, 1), np.float32), form=int(form)))[0, 0]))
"""


@pytest.mark.slow
@pytest.mark.skipif(unit() == WIDENED, reason="needs a processor that multiplies pairs")
def test_kernels_of_one_function_do_not_stand_in_for_each_other(folder):
    """Compiled by a process each, loaded by a third."""

    def run(*forms):
        words = [sys.executable, "-c", FORMS, *map(str, forms)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()

    assert run(packing.HALVES) == ["True"]
    assert run(packing.PAIRS) == ["False"]
    assert run(packing.HALVES, packing.PAIRS) == ["True", "False"]
