"""What every network is: a configuration, the tree of weights that follows from it, and how to compute.

A published `config.json` is read into a dataclass, and nothing in it is ignored by accident. A field is known (it has a
place in the dataclass), inert (on an explicit list: it does not change what a trained model computes), one with few
supported values (the dataclass's `supported`), or an error that names it. So is a value that is known to the original
and not supported here.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin, get_type_hints

from tinyldm.errors import ConfigError, quoted
from tinyldm.models.blocks import Parameters
from tinyldm.runtime import Runtime
from tinyldm.tree import Settings, TensorSource, bind_weights

C = TypeVar("C")
Supported = Mapping[str, list[Any]]  # of fields of a config, the values that are taken

# Written by the original libraries into every file; says where it came from, not what it computes.
BOOKKEEPING = frozenset({"_class_name", "_diffusers_version", "_name_or_path", "_commit_hash", "_use_default_values"})
MAX_NUMBER = 2**31
LAYERS = re.compile(r"layers|num_\w+_blocks|n_stages")  # fields that say how often something is repeated
MAX_LAYERS = 1000
DIVISORS = re.compile(r"num_groups|heads|head_dim")  # fields that widths are divided by


class Network(ABC, Generic[C]):
    """A network of a checkpoint, from a config as published (or as `read` before) and its tensors by canonical names.

    Raises `ConfigError` for a field or value that is unknown or not supported, and `CheckpointError` for a weight that
    is missing, has no place, or is of another shape than the config says.
    """

    component: ClassVar[str]  # what messages call it
    name: str  # under which a trace records it
    config_class: ClassVar[type[Any]]
    inert: ClassVar[Iterable[str]] = ()  # published fields that do not change what is computed here
    extras: ClassVar[Iterable[str]] = ()  # patterns of weights that may be there and are not used

    def __init__(self, config: Mapping[str, Any] | C, source: TensorSource, runtime: Runtime | None = None) -> None:
        self.runtime = runtime or Runtime()
        self.config: C = self.read(config) if isinstance(config, Mapping) else config
        self.parameters = dict(self.expected(source))
        self.weights = bind_weights(
            source,
            self.parameters,
            self.runtime,
            component=self.component,
            settings=self.settings_of(self.config),
            extras=self.extras,
        )

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> C:
        """The fields of a published config. Raises `ConfigError` for one that is unknown or not supported."""
        read: C = read_config(cls.config_class, config, component=cls.component, inert=cls.inert)
        return read

    @staticmethod
    @abstractmethod
    def parameters_of(config: Any, /) -> Parameters:
        """Name and shape of every weight that a config asks for."""

    @staticmethod
    def settings_of(config: Any, /) -> Settings:
        """What a config binds to the nodes of the tree."""
        return ()

    def expected(self, source: TensorSource) -> Parameters:
        """Name and shape of every weight that the config asks for, where there is a choice as the source has it."""
        return self.parameters_of(self.config)


def read_config(cls: type[C], config: Mapping[str, Any], *, component: str, inert: Iterable[str] = ()) -> C:
    """Make the dataclass `cls` from a published config; lists become tuples, absent fields take their defaults.

    Where `cls.supported` lists values for a field, no other is taken; a field that has a place there alone is one that
    the models are the same for.

    Raises `ConfigError` for a field that is neither known nor inert, for a needed field that is absent, and for a value
    that is not of the field's type.
    """
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    supported: Supported = getattr(cls, "supported", {})
    passed = BOOKKEEPING | frozenset(inert) | frozenset(supported)
    unknown = sorted(set(config) - set(known) - passed)
    if unknown:
        more = f" (and {', '.join(map(quoted, unknown[1:5]))})" if unknown[1:] else ""
        raise ConfigError(
            f"{component} config: unknown field {quoted(unknown[0])} with the value {quoted(config[unknown[0]])}{more}"
        )
    for name, f in known.items():
        if f.default is MISSING and f.default_factory is MISSING and name not in config:
            raise ConfigError(f"{component} config: the field {name!r} is missing")
    values = {name: _frozen(config[name]) for name in known if name in config}
    kinds = get_type_hints(cls)
    for name, value in values.items():
        if DIVISORS.search(name) and type(value) is int and value < 1:
            raise ConfigError(f"{component} config: {name} = {value}, wanted 1 or more")
        if not fits(value, kinds[name]) or not countable(name, value):
            wanted = str(known[name].type)
            more = f" of at most {MAX_LAYERS}" if fits(value, kinds[name]) else ""
            raise ConfigError(f"{component} config: {name} = {quoted(config[name])}, wanted {wanted}{more}")
    for name, choice in supported.items():
        if name in config:
            require(component, name, _frozen(config[name]), choice)
    return cls(**values)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value from JSON, its lists made tuples, is of an annotated type; a whole number is a float, too."""
    if kind is Any:
        return True
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    if kind is int:
        return type(value) is int and abs(value) <= MAX_NUMBER
    arguments = get_args(kind)
    if get_origin(kind) is tuple:
        if type(value) is not tuple or not value or (arguments[-1] is not Ellipsis and len(value) != len(arguments)):
            return False
        each = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return all(fits(v, k) for v, k in zip(value, each, strict=True))
    if arguments:  # int | None
        return any(fits(value, k) for k in arguments)
    return type(value) is kind


def countable(name: str, value: Any) -> bool:
    """Whether a number of layers is one that a model can have: a loop over them ends."""
    if isinstance(value, tuple):
        return all(countable(name, v) for v in value)
    return not LAYERS.search(name) or type(value) is not int or value <= MAX_LAYERS


def require(component: str, name: str, value: Any, supported: Iterable[Any]) -> None:
    """Raise `ConfigError` unless `value` is one of `supported`."""
    supported = list(supported)
    if not any(type(value) is type(s) and value == s for s in supported):
        known = ", ".join(map(repr, supported))
        raise ConfigError(f"{component} config: {name} = {quoted(value)} is not supported; supported: {known}")


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value
