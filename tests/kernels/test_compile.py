"""The compile cache: found again, never stale, never fatal."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tinyldm.kernels import compile as compiling
from tinyldm.kernels.compile import Kernel, cache_folder, fingerprint, user_cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLDM_CACHE", str(tmp_path / "cache"))
    cache_folder.cache_clear()
    yield tmp_path / "cache"
    cache_folder.cache_clear()


def doubled():
    """A new kernel object each time, as in a new process."""

    def double(x):
        for i in range(len(x)):
            x[i] *= 2

    kernel = Kernel(double, "void(float32[::1])")
    x = np.arange(3, dtype=np.float32)
    kernel(x)
    return x.tolist()


def test_kernels_are_kept_in_a_folder_named_by_their_sources(folder):
    assert user_cache() == folder
    assert doubled() == [0, 2, 4]
    (file,) = folder.rglob("*.bin")
    assert file.parent.name == fingerprint()
    written = file.stat().st_mtime_ns
    assert doubled() == [0, 2, 4]
    assert file.stat().st_mtime_ns == written


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_a_broken_file_is_compiled_again(folder, content):
    doubled()
    (file,) = folder.rglob("*.bin")
    file.write_bytes(file.read_bytes()[:100] if content is None else content)
    assert doubled() == [0, 2, 4]
    assert len(file.read_bytes()) > 100


def test_any_kernel_file_changes_the_fingerprint(tmp_path, monkeypatch):
    before = fingerprint()
    copy = tmp_path / "kernels"
    shutil.copytree(Path(compiling.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(compiling, "__file__", str(copy / "compile.py"))
    assert fingerprint() == before
    for path in copy.glob("*.py"):
        text = path.read_text()
        path.write_text(text + "\n")
        assert fingerprint() != before
        path.write_text(text)


def test_old_folders_are_dropped(folder):
    for i in range(8):
        old = folder / "kernels" / f"old{i}"
        old.mkdir(parents=True)
        os.utime(old, (i, i))
    assert cache_folder().name == fingerprint()
    assert len(list((folder / "kernels").iterdir())) == compiling.KEPT_FOLDERS


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
