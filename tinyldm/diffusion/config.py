"""A checkpoint's `scheduler_config.json`, read for one sampler, with nothing ignored in silence.

The file was written for one scheduler class of the diffusers library and is read for the sampler that was chosen, whose
`Config` says which fields it has, with what default, and which values it honours: the annotation of a field is what is
checked. A field that the file lacks takes that default. A field that the chosen sampler does not have is passed over if
another sampler has it (a file for DDIM may drive Euler, which has no use for `clip_sample`), and is an error if none
has. A value that the sampler cannot honour is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from tinyldm.diffusion import prediction
from tinyldm.diffusion.types import Array
from tinyldm.errors import ConfigError, InputError


class Range(NamedTuple):
    """The numbers that a field takes: from `least` to `most`, or between `above` and `below` without these two."""

    least: float = -math.inf
    most: float = math.inf
    above: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        ends = {"at least": self.least, "at most": self.most, "above": self.above, "below": self.below}
        told = [f"{word} {end:g}" for word, end in ends.items() if end is not None and abs(end) != math.inf]
        return ", ".join(told) + ("" if self.below != math.inf else ", finite")


Positive = Annotated[float, Range(above=0, below=math.inf)]
Beta = Annotated[float, Range(above=0, below=1)]


@dataclass(frozen=True)
class SchedulerConfig:
    """The fields of every sampler: the noise that the model was trained with, and which timesteps are visited."""

    num_train_timesteps: Annotated[int, Range(1, 1_000_000)] = 1000
    beta_start: Beta = 0.0001
    beta_end: Beta = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: tuple[Beta, ...] | None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["leading", "linspace", "trailing"] = "leading"
    steps_offset: Annotated[int, Range(0, 1_000_000)] = 0

    def bounded(self, x0: Array) -> Array:  # (N, …) -> (N, …)
        """The predicted clean latent, held in bounds if the config has any."""
        return x0


@dataclass(frozen=True)
class ZeroSNR(SchedulerConfig):
    """Of the samplers that can begin at pure noise (Lin et al. 2023, arXiv 2305.08891)."""

    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True)
class Thresholding(SchedulerConfig):
    """Of the samplers that hold the clean latent in bounds by its own quantile."""

    thresholding: bool = False
    dynamic_thresholding_ratio: Annotated[float, Range(above=0, most=1)] = 0.995
    sample_max_value: Positive = 1.0

    def bounded(self, x0: Array) -> Array:
        """The predicted clean latent, held in its bounds: `(N, …) -> (N, …)`."""
        if self.thresholding:
            return prediction.dynamic_threshold(x0, self.dynamic_thresholding_ratio, self.sample_max_value)
        return x0


@dataclass(frozen=True)
class Clipping(Thresholding):
    """Of the samplers that hold the clean latent in bounds, fixed ones or by its own quantile."""

    clip_sample: bool = True
    clip_sample_range: Positive = 1.0

    def bounded(self, x0: Array) -> Array:
        """The predicted clean latent, held in its bounds: `(N, …) -> (N, …)`."""
        if self.thresholding:
            return super().bounded(x0)
        return np.clip(x0, -self.clip_sample_range, self.clip_sample_range) if self.clip_sample else x0


Config = TypeVar("Config", bound=SchedulerConfig)


def read_config(
    config: Mapping[str, Any],
    kind: type[Config],
    types: Mapping[str, Any],
    sampler: str,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Config:
    """The fields of `config` that `kind` has, checked, with the defaults of `kind` for the missing ones.

    `types` says what each field takes (`field_types`). `options`, given by hand, take the place of the file's values.
    A switch that is null is off. `sampler` is the name for errors: `ConfigError` for a value of the file, `InputError`
    for an option.
    """
    left_at_default = config.get("_use_default_values", ())
    given = {name: value for name, value in config.items() if name in types and name not in left_at_default}
    values: dict[str, Any] = {}
    for name, value in {**given, **options}.items():
        value = False if value is None and types[name] is bool else value
        if not conforms(value, types[name]):
            wrong = f"{name} is {value!r}; it takes {describe(types[name])}"
            if name in options:
                raise InputError(f"sampler {sampler}: {wrong}")
            raise ConfigError(f"scheduler config, read for {sampler}: {wrong}")
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def field_types(kind: type[SchedulerConfig]) -> dict[str, Any]:
    """The fields of a config, and what each one takes."""
    return get_type_hints(kind, include_extras=True)


def conforms(value: Any, wanted: Any) -> bool:
    """Whether a value read from JSON, or given as an option, is of the annotated kind."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        kind, limits = arguments
        if not conforms(value, kind) or not limits.least <= value <= limits.most:
            return False
        return (limits.above is None or limits.above < value) and (limits.below is None or value < limits.below)
    if origin in (Union, UnionType):
        return any(conforms(value, kind) for kind in arguments)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(conforms(v, arguments[0]) for v in value)
    if wanted is float:
        return type(value) in (int, float) and not math.isnan(value)
    return type(value) is wanted


def describe(wanted: Any) -> str:
    """What a field takes, in words."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return f"{describe(arguments[0])} {' '.join(map(str, arguments[1:]))}"
    if origin in (Union, UnionType):
        return " or ".join(describe(kind) for kind in arguments)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in arguments)
    if origin is tuple:
        return f"a list, each {describe(arguments[0])}"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
    return names[wanted]
