"""The same bytes from run to run, for any number of threads, and from several callers at once."""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from golden.kernels.cases import CASES, arrays, call, prepared

import tinyldm
from tinyldm import kernels
from tinyldm.errors import InputError
from tinyldm.kernels import pool


def _pipeline(precision):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    x = normal(2, 23, 21, 48)
    filters = kernels.prepare_conv2d(normal(48, 48, 3, 3) / 20, precision=precision)
    gain, bias = normal(48), normal(48)
    h = kernels.norm_silu_conv2d(x, gain, bias, 8, 1e-5, filters, bias, shift=normal(2, 48), residual=x)
    up = kernels.prepare_upsample_conv2d(normal(24, 48, 3, 3) / 20, precision)
    up = kernels.upsample_conv2d(h, up, None)
    tokens = kernels.layer_norm(h.reshape(2, -1, 48), gain, bias, 1e-5)
    q, k, v = (kernels.linear(tokens, normal(48, 48)) for _ in range(3))
    tokens = kernels.attention(q, k, v, 3)
    return [up, kernels.linear_geglu(tokens, normal(192, 48)), kernels.gelu(tokens)]


@pytest.mark.parametrize("precision", ["fast", "strict", "bf16"])
def test_threads_and_runs(precision, monkeypatch):
    monkeypatch.setattr(pool, "WORTH_A_THREAD", 0)
    results = []
    for threads in (1, 2, 4, 1):
        with kernels.using_threads(threads):
            assert kernels.threads() == threads
            results.append(b"".join(y.tobytes() for y in _pipeline(precision)))
    assert len(set(results)) == 1


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["fast", "strict", "bf16"])
def test_every_operator(case, precision, monkeypatch):
    """`test_accuracy.py` sees to it that every operator that rounds has a case; the others copy."""
    monkeypatch.setattr(pool, "WORTH_A_THREAD", 0)
    inputs = prepared(case, arrays(case), precision)
    results = set()
    for threads in (1, 2, 4, 1):
        with kernels.using_threads(threads):
            results.add(call(kernels, case, inputs).tobytes())
    assert len(results) == 1


def _networks(model):
    """What each network of the embedded checkpoint makes of fixed inputs."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2, 4, 16, 12)).astype(np.float32)
    context = model.text_encoder(model.tokenizer.encode(["red apple", ""]))
    epsilon = model.unet(z, 321, model.unet.prepare(context))
    pixels = model.vae.decode(z[:1])
    return {
        "text encoder": context,
        "UNet": epsilon,
        "decoder": pixels,
        "encoder": model.vae.encode(np.tanh(pixels))[0],
    }


@pytest.mark.parametrize("precision", ["fast", "strict", "bf16"])
def test_whole_networks(precision, monkeypatch):
    monkeypatch.setattr(pool, "WORTH_A_THREAD", 0)
    results = []
    for threads in (1, 2, 4, 1):
        with kernels.using_threads(threads):
            results.append(_networks(tinyldm.load(precision=precision)))
    for other in results[1:]:
        for name, y in results[0].items():
            assert y.tobytes() == other[name].tobytes(), name


PROCESS = """
import hashlib, sys
sys.path[:0] = ["tests", "tests/kernels"]
import tinyldm
from test_determinism import _networks, digest
print(digest(_networks(tinyldm.load(threads=int(sys.argv[1])))))
"""


def digest(found):
    return hashlib.sha256(b"".join(y.tobytes() for y in found.values())).hexdigest()


def test_another_process():
    """Other addresses, another hash seed, another number of threads: the same bytes."""
    root = Path(__file__).parents[2]
    for threads in ("1", "3"):
        done = subprocess.run(
            [sys.executable, "-c", PROCESS, threads], capture_output=True, text=True, cwd=root, check=True
        )
        assert done.stdout.strip() == digest(_networks(tinyldm.load()))


@pytest.mark.parametrize("precision", ["fast", "strict", "bf16"])
def test_where_arrays_lie(precision):
    """Arrays that begin anywhere in memory, on no vector's and no cache line's boundary."""

    def moved(x, offset):
        raw = np.empty(x.size + offset, np.float32)
        raw[offset:] = x.reshape(-1)
        return raw[offset:].reshape(x.shape)

    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, 13, 11, 37), (29, 37, 3, 3), (29,)))
    filters = kernels.prepare_conv2d(w, precision=precision)
    tokens, matrix = x.reshape(1, -1, 37), kernels.prepare_linear(w[..., 0, 0])

    def everything(offset):
        image, row = moved(x, offset), moved(tokens, offset)
        convolved = kernels.conv2d(image, filters, moved(b, offset), padding=1)
        return [convolved, kernels.linear(row, matrix), kernels.attention(row, row, row, 1), kernels.silu(row)]

    first = everything(0)
    for offset in (1, 3, 5):
        for y, other in zip(first, everything(offset), strict=True):
            np.testing.assert_array_equal(y, other)


def test_several_callers_at_once(monkeypatch):
    monkeypatch.setattr(pool, "WORTH_A_THREAD", 0)
    with kernels.using_threads(2), ThreadPoolExecutor(3) as callers:
        results = callers.map(lambda _: b"".join(y.tobytes() for y in _pipeline("fast")), range(6))
        assert len(set(results)) == 1


def test_threads_must_be_positive():
    with pytest.raises(InputError, match="at least 1"):
        kernels.set_threads(0)
