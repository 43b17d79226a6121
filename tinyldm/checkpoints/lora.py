r"""LoRA and its relatives: small tensors that change a model's weights, merged into them as they are read.

$$W' = W + s \cdot \frac{\alpha}{r} \, \Delta W$$

with a difference of rank $r$ that the file holds in parts (`lycoris`), an $\alpha$ that it states (`lora_facts`), and a
scale $s$ that the user chooses. Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tinyldm.checkpoints.base import TensorSource, quoted
from tinyldm.checkpoints.foreign import foreign_kind
from tinyldm.checkpoints.lora_facts import StatedAlpha, stated_alphas
from tinyldm.checkpoints.lora_names import find_layer, layer_table, split_layer
from tinyldm.checkpoints.lycoris import BIAS_PARTS, REFUSED, changed, check_shapes, kind_of, part_of, rank_of
from tinyldm.checkpoints.views import ChangedSource
from tinyldm.errors import CheckpointError


@dataclass
class Strength:
    """How strongly a LoRA is applied, $s$ above; whoever reads a weight after a change gets the changed one."""

    value: float = 1.0


@dataclass(frozen=True)
class Change:
    """What changes one weight: the names of its parts in the adapter's file, which are read with the weight."""

    file: TensorSource
    parts: Mapping[str, str]
    factor: float
    strength: Strength

    def apply(self, weight: np.ndarray) -> np.ndarray:
        """A weight with the change."""
        parts = {part: self.file.read(name, weight.dtype) for part, name in self.parts.items()}
        return changed(weight, parts, self.factor, self.strength.value)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise `CheckpointError` unless the parts make a difference of the shape of the weight of this name."""
        shapes = {part: self.file.shape(inner) for part, inner in self.parts.items()}
        try:
            if any(0 in found for found in shapes.values()):
                raise ValueError("are empty")
            check_shapes(shapes, shape)
        except (ValueError, IndexError) as error:
            named = ", ".join(f"{quoted(self.parts[part])} {found}" for part, found in shapes.items())
            raise CheckpointError(f"{self.file.path}: {named} do not fit {name} of shape {shape}: {error}") from None


class LoraSource(ChangedSource):
    """A view of a component with a LoRA merged into it: `{canonical name: change}`."""

    def __init__(self, source: TensorSource, changes: Mapping[str, Change]):
        super().__init__(source)
        self._changes = dict(changes)

    @property
    def changed(self) -> list[str]:
        """The names of the weights that the LoRA changes."""
        return list(self._changes)

    def changes(self, name: str) -> bool:
        """Whether the LoRA changes a tensor, at its present scale."""
        return name in self._changes and self._changes[name].strength.value != 0

    def shown(self, name: str, value: np.ndarray) -> np.ndarray:
        """The sum, which is made in float32 at least."""
        computed = np.promote_types(value.dtype, np.float32)
        return self._changes[name].apply(value.astype(computed)).astype(value.dtype, copy=False)


def apply_lora(
    components: Mapping[str, TensorSource],
    lora: TensorSource,
    scale: float | Strength = 1.0,
    notes: list[str] | None = None,
) -> dict[str, TensorSource]:
    """Merge an adapter's file into components with canonical names, `{"unet": …, "text_encoder": …}`.

    Returns all components, those that the file changes as views. Several files are applied one after the other. A
    `Strength` as the scale can be changed later. What had to be assumed is added to `notes`.

    Raises `CheckpointError` for a layer that the components do not have, shapes that do not fit, and other adapters.
    """
    strength = scale if isinstance(scale, Strength) else Strength(scale)
    layers, alphas = layers_of(lora), stated_alphas(lora)
    tables = {name: layer_table(source) for name, source in components.items()}
    changes: dict[str, dict[str, Change]] = {}
    assumed = 0
    for layer, parts in layers.items():
        component, module = find_layer(layer, tables)
        if component not in components:
            raise CheckpointError(f"{lora.path}: changes the {component}, which this checkpoint does not have")
        if module is None:
            what = f"the layer {quoted(layer)}"
            raise CheckpointError(f"{lora.path}: changes {what}, which the {component} does not have")
        factor = factor_of(layer, parts, lora, alphas.get(component, alphas.get("")))
        assumed += factor is None
        for weight, change in changes_of(module, parts, lora, 1.0 if factor is None else factor, strength):
            if weight not in components[component]:
                raise CheckpointError(f"{lora.path}: changes {weight}, which the {component} does not have")
            change.check(weight, components[component].shape(weight))
            changes.setdefault(component, {})[weight] = change
    if assumed and notes is not None:
        notes.append(
            f"{lora.path}: states no alpha of {assumed} layers; alpha is taken as the rank, as PEFT's files mean it"
        )
    return {
        name: LoraSource(source, changes[name]) if name in changes else source for name, source in components.items()
    }


def layers_of(lora: TensorSource) -> dict[str, dict[str, str]]:
    """The layers that a file changes, with the names of their parts: `{layer: {"down": name, "up": name, …}}`."""
    layers: dict[str, dict[str, str]] = {}
    for name in lora.names:
        if kind := next((kind for part, kind in REFUSED.items() if part in name), None):
            raise CheckpointError(f"{lora.path}: tensor {quoted(name)}: an adapter of another kind ({kind}) than LoRA")
        found = part_of(name)
        if found is None:
            kind = foreign_kind(lora)
            what = f"is {kind}, not a LoRA" if kind else f"tensor {quoted(name)} is not one that a LoRA file has"
            raise CheckpointError(f"{lora.path}: {what}")
        layers.setdefault(found[0], {})[found[1]] = name
    if not layers:
        raise CheckpointError(f"{lora.path}: holds no tensors")
    return layers


def factor_of(layer: str, parts: Mapping[str, str], lora: TensorSource, stated: StatedAlpha | None) -> float | None:
    """What a layer's difference is multiplied by; None where nothing states it, and 1 where nothing is to be stated."""
    rank = rank_of({part: lora.shape(name) for part, name in parts.items()})
    if not rank:
        return 1.0
    own = float(lora.read(parts["alpha"], np.float64).reshape(-1)[0]) if "alpha" in parts else None
    return (stated or StatedAlpha()).factor(split_layer(layer)[1], rank, own)


def changes_of(
    module: str, parts: Mapping[str, str], lora: TensorSource, factor: float, strength: Strength
) -> Iterator[tuple[str, Change]]:
    """The changes of a module's weight and bias. Raises `CheckpointError` for a layer whose parts are not complete."""
    weight = {part: name for part, name in parts.items() if part not in (*BIAS_PARTS, "alpha")}
    biases = [part for part in BIAS_PARTS if part in parts]
    if kind_of(weight) is None and (weight or not biases):
        complement = {"down": "has no up matrix", "up": "has no down matrix"}
        lack = next((complement[part] for part in weight if part in complement), "is not complete")
        raise CheckpointError(f"{lora.path}: the layer of {quoted(next(iter(parts.values())))} {lack}")
    if weight:
        yield f"{module}.weight", Change(lora, weight, factor, strength)
    for part in biases:
        yield f"{module}.bias", Change(lora, {"diff": parts[part]}, factor if part == "up_bias" else 1.0, strength)
