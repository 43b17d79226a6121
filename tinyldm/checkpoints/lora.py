r"""LoRA: small matrices that change a model's weights, merged into them as they are read.

$$W' = W + s \cdot \frac{\alpha}{r} \, B A$$

with $A$ of $r$ rows ("down"), $B$ of $r$ columns ("up"), and a scale $s$ that the user chooses. Source: Hu et al. 2021,
arXiv:2106.09685, section 4.1. Of a convolution, $A$ has the kernel and $B$ is 1×1.

Files name the layers in several ways: as `kohya-ss/sd-scripts` does (`lora_unet_down_blocks_0_…`, dots become
underscores, and for Stable Diffusion XL the original layout's names), as PEFT does (`unet.….lora_A.weight`), and as
diffusers did before (`unet.….processor.to_q_lora.down.weight`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from tinyldm.checkpoints.base import ChangedSource, TensorSource, quoted
from tinyldm.checkpoints.families import Heads
from tinyldm.checkpoints.names.unet import unet_links
from tinyldm.errors import CheckpointError

# What stands behind a layer's name: for A, for B, for alpha.
PARTS = {
    "down": re.compile(r"[._]lora(?:_linear_layer)?[._](?:down|A)(?:\.default)?\.weight$"),
    "up": re.compile(r"[._]lora(?:_linear_layer)?[._](?:up|B)(?:\.default)?\.weight$"),
    "alpha": re.compile(r"(?:_lora)?\.alpha$"),
}
COMPONENTS = {
    "lora_unet_": "unet",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
    "unet.": "unet",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
    "base_model.model.": "unet",
}
# Other adapters that files with such names hold: they are not sums of this kind.
OTHER_KINDS = ("dora_scale", "lora_magnitude_vector", "hada_", "lokr_", "lora_mid", "oft_", "diff")


@dataclass
class Strength:
    """How strongly a LoRA is applied, $s$ above; whoever reads a weight after a change gets the changed one."""

    value: float = 1.0


@dataclass(frozen=True)
class Delta:
    """What is added to one weight: `strength · factor · up · down`, read from the adapter's file with the weight."""

    file: TensorSource
    down: str
    up: str
    factor: float
    strength: Strength

    def added(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """The change of a weight of a shape."""
        down, up = self.file.read(self.down, dtype), self.file.read(self.up, dtype)
        product: np.ndarray = up.reshape(up.shape[0], -1) @ down.reshape(down.shape[0], -1)
        product *= product.dtype.type(self.strength.value * self.factor)
        return product.reshape(shape)


class LoraSource(ChangedSource):
    """A view of a component with a LoRA merged into it: `{canonical name: change}`."""

    def __init__(self, source: TensorSource, deltas: Mapping[str, Delta]):
        super().__init__(source)
        self._deltas = dict(deltas)

    @property
    def changed(self) -> list[str]:
        """The names of the weights that the LoRA changes."""
        return list(self._deltas)

    def read(self, name: str, dtype: DTypeLike | None = np.float32) -> np.ndarray:
        """The tensor, changed if the LoRA changes it; the sum is made in float32 at least."""
        value = super().read(name, dtype)
        if name not in self._deltas or self._deltas[name].strength.value == 0:
            return value
        computed = np.promote_types(value.dtype, np.float32)
        changed: np.ndarray = value.astype(computed) + self._deltas[name].added(value.shape, computed)
        changed = changed.astype(value.dtype, copy=False)
        changed.flags.writeable = False
        return changed


def apply_lora(
    components: Mapping[str, TensorSource], lora: TensorSource, scale: float | Strength = 1.0
) -> dict[str, TensorSource]:
    """Merge a LoRA file into components with canonical names, `{"unet": …, "text_encoder": …}`.

    Returns all components, those that the file changes as views. Several files are applied one after the other. A
    `Strength` as the scale can be changed later.

    Raises `CheckpointError` for a layer that the components do not have, shapes that do not fit, and other adapters.
    """
    strength = scale if isinstance(scale, Strength) else Strength(scale)
    for name in lora.names:
        if kind := next((part for part in OTHER_KINDS if part in name), None):
            raise CheckpointError(f"{lora.path}: tensor {quoted(name)}: an adapter of another kind ({kind}) than LoRA")
    layers = layers_of(lora)
    tables = {name: layer_table(source) for name, source in components.items()}
    deltas: dict[str, dict[str, Delta]] = {}
    for layer, parts in layers.items():
        component, weight = find_layer(layer, tables, lora)
        delta = make_delta(layer, parts, lora, strength)
        check_delta(delta, components[component].shape(weight), weight, lora)
        deltas.setdefault(component, {})[weight] = delta
    return {name: LoraSource(source, deltas[name]) if name in deltas else source for name, source in components.items()}


def layers_of(lora: TensorSource) -> dict[str, dict[str, str]]:
    """The layers that a file changes: `{layer: {"down": name, "up": name, "alpha": name}}`."""
    layers: dict[str, dict[str, str]] = {}
    for name in lora.names:
        part = next((part for part, pattern in PARTS.items() if pattern.search(name)), None)
        if part is None:
            raise CheckpointError(f"{lora.path}: tensor {quoted(name)} is not one that a LoRA file has")
        layers.setdefault(PARTS[part].sub("", name), {})[part] = name
    if not layers:
        raise CheckpointError(f"{lora.path}: holds no tensors")
    return layers


def make_delta(layer: str, parts: Mapping[str, str], lora: TensorSource, strength: Strength) -> Delta:
    """The change of a layer; without an alpha, alpha is the rank."""
    for part in ("down", "up"):
        if part not in parts:
            raise CheckpointError(f"{lora.path}: the layer {quoted(layer)} has no {part} matrix")
    shape = lora.shape(parts["down"])
    if not shape or not shape[0]:
        raise CheckpointError(f"{lora.path}: tensor {quoted(parts['down'])} of shape {shape} is no down matrix")
    alpha = float(lora.read(parts["alpha"], np.float64).reshape(-1)[0]) if "alpha" in parts else shape[0]
    return Delta(lora, parts["down"], parts["up"], alpha / shape[0], strength)


def check_delta(delta: Delta, shape: tuple[int, ...], weight: str, lora: TensorSource) -> None:
    """Check that the product of the matrices has the weight's shape."""
    down, up = lora.shape(delta.down), lora.shape(delta.up)
    fits = len(up) > 1 and up[1] == down[0] and set(up[2:]) <= {1} and _squeezed((up[0], *down[1:])) == _squeezed(shape)
    if not fits:
        raise CheckpointError(f"{lora.path}: {quoted(delta.down)} {down} and {up} do not fit {weight} of shape {shape}")


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if set(shape[2:]) == {1} else shape


# Which layer is meant -------------------------------------------------------------------------------------------------


def layer_table(source: TensorSource) -> dict[str, str]:
    """The weights of a component by their layers' names with underscores for dots, canonical and original."""
    table = {}
    if "conv_in.weight" in source and "down_blocks.0.resnets.0.norm1.weight" in source:
        for link in unet_links(source.names, "canonical", Heads(count=1), source.shape):
            if len(link.canonical) == 1 and link.original.endswith(".weight"):
                table[flat(link.original.removesuffix(".weight"))] = link.canonical[0]
    return table | {flat(name.removesuffix(".weight")): name for name in source.names if name.endswith(".weight")}


def flat(layer: str) -> str:
    """A layer's name in the form in which all namings agree."""
    return layer.replace(".", "_")


def component_of(layer: str) -> str:
    """The component that a file's layer is of, by the prefix that the naming gives it."""
    return COMPONENTS.get(prefix_of(layer), "unet")


def prefix_of(layer: str) -> str:
    """What stands before the layer's own name."""
    return next((p for p in COMPONENTS if layer.startswith(p)), "")


def find_layer(layer: str, tables: Mapping[str, Mapping[str, str]], lora: TensorSource) -> tuple[str, str]:
    """The component and the weight that a file's layer means."""
    prefix, component = prefix_of(layer), component_of(layer)
    if component not in tables:
        raise CheckpointError(f"{lora.path}: changes the {component}, which this checkpoint does not have")
    for candidate in candidates(flat(layer[len(prefix) :])):
        if candidate in tables[component]:
            return component, tables[component][candidate]
    raise CheckpointError(f"{lora.path}: changes the layer {quoted(layer)}, which the {component} does not have")


def candidates(layer: str) -> Iterable[str]:
    """A layer's name, and what the older namings may mean by it."""
    layer = layer.removeprefix("base_model_model_").removeprefix("text_model_").replace("_processor", "")
    yield layer
    if layer.endswith("_to_out"):
        yield f"{layer}_0"
    if found := re.fullmatch(r"(.*_self_attn)_to_(q|k|v|out)", layer):
        yield f"{found[1]}_{found[2]}_proj"
