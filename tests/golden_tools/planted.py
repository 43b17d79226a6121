"""Bugs that ports have, to be put into a copy of the computation: each a function of the model, and of monkeypatch."""

from types import SimpleNamespace

import numpy as np

import tinyldm
from tinyldm import ops
from tinyldm.golden.rounding import rounded_network


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
    weights.bind([("mid_block.resnets.0.norm2", {"eps": 1e-2})])


def tanh_gelu(model):
    def geglu(_):
        def run(x):
            a, g = np.split(x, 2, axis=-1)
            return a * 0.5 * g * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3)))

        return run

    patch_ops(model, "unet", geglu=geglu)


def transposed_kernel(model):
    node = model.unet.weights.mid_block.resnets[1].conv1
    node._cache["weight"] = np.ascontiguousarray(node.weight.swapaxes(2, 3))


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
        for name in node.shapes:
            node._cache[name] = getattr(theirs, name)
        for key, child in node._children.items():
            give(child, theirs._children[key])

    give(ours, rounded)


def timestep_off_by_one(model, monkeypatch):
    original = type(model.unet).__call__
    monkeypatch.setattr(type(model.unet), "__call__", lambda self, z, t, context: original(self, z, t - 1, context))


# Bugs that are recognised by what they look like ----------------------------------------------------------------------


def layer_norm_epsilon(model):
    model.unet.weights.bind([("*transformer_blocks.0.norm2", {"eps": 1e-3})])


def epsilon_of_another_model(model):
    model.vae.weights.bind([("decoder.mid_block.resnets.0.norm1", {"eps": 1e-5})])


def no_causal_mask(model):
    patch_ops(
        model, "text_encoder", attention=lambda original: lambda q, k, v, heads, mask=None: original(q, k, v, heads)
    )


def quick_gelu_for_gelu(model):
    def geglu(_):
        def run(x):
            a, g = np.split(x, 2, axis=-1)
            return a * ops.quick_gelu(g)

        return run

    patch_ops(model, "unet", geglu=geglu)


def convolution(change):
    """A 3×3 convolution of stride 1 whose padded input is made by `change(x, top, bottom, left, right)`."""

    def make(original):
        def conv2d(x, weight, bias=None, *, stride=1, padding=0):
            if padding != 1 or stride != 1:
                return original(x, weight, bias, stride=stride, padding=padding)
            return original(change(x), weight, bias)

        return conv2d

    return lambda model: patch_ops(model, "vae", conv2d=make)


reflected_padding = convolution(lambda x: np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect"))
padding_below_and_right = convolution(lambda x: np.pad(x, ((0, 0), (0, 2), (0, 2), (0, 0))))


def bias_left_out(model):
    node = model.unet.weights.conv_in
    node._cache["bias"] = node.bias * 0


def cut_off_to_bfloat16(x):
    return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(x.dtype)


def truncated_bfloat16(model):
    patch_ops(model, "unet", silu=lambda original: lambda x: cut_off_to_bfloat16(original(x)))
