"""The same bytes from run to run, for any number of threads, and from several callers at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

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


@pytest.mark.parametrize("precision", ["fast", "strict"])
def test_threads_and_runs(precision, monkeypatch):
    monkeypatch.setattr(pool, "WORTH_A_THREAD", 0)
    results = []
    for threads in (1, 2, 4, 1):
        with kernels.using_threads(threads):
            assert kernels.threads() == threads
            results.append(b"".join(y.tobytes() for y in _pipeline(precision)))
    assert len(set(results)) == 1


def test_several_callers_at_once(monkeypatch):
    monkeypatch.setattr(pool, "WORTH_A_THREAD", 0)
    with kernels.using_threads(2), ThreadPoolExecutor(3) as callers:
        results = callers.map(lambda _: b"".join(y.tobytes() for y in _pipeline("fast")), range(6))
        assert len(set(results)) == 1


def test_threads_must_be_positive():
    with pytest.raises(InputError, match="at least 1"):
        kernels.set_threads(0)
