"""A trace and a number of threads belong to a run; a network's arithmetic is replaced by building it again."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tinyldm
from tinyldm import golden, ops, tracing
from tinyldm.architectures import RandomWeights
from tinyldm.errors import CheckpointError
from tinyldm.models.build import rebuilt
from tinyldm.runtime import Runtime


def pictures(model: tinyldm.LatentDiffusion) -> list[bytes]:
    return [p.tobytes() for p in model.text_to_image("red apple", steps=4, seed=3)]


def traced(model: tinyldm.LatentDiffusion) -> dict[str, bytes]:
    with golden.trace() as found:
        pictures(model)
    return {key: array.tobytes() for key, array in found.items()}


def test_two_threads_with_two_models_each_give_what_they_give_alone(checkpoint: Path) -> None:
    """One model on one thread of the processor, traced; one on two, not traced; each several times over."""
    first, second = (tinyldm.load(checkpoint, backend="numba", threads=n) for n in (1, 2))
    alone = traced(first), pictures(second)
    found: tuple[list[dict[str, bytes]], list[list[bytes]]] = ([], [])
    asked: tuple[set[int], set[int]] = (set(), set())
    start = threading.Barrier(2)

    def run(i: int) -> None:
        start.wait(60)
        for _ in range(4):
            if i == 0:
                found[0].append(traced(first))
            else:
                found[1].append(pictures(second))
            asked[i].add((first, second)[i].runtime.ops.threads())

    threads = [threading.Thread(target=run, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ([alone[0]] * 4, [alone[1]] * 4)
    assert asked == ({1}, {2})


def test_a_runtime_leaves_the_threads_of_others_alone(checkpoint: Path) -> None:
    from tinyldm import kernels

    before = kernels.threads()
    model = tinyldm.load(checkpoint, backend="numba", threads=before + 3)
    pictures(model)
    assert model.runtime.ops.threads() == before + 3
    assert kernels.threads() == before


def test_a_network_is_rebuilt_with_other_operators(checkpoint: Path) -> None:
    """A twin computes with what it is given and the network as before; operators see every call, of composites too."""
    model = tinyldm.load(checkpoint, backend="reference", dtype="float64")
    z, context = np.ones((1, 4, 8, 8)), np.ones((1, 16, 16))
    plain = model.unet(z, 500, context)
    own = SimpleNamespace(**{name: getattr(ops, name) for name in ops.__all__})
    own.attention = lambda q, k, v, heads, mask=None: np.zeros((*q.shape[:2], v.shape[2]))
    twin = rebuilt(model.unet, Runtime("reference", "float64", operators=own))
    assert np.abs(twin(z, 500, context) - plain).max() > 1e-3
    np.testing.assert_array_equal(model.unet(z, 500, context), plain)
    assert type(twin) is type(model.unet)
    assert twin.config == model.unet.config
    assert twin.parameters == model.unet.parameters


def test_a_network_is_rebuilt_from_another_source(checkpoint: Path) -> None:
    model = tinyldm.load(checkpoint, backend="reference")
    model.text_encoder.name = "text_encoder_2"
    twin = rebuilt(model.text_encoder, model.runtime, RandomWeights(model.text_encoder.parameters))
    assert twin.name == "text_encoder_2"
    assert np.abs(twin(np.zeros((1, 4), int)) - model.text_encoder(np.zeros((1, 4), int))).max() > 1e-3
    with pytest.raises(CheckpointError, match="needs the weight"):
        rebuilt(model.unet, model.runtime, RandomWeights(model.text_encoder.parameters))


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_composite_that_is_taken_apart_gives_what_it_gives_whole(checkpoint: Path, backend: str) -> None:
    """And every part is there: a residual block's activations are counted in the order of the original."""
    model = tinyldm.load(checkpoint, backend=backend)
    z, context = np.random.default_rng(0).standard_normal((1, 4, 8, 8)), np.ones((1, 16, 16))
    whole = model.unet(z, 500, context)
    with tracing.trace() as trace:
        apart = model.unet(z, 500, context)
    np.testing.assert_allclose(apart, whole, atol=1e-5 * np.abs(whole).max())
    block = "up_blocks.0.resnets.1"
    layers = [path.removeprefix(f"{block}.") for path in trace if path.startswith(f"{block}.")]
    assert sorted(layers) == sorted(
        "norm1 nonlinearity conv1 nonlinearity#2 time_emb_proj norm2 nonlinearity#3 conv2 conv_shortcut".split()
    )
    norm, after = trace[f"{block}.norm2"], trace[f"{block}.nonlinearity#3"]
    np.testing.assert_allclose(after, norm / (1 + np.exp(-norm)), atol=1e-5)
