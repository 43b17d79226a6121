"""What the caller knows better than a checkpoint says: configuration fields, and what the UNet predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tinyldm.checkpoints.base import quoted
from tinyldm.checkpoints.families import FAMILIES
from tinyldm.checkpoints.recognised import Recognised, class_of
from tinyldm.errors import ConfigError

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def override(found: Recognised, prediction_type: str | None, config: Mapping[str, Mapping[str, Any]]) -> None:
    """Put what the caller knows better in place of what was recognised.

    `config` has fields by component, or is the published configuration of one: all of it, known by its class. Raises
    `ConfigError` for a component that is not there and for a prediction type that is not known.
    """
    if prediction_type not in (None, *PREDICTIONS):
        raise ConfigError(f"prediction type {prediction_type!r} is unknown; known are {', '.join(PREDICTIONS)}")
    if "_class_name" in config or "architectures" in config:
        config = {component_for(config, found): config}
    for name, fields in config.items():
        if not isinstance(fields, Mapping):
            raise ConfigError(f"config: wanted the fields of the component {name!r}, not {quoted(fields)}")
        if name == "scheduler":
            found.scheduler = {**(found.scheduler or {}), **fields}
        elif name in found.components:
            component = found.components[name]
            found.components[name] = replace(component, config={**component.config, **fields})
        else:
            raise ConfigError(f"config: has no component {name!r} here; there is {', '.join(found.components)}")
    if prediction_type is not None and found.scheduler is not None:
        found.scheduler = {**found.scheduler, "prediction_type": prediction_type}
        found.notes = [note for note in found.notes if not note.startswith("prediction type")]
        found.assumed.discard("prediction_type")
        if "sample_size" not in config.get("unet", {}):
            resize(found, prediction_type)


def component_for(config: Mapping[str, Any], found: Recognised) -> str:
    """The component that a published configuration is of. Raises `ConfigError` where there is none of its class."""
    kind = class_of(config)
    if kind.endswith("Scheduler"):
        return "scheduler"
    names = [name for name, component in found.components.items() if component.class_name == kind]
    if len(names) != 1:
        here = ", ".join(f"{name} ({component.class_name})" for name, component in found.components.items())
        raise ConfigError(f"config: is of a {kind}, and there is {here or 'nothing'} here")
    return names[0]


def resize(found: Recognised, prediction_type: str) -> None:
    """Set the size of pictures, where models that predict something else are published for another size."""
    family = next((family for family in FAMILIES if family.name == found.family), None)
    unet = found.components.get("unet")
    if family is None or unet is None or prediction_type not in family.sizes:
        return
    size = unet.config["sample_size"] * family.sizes[prediction_type] // family.size
    found.components["unet"] = replace(unet, config={**unet.config, "sample_size": size})
