"""A run that needs more memory than there is: refused before it begins, and told what would do."""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyldm
from tinyldm import cli, kernels, memory
from tinyldm.kernels import buffers
from tinyldm.ops import attention

ROOT = Path(cli.__file__).parents[1]


def test_refused_with_a_way_out(run, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = ("sample", "x", "-o", "a.png", "--steps", "1")
    needed = memory.expected_bytes(tinyldm.load(run_checkpoint(run), backend="reference"), 8, 8)
    lower = memory.expected_bytes(tinyldm.load(run_checkpoint(run), backend="reference"), 8, 8, low_memory=True)
    assert lower < needed
    monkeypatch.setattr(memory, "available_bytes", lambda: needed - 1)
    status, _, err = run(*sampled)
    assert status == 2
    assert err.startswith("tinyldm: error: 1 picture of 16×16: about ")
    assert "; with --low-memory it takes about " in err
    assert err.endswith("or try it all the same with --force\n")
    assert not Path("a.png").exists()
    assert run(*sampled, "--low-memory")[0] == 0
    monkeypatch.setattr(memory, "available_bytes", lambda: 1)
    status, _, err = run(*sampled)
    assert (status, "take a smaller size" in err, "--low-memory" in err) == (2, True, False)
    assert run(*sampled, "--force")[0] == 0
    for available in (needed, None):
        monkeypatch.setattr(memory, "available_bytes", lambda available=available: available)
        assert run(*sampled)[0] == 0


def run_checkpoint(run) -> str:
    """The checkpoint that `run` takes."""
    return run("info")[1].splitlines()[0]


def test_encode_and_decode_are_refused_too(run, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (16, 16)).save("a.png")
    assert run("encode", "a.png")[0] == 0
    monkeypatch.setattr(memory, "available_bytes", lambda: 1)
    for words in (("encode", "a.png"), ("decode", "a.safetensors", "-o", "b.png")):
        status, _, err = run(*words)
        assert (status, "1 B are available" in err) == (2, True)
        assert run(*words, "--force")[0] == 0


@pytest.mark.parametrize("tile", [None, 16])
def test_the_decoder_takes_what_is_expected(tile: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tinyldm.load()
    vae = model.vae if tile is None else model.tiled(tile).vae
    monkeypatch.setattr(buffers, "SMALLEST", math.inf)  # NumPy's own memory, which can be traced
    z = np.random.default_rng(0).standard_normal((1, 4, 96, 96)).astype(np.float32)
    with kernels.using_threads(1):
        vae.decode(z)
        tracemalloc.start()
        vae.decode(z)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak / 4 == pytest.approx(memory.decoder_numbers(vae, 96, 96), rel=0.35)


def test_tiles_where_they_suffice(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large picture whose decoder alone takes too much is decoded in tiles, which is said, and is the same."""
    Image.effect_mandelbrot((128, 128), (-2, -1.5, 1, 1.5), 50).convert("RGB").save("a.png")
    assert run("encode", "a.png")[0] == 0
    assert run("decode", "a.safetensors", "-o", "whole.png")[0] == 0
    model = tinyldm.load(run_checkpoint(run), backend="reference")
    needed, tiled = (memory.expected_bytes(m, 64, 64, denoises=False) for m in (model, model.tiled()))
    assert tiled < needed
    monkeypatch.setattr(memory, "available_bytes", lambda: needed - 1)
    for words in (("encode", "a.png"), ("decode", "a.safetensors", "-o", "tiled.png")):
        status, _, err = run(*words)
        assert (status, "note: " in err, "the autoencoder computes in tiles, since memory is short" in err) == (
            0,
            True,
            True,
        )
    assert np.abs(np.asarray(Image.open("whole.png"), int) - np.asarray(Image.open("tiled.png"), int)).max() <= 1
    monkeypatch.setattr(memory, "available_bytes", lambda: tiled - 1)
    assert run("decode", "a.safetensors")[0] == 2
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    for words in (["--vae-tiling"], ["--vae-tile", "16"]):
        assert run("decode", "a.safetensors", "-o", "asked.png", *words)[0] == 0
        assert np.array_equal(Image.open("asked.png"), Image.open("tiled.png"))
    status, _, err = run("decode", "a.safetensors", "--vae-tile", "3")
    assert (status, "tile must be a multiple of 2 rows of pixels, not 3" in err) == (2, True)


def test_a_resized_picture_larger_than_the_memory(run) -> None:
    Image.new("RGB", (16, 16)).save("a.png")
    for words in (["encode", "a.png"], ["img2img", "x", "--image", "a.png"]):
        status, _, err = run(*words, "--width", "3000000", "--height", "3000000")
        assert (status, err.count("\n")) == (2, 1)
        assert "3000000×3000000 is larger than the memory" in err


def test_scores_of_the_reference(checkpoint: Path) -> None:
    """The kernels never have them as a whole; here are as many as the operator really holds."""
    kernels, reference = (tinyldm.load(checkpoint, backend=backend) for backend in ("numba", "reference"))
    more = memory.expected_bytes(reference, 64, 64) - memory.expected_bytes(kernels, 64, 64)
    assert more == 4 * 4 * 4096**2

    tracemalloc.start()
    q = np.ones((1, 1024, 8), np.float32)
    attention(q, q, q, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak == pytest.approx(4 * 4 * 1024**2, rel=0.15)


def test_a_picture_of_gigantic_size(run) -> None:
    status, _, err = run("sample", "x", "--width", "2000000", "--height", "2000000")
    assert status == 2
    assert err.count("\n") == 1
    assert "GB are available" in err


@pytest.mark.skipif(sys.platform != "linux", reason="control groups and ulimit of Linux")
def test_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    available, machine = memory.available_bytes(), memory.machine_bytes()
    assert available is not None
    assert machine is not None
    assert 0 < available <= machine + (memory.free_bytes() or 0)
    monkeypatch.setattr(memory, "container_bytes", lambda: 12345)
    assert memory.available_bytes() == 12345
    monkeypatch.setattr(memory, "address_limit", lambda: memory.LIBRARIES_BYTES + 77)
    assert memory.available_bytes() == 77


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit of Linux")
@pytest.mark.parametrize("kilobytes", [100_000, 250_000, 400_000, 450_000])
def test_a_limit_that_is_too_low_for_the_libraries(kilobytes: int, tmp_path: Path) -> None:
    """Below it they answer with tracebacks, an abort, or not at all."""
    command = f"ulimit -v {kilobytes}; exec {sys.executable} -m tinyldm sample x -o {tmp_path}/a.png"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("tinyldm: error: the limit on memory (ulimit -v) is ")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 147. TiB"),
        ImportError("libscipy_openblas.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
    ids=repr,
)
def test_memory_that_the_system_refuses_is_one_line(run, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(tinyldm.LatentDiffusion, "pictures", refuse)
    status, _, err = run("sample", "x", "-o", "c.png")
    assert status == 2
    last = err.splitlines()[-1]
    assert last.startswith("tinyldm: error: not enough memory: ")
    assert last.endswith("; take fewer or smaller pictures, or --low-memory")
    assert ": ;" not in last
