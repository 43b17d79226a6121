"""The samplers by name: what each is called here and elsewhere, and the one that a checkpoint was published with."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from tinyldm.diffusion.config import field_types, read_config
from tinyldm.diffusion.samplers.base import Sampler
from tinyldm.diffusion.spacing import SCHEDULE_ALIASES, SIGMA_SCHEDULES
from tinyldm.errors import ConfigError, InputError

Kind = TypeVar("Kind", bound=type[Sampler])


class Entry(NamedTuple):
    """A sampler's class, and what its name says over the config."""

    sampler: type[Sampler]
    options: Mapping[str, Any]


class Listed(NamedTuple):
    """A sampler in a list for people: its name, what else it is called, and a line on what it does."""

    name: str
    aliases: tuple[str, ...]
    summary: str


SAMPLERS: dict[str, Entry] = {}
NAMES: dict[str, str] = {}  # what samplers are called anywhere, `plain`, and their names here
FIELDS: dict[type[Sampler], dict[str, Any]] = {}  # the fields of each one's config, and what each takes

# Fields that change nothing here: bookkeeping, what only old releases had, and what matters only together with a field
# whose other value is refused.
INERT = {
    "_class_name",
    "_diffusers_version",
    "_use_default_values",
    "tensor_format",
    "timestep_values",
    "flow_shift",
}


def register(sampler: Kind) -> Kind:
    """Enter a sampler under its name, and under those of its `variants`: a class decorator."""
    FIELDS[sampler] = field_types(sampler.Config)
    for name, options in {sampler.name: {}, **sampler.variants}.items():
        SAMPLERS[name] = Entry(sampler, options)
        NAMES[plain(name)] = name
        for alias in aliases_of(name):
            NAMES.setdefault(plain(alias), name)
    return sampler


def list_samplers() -> list[Listed]:
    """Every sampler with its aliases and a line on what it does."""
    return [
        Listed(name, tuple(dict.fromkeys(alias for alias in aliases_of(name) if alias != name)), describe(entry))
        for name, entry in SAMPLERS.items()
    ]


def describe(entry: Entry) -> str:
    """The line on what a sampler does, with what its name sets."""
    said = ", ".join(f"{field}={value}" for field, value in entry.options.items())
    return entry.sampler.summary + (f" ({said})" if said else "")


def find_sampler(name: str) -> str:
    """The name here of a sampler that is called `name` here, in diffusers, k-diffusion or a web interface.

    Upper and lower case, spaces, hyphens and underscores do not matter, and the name may end in that of a schedule of
    noise levels: `Euler Karras`. An unknown name is an `InputError` that tells the nearest one.
    """
    if name in SAMPLERS:
        return name
    asked = plain(name)
    if NAMES.get(asked) in SAMPLERS:
        return NAMES[asked]
    for called in (*SIGMA_SCHEDULES, *SCHEDULE_ALIASES):
        own = NAMES.get(asked.removesuffix(plain(called)))
        if own is None or not asked.endswith(plain(called)):
            continue
        if not takes_schedules(own):
            raise InputError(
                f"sampler {name!r}: {own} takes no schedule of noise levels; take it alone, or a sampler that goes "
                "down noise levels, such as euler_karras"
            )
        return f"{own}_{SCHEDULE_ALIASES.get(called, called)}"
    near = difflib.get_close_matches(asked, NAMES, 1)
    hint = f"; did you mean {NAMES[near[0]]!r}?" if near else ""
    raise InputError(
        f"sampler {name!r} is unknown{hint}; take one of {', '.join(SAMPLERS)}; behind those that go down noise levels "
        f"may stand {', '.join(SIGMA_SCHEDULES)}"
    )


def takes_schedules(name: str) -> bool:
    """Whether the sampler goes down noise levels, which a schedule can choose."""
    return "sigma_schedule" in FIELDS[SAMPLERS[name].sampler]


def entry_of(name: str) -> Entry:
    """The entry of a name that `find_sampler` gave and that has a schedule behind one of the list."""
    own = max((own for own in SAMPLERS if name.startswith(f"{own}_")), key=len)
    entry = SAMPLERS[own]
    return Entry(entry.sampler, {**entry.options, "sigma_schedule": name.removeprefix(f"{own}_")})


def aliases_of(name: str) -> Iterator[str]:
    """What else a sampler is called; for a variant, the aliases of its class with what its own name adds."""
    sampler, _ = SAMPLERS[name]
    if not name.startswith(sampler.name):
        return
    added = name.removeprefix(sampler.name)
    if name == sampler.name and sampler.scheduler_class is not None:
        yield sampler.scheduler_class
    for alias in (sampler.name, *sampler.aliases):
        yield alias + added


def plain(name: str) -> str:
    """A name without what differs from tool to tool: `DPM++ 2M Karras`, `k_dpmpp_2m_karras`, `dpmpp_2m_gpu_karras`."""
    name = re.sub(r"^(sample_|k_)+|_gpu(?=_|$)", "", re.sub(r"[\s-]+", "_", name.strip().lower()))
    return re.sub(r"[^a-z0-9]", "", name.replace("++", "pp"))


def make_sampler(name: str, scheduler_config: Mapping[str, Any], steps: int, **options: Any) -> Sampler:
    """A sampler for one run of `steps` steps, from its name and the checkpoint's `scheduler_config.json`.

    `options` are fields of the sampler's `Config`, in the place of the file's: `eta=0.5` for `ddim`, `solver_order=3`
    for `dpm++_2m`. An unknown name, a field or a value that the sampler cannot honour, and a number of steps that it
    cannot take are errors that say so.
    """
    name = find_sampler(name)
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise InputError(f"steps: {steps!r} is not an integer")
    sampler, of_name = SAMPLERS[name] if name in SAMPLERS else entry_of(name)
    types = FIELDS[sampler]
    for field in scheduler_config:
        if field not in INERT and not any(field in fields for fields in FIELDS.values()):
            raise ConfigError(f"scheduler config: unknown field {field!r} (value {scheduler_config[field]!r})")
    published = scheduler_config.get("_class_name")
    known = [s.scheduler_class for s in FIELDS if s.scheduler_class is not None and s.family == sampler.family]
    if published is not None and published not in known:
        raise ConfigError(
            f"scheduler config: _class_name {published!r} is not of a model that {name} can run; it runs those of "
            f"{', '.join(known)}"
        )
    for option in options:
        if option not in types:
            near = difflib.get_close_matches(option, types, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(types)}"
            raise InputError(f"sampler {name} has no option {option}{hint}")
    made = sampler(read_config(scheduler_config, sampler.Config, types, name, {**of_name, **options}), steps)
    made.name = name
    return made


def default_sampler(scheduler_config: Mapping[str, Any]) -> str:
    """The name of the sampler that a checkpoint was published with: that of the class and the fields in its config."""
    published = scheduler_config.get("_class_name")
    fitting = [
        name
        for name, (sampler, options) in SAMPLERS.items()
        if sampler.scheduler_class == published
        and all(scheduler_config.get(k, getattr(sampler.Config, k)) == v for k, v in options.items())
    ]
    if published is None or not fitting:
        raise ConfigError(
            f"scheduler config: _class_name {published!r} has no sampler here; name one of {', '.join(SAMPLERS)}"
        )
    return max(fitting, key=lambda name: len(SAMPLERS[name].options))
