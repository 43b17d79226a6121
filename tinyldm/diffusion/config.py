"""A checkpoint's `scheduler_config.json`, read for one sampler, with nothing ignored in silence.

The file was written for one scheduler class of the diffusers library and is read for the class whose sampler was
chosen. A field that the file lacks takes the default of the chosen class. A field that the chosen class does not have
is passed over if some other class of the family has it (a file for DDIM may drive Euler, whose sampler has no use for
`clip_sample`), and is an error if none has. A value that the sampler cannot honour is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tinyldm.errors import ConfigError


@dataclass(frozen=True)
class SchedulerConfig:
    """Every field that some sampler uses; `FIELDS` says which class has which, and with what default."""

    # The noise that the model was trained with.
    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False
    prediction_type: str = "epsilon"
    # Which of the training timesteps are visited.
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    original_inference_steps: int = 50
    # Which noise levels are visited, for the samplers that think in sigmas.
    use_karras_sigmas: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None
    final_sigmas_type: str = "zero"
    # What is done to the predicted clean latent.
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    # The solvers' own.
    variance_type: str | None = None
    skip_prk_steps: bool = False
    solver_order: int = 2
    solver_type: str = "midpoint"
    algorithm_type: str = "dpmsolver++"
    lower_order_final: bool = True
    euler_at_final: bool = False
    timestep_scaling: float = 10.0
    # Only one value of each of these is supported.
    interpolation_type: str = "linear"
    timestep_type: str = "discrete"
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    use_lu_lambdas: bool = False
    use_flow_sigmas: bool = False
    use_dynamic_shifting: bool = False
    lambda_min_clipped: float = -math.inf


BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "steps_offset": 0,
}
CLIPPING: dict[str, Any] = {
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
OTHER_SIGMAS: dict[str, Any] = {"use_exponential_sigmas": False, "use_beta_sigmas": False}

# The fields of each class and their defaults in diffusers 0.42.1.
FIELDS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": BETAS
    | CLIPPING
    | {"timestep_spacing": "leading", "rescale_betas_zero_snr": False, "variance_type": "fixed_small"},
    "DDIMScheduler": BETAS
    | CLIPPING
    | {"timestep_spacing": "leading", "rescale_betas_zero_snr": False, "set_alpha_to_one": True},
    "PNDMScheduler": BETAS | {"timestep_spacing": "leading", "set_alpha_to_one": False, "skip_prk_steps": False},
    "EulerDiscreteScheduler": BETAS
    | OTHER_SIGMAS
    | {
        "timestep_spacing": "linspace",
        "rescale_betas_zero_snr": False,
        "use_karras_sigmas": False,
        "sigma_min": None,
        "sigma_max": None,
        "final_sigmas_type": "zero",
        "interpolation_type": "linear",
        "timestep_type": "discrete",
    },
    "EulerAncestralDiscreteScheduler": BETAS | {"timestep_spacing": "linspace", "rescale_betas_zero_snr": False},
    "LMSDiscreteScheduler": BETAS | OTHER_SIGMAS | {"timestep_spacing": "linspace", "use_karras_sigmas": False},
    "DPMSolverMultistepScheduler": BETAS
    | OTHER_SIGMAS
    | {
        "timestep_spacing": "linspace",
        "rescale_betas_zero_snr": False,
        "use_karras_sigmas": False,
        "sigma_min": None,
        "sigma_max": None,
        "final_sigmas_type": "zero",
        "thresholding": False,
        "dynamic_thresholding_ratio": 0.995,
        "sample_max_value": 1.0,
        "solver_order": 2,
        "solver_type": "midpoint",
        "algorithm_type": "dpmsolver++",
        "lower_order_final": True,
        "euler_at_final": False,
        "variance_type": None,
        "use_lu_lambdas": False,
        "use_flow_sigmas": False,
        "use_dynamic_shifting": False,
        "lambda_min_clipped": -math.inf,
    },
    "LCMScheduler": BETAS
    | CLIPPING
    | {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "timestep_spacing": "leading",
        "rescale_betas_zero_snr": False,
        "set_alpha_to_one": True,
        "original_inference_steps": 50,
        "timestep_scaling": 10.0,
    },
}

# Classes of the same family that have no sampler here: a file written for one of them can still drive another.
COMPATIBLE_CLASSES = (
    "HeunDiscreteScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "TCDScheduler",
)

# Fields that change nothing here: bookkeeping, what only the compatible classes have, what only old releases had, and
# what matters only together with a field whose other value is refused.
INERT = {
    "_class_name",
    "_diffusers_version",
    "_use_default_values",
    "disable_corrector",
    "predict_x0",
    "shift_terminal",
    "solver_p",
    "noise_sampler_seed",
    "tensor_format",
    "timestep_values",
    "flow_shift",
    "time_shift_type",
}

# The values that are supported, where not every value of the right type is.
CHOICES: dict[str, tuple[Any, ...]] = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "timestep_spacing": ("leading", "linspace", "trailing"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "solver_order": (1, 2, 3),
    "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
    "algorithm_type": ("dpmsolver++", "deis"),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "use_exponential_sigmas": (False,),
    "use_beta_sigmas": (False,),
    "use_lu_lambdas": (False,),
    "use_flow_sigmas": (False,),
    "use_dynamic_shifting": (False,),
    "lambda_min_clipped": (-math.inf,),
}
CLASS_CHOICES: dict[tuple[str, str], tuple[Any, ...]] = {
    ("PNDMScheduler", "prediction_type"): ("epsilon", "v_prediction"),
    ("EulerAncestralDiscreteScheduler", "prediction_type"): ("epsilon", "v_prediction"),
    ("DDPMScheduler", "variance_type"): (None, "fixed_small", "fixed_small_log", "fixed_large"),
    # A fixed variance in a file for DDPM means nothing to this solver; a learned one would change the model's output.
    ("DPMSolverMultistepScheduler", "variance_type"): (
        None,
        "fixed_small",
        "fixed_small_log",
        "fixed_large",
        "fixed_large_log",
    ),
}

TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
POSITIVE = {"num_train_timesteps", "beta_start", "beta_end", "original_inference_steps", "clip_sample_range"}
POSITIVE |= {"sigma_min", "sigma_max", "timestep_scaling", "sample_max_value", "dynamic_thresholding_ratio"}

BELOW = {"beta_start": 1, "beta_end": 1, "num_train_timesteps": 1_000_001, "steps_offset": 1_000_001}


def read_config(config: Mapping[str, Any], scheduler_class: str, **overrides: Any) -> SchedulerConfig:
    """The fields of `config` that `scheduler_class` has, checked, with that class's defaults for the missing ones.

    `overrides` take the place of the file's values.
    """
    defaults = FIELDS[scheduler_class]
    known = {field for of_class in FIELDS.values() for field in of_class} | INERT
    for field in config:
        if field not in known:
            raise ConfigError(f"scheduler config: unknown field {field!r} (value {config[field]!r})")
    source = config.get("_class_name", scheduler_class)
    if source not in FIELDS and source not in COMPATIBLE_CLASSES:
        raise ConfigError(
            f"scheduler config: _class_name {source!r} is not supported; take one of "
            f"{', '.join([*FIELDS, *COMPATIBLE_CLASSES])}"
        )
    left_at_default = config.get("_use_default_values", ())
    given = {k: v for k, v in config.items() if k in defaults and k not in left_at_default} | overrides
    values = defaults | {name: check_value(scheduler_class, name, value) for name, value in given.items()}
    if values["trained_betas"] is not None:
        values["num_train_timesteps"] = check_length(values)
    return SchedulerConfig(**values)


def check_value(scheduler_class: str, name: str, value: Any) -> Any:
    """The value of one field, if it has the right type and the sampler supports it."""
    annotation = next(str(f.type) for f in fields(SchedulerConfig) if f.name == name)
    if name == "trained_betas":
        return check_betas(value)
    if value is None and name.startswith("use_"):
        return False
    kinds = TYPES[annotation.split(" ")[0]]
    optional = annotation.endswith("None")
    wrong_type = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
    if wrong_type and not (optional and value is None):
        raise ConfigError(f"scheduler config: {name} is {value!r}; it must be of type {annotation}")
    choices = CLASS_CHOICES.get((scheduler_class, name), CHOICES.get(name))
    if choices is not None and value not in choices:
        raise ConfigError(
            f"scheduler config: {name} {value!r} is not supported by {scheduler_class}; "
            f"supported: {', '.join(repr(c) for c in choices)}"
        )
    if name in POSITIVE and value is not None and not 0 < value < math.inf:
        raise ConfigError(f"scheduler config: {name} is {value!r}; it must be a finite number above 0")
    if name in BELOW and value >= BELOW[name]:
        raise ConfigError(f"scheduler config: {name} is {value!r}; it must be below {BELOW[name]}")
    if name == "steps_offset" and value < 0:
        raise ConfigError(f"scheduler config: steps_offset is {value!r}; it must not be negative")
    return value


def check_betas(value: Any) -> tuple[float, ...] | None:
    """A list of betas, each above 0 and below 1, or nothing."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not value or not all(isinstance(b, float) and 0 < b < 1 for b in value):
        raise ConfigError("scheduler config: trained_betas must be null or a list of numbers above 0 and below 1")
    return tuple(value)


def check_length(values: Mapping[str, Any]) -> int:
    """The number of training timesteps, which the trained betas must agree with."""
    if len(values["trained_betas"]) != values["num_train_timesteps"]:
        raise ConfigError(
            f"scheduler config: trained_betas has {len(values['trained_betas'])} values, "
            f"num_train_timesteps is {values['num_train_timesteps']}; they must agree"
        )
    return int(values["num_train_timesteps"])
