"""Eight bugs that ports have, put into a copy of the computation: the tool names the module that has the bug."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import special

import tinyldm
from tinyldm import ops
from tinyldm.golden.compare import compare
from tinyldm.golden.rounding import rounded_network
from tinyldm.golden.tolerance import AutoTolerance

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"


@pytest.fixture
def model(checkpoint):
    return tinyldm.load(checkpoint, backend="reference", dtype="float64")


def patch_ops(model, component, **changes):
    """Give one component operators of its own."""
    weights = getattr(model, component).weights
    own = SimpleNamespace(**{name: getattr(ops, name) for name in ops.__all__})
    for name, make in changes.items():
        setattr(own, name, make(getattr(ops, name)))
    runtime = tinyldm.runtime.Runtime("reference", np.float64, operators=own)

    def give(node):
        node.runtime = runtime
        for child in node._children.values():
            give(child)

    give(weights)


def wrong_epsilon(model):
    weights = model.unet.weights
    weights.rules.append(("mid_block.resnets.0.norm2", {"eps": 1e-2}))


def tanh_gelu(model):
    def geglu(_):
        def run(x):
            a, g = np.split(x, 2, axis=-1)
            return a * 0.5 * g * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3)))

        return run

    patch_ops(model, "unet", geglu=geglu)


def transposed_kernel(model):
    node = model.unet.weights.mid_block.resnets[1].conv1
    node._cache["weight"] = np.ascontiguousarray(node.array("weight").swapaxes(2, 3))


def skip_off_by_one(model, monkeypatch):
    from tinyldm.models import unet

    original = unet.up_block.__wrapped__

    @tinyldm.tracing.module
    def up_block(x, skips, temb, context, w):
        if w.path == "up_blocks.1":
            skips.insert(-1, skips.pop())  # the last two in each other's place: both have the same shape
        return original(x, skips, temb, context, w)

    monkeypatch.setattr(unet, "up_block", up_block)


def missing_scaling_factor(model, monkeypatch):
    monkeypatch.setattr(type(model.vae), "unscale", lambda self, z: z)


def wrong_head_size(model):
    def attention(original):
        def run(q, k, v, heads, mask=None):
            return original(q, k, v, heads, mask, scale=1 / np.sqrt(q.shape[-1]))

        return run

    patch_ops(model, "unet", attention=attention)


def half_in_one_block(model):
    rounded = rounded_network(model.unet, "float16").weights.mid_block.resnets[0]
    ours = model.unet.weights.mid_block.resnets[0]
    runtime = rounded.runtime

    def give(node, theirs):
        node.runtime = runtime
        node._cache = {}
        for name in node._leaves:
            node._cache[name] = theirs.array(name)
        for key, child in node._children.items():
            give(child, theirs._children[key])

    give(ours, rounded)


def timestep_off_by_one(model, monkeypatch):
    original = type(model.unet).__call__
    monkeypatch.setattr(type(model.unet), "__call__", lambda self, z, t, context: original(self, z, t - 1, context))


BUGS = {
    wrong_epsilon: "0000/unet/mid_block.resnets.0.norm2",
    tanh_gelu: f"0000/unet/{BLOCK}.ff.net.0",
    transposed_kernel: "0000/unet/mid_block.resnets.1.conv1",
    skip_off_by_one: "0000/unet/up_blocks.1",
    missing_scaling_factor: "0000/vae:decode.z",
    wrong_head_size: f"0000/unet/{BLOCK}.attn1",
    half_in_one_block: "0000/unet/mid_block.resnets.0.nonlinearity#2",
    timestep_off_by_one: "0000/unet:t",
}
HINTS = {missing_scaling_factor: "scaling_factor"}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_the_module_with_the_bug_is_named(bug, model, oracle, run, monkeypatch):
    bug(*[model, monkeypatch][: bug.__code__.co_argcount])
    with run(model) as candidate:
        found = compare(oracle, candidate)
        assert found.status == 1
        assert found.culprit == BUGS[bug]
        assert HINTS.get(bug, "") in (found.first.hint or "")
        oracle.inputs = {}  # what if no inputs were recorded: the first wrong tensor is in that module
        found = compare(oracle, candidate)
        assert found.status == 1
        assert found.culprit.startswith(BUGS[bug])


def test_without_a_bug_there_is_nothing_to_name(model, oracle, run):
    with run(model) as candidate:
        assert compare(oracle, candidate).status == 0


def test_float32_passes_the_tolerance_of_float32_and_not_that_of_float64(checkpoint, oracle, run):
    with run(tinyldm.load(checkpoint, backend="reference")) as candidate:
        assert compare(oracle, candidate, AutoTolerance(oracle, "float32")).status == 0
        assert compare(oracle, candidate, AutoTolerance(oracle, "float16")).status == 0
        assert compare(oracle, candidate, AutoTolerance(oracle, "float32", factor=0.01)).status == 1


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_every_bug_stands_out_at_the_automatic_tolerance(bug, model, oracle, run, monkeypatch):
    bug(*[model, monkeypatch][: bug.__code__.co_argcount])
    with run(model) as candidate:
        found = compare(oracle, candidate, AutoTolerance(oracle, "float32"))
        assert found.status == 1
        assert found.culprit == BUGS[bug]


def test_gelu_is_the_exact_one():
    x = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(ops.gelu(x), x * (1 + special.erf(x / np.sqrt(2))) / 2)
