"""What a checkpoint was recognised as: its components, its schedule, and what is to be said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyldm.checkpoints.base import TensorSource
from tinyldm.errors import CheckpointError

Config = dict[str, Any]


@dataclass(frozen=True)
class Component:
    """One model of a checkpoint: the class that publishes its config, the config, its tensors under canonical names."""

    class_name: str
    config: Config
    source: TensorSource


@dataclass
class Recognised:
    """What a file was recognised as; `extras` are known tensors without a use, `unknown` those that nobody knows.

    `beside` is what the file holds that is no tensor of a model, such as an optimizer's states: name and kind; `file`
    the file as `extras` and `unknown` name its tensors.
    `assumed` names what nothing states: `prediction_type`, `scaling_factor`; `pipeline` is the class of the published
    folder and its options, where they are stated, and `tokenizers` the classes of its tokenizers by name; `path` is
    where it was opened.
    """

    family: str
    title: str
    components: dict[str, Component] = field(default_factory=dict)
    scheduler: Config | None = None
    notes: list[str] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)
    file: TensorSource | None = None
    assumed: set[str] = field(default_factory=set)
    pipeline: Config = field(default_factory=dict)
    tokenizers: dict[str, str] = field(default_factory=dict)
    path: Path = Path()


def only_one(candidates: Sequence[Component], path: object, found: Recognised, what: str) -> Component:
    """The one of some components of what was found at a path. Raises `CheckpointError` unless there is one."""
    if len(candidates) != 1:
        has = ", ".join(found.components) or "nothing"
        raise CheckpointError(f"{path}: wanted {what}; it is {found.title} and has {has}")
    return candidates[0]


def class_of(config: Mapping[str, Any]) -> str:
    """The published class that a component's config is of; `unknown` where it names none."""
    architectures = config.get("architectures")
    named = config.get("_class_name") or (architectures[0] if isinstance(architectures, list) and architectures else "")
    return named if isinstance(named, str) and named else "unknown"
