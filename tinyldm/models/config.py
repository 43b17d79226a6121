"""Reading a published `config.json` into a dataclass: nothing in it is ignored by accident.

A field is known (it has a place in the dataclass), inert (on an explicit list: it does not change what a trained
model computes), or an error that names it. So is a value that is known to the original and not supported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from tinyldm.errors import ConfigError

T = TypeVar("T")

# Written by the original libraries into every file; says where it came from, not what it computes.
BOOKKEEPING = frozenset({"_class_name", "_diffusers_version", "_name_or_path", "_commit_hash", "_use_default_values"})


def read_config(cls: type[T], config: Mapping[str, Any], *, component: str, inert: Iterable[str] = ()) -> T:
    """Make the dataclass `cls` from a published config; lists become tuples, absent fields take their defaults.

    Raises `ConfigError` for a field that is neither known nor inert, and for a needed field that is absent.
    """
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    passed = BOOKKEEPING | frozenset(inert)
    unknown = sorted(set(config) - set(known) - passed)
    if unknown:
        more = f" (and {', '.join(unknown[1:])})" if unknown[1:] else ""
        raise ConfigError(
            f"{component} config: unknown field {unknown[0]!r} with the value {config[unknown[0]]!r}{more}"
        )
    for name, f in known.items():
        if f.default is MISSING and f.default_factory is MISSING and name not in config:
            raise ConfigError(f"{component} config: the field {name!r} is missing")
    return cls(**{name: _frozen(config[name]) for name in known if name in config})


def require(component: str, name: str, value: Any, supported: Iterable[Any]) -> None:
    """Raise `ConfigError` unless `value` is one of `supported`."""
    supported = list(supported)
    if not any(type(value) is type(s) and value == s for s in supported):
        raise ConfigError(
            f"{component} config: {name} = {value!r} is not supported; supported: "
            + ", ".join(repr(s) for s in supported)
        )


def per_block(component: str, name: str, value: Any, blocks: int) -> tuple[Any, ...]:
    """A field that is one value for all blocks or a list with one for each, as a tuple with one for each."""
    if not isinstance(value, tuple):
        return (value,) * blocks
    if len(value) != blocks:
        raise ConfigError(f"{component} config: {name} = {list(value)} has {len(value)} entries for {blocks} blocks")
    return value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value
