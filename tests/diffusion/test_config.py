"""Reading `scheduler_config.json`: defaults of the chosen class, and nothing ignored in silence."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import pytest
from golden.provenance import load_golden

from tinyldm.diffusion.samplers import SAMPLERS, find_sampler, make_sampler
from tinyldm.errors import ConfigError

# As published with Stable Diffusion 1.5, 2.1, SDXL base and SD-Turbo.
PUBLISHED = [
    """{"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false,
    "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null, "clip_sample": false}""",
    """{"_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": false, "num_train_timesteps": 1000,
    "prediction_type": "v_prediction", "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
    "trained_betas": null}""",
    """{"_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": false, "interpolation_type": "linear",
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": false,
    "skip_prk_steps": true, "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": null,
    "use_karras_sigmas": false}""",
    """{"_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.24.0.dev0", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": false, "interpolation_type": "linear",
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": false,
    "sigma_max": null, "sigma_min": null, "skip_prk_steps": true, "steps_offset": 1, "timestep_spacing": "trailing",
    "timestep_type": "discrete", "trained_betas": null, "use_karras_sigmas": false}""",
    """{"_class_name": "DPMSolverMultistepScheduler", "_diffusers_version": "0.30.0", "algorithm_type": "dpmsolver++",
    "lambda_min_clipped": -Infinity, "solver_type": "midpoint", "variance_type": null, "use_lu_lambdas": false}""",
    """{"_class_name": "UniPCMultistepScheduler", "solver_type": "bh2", "predict_x0": true, "solver_p": null,
    "disable_corrector": []}""",
]


@pytest.mark.parametrize("text", PUBLISHED)
@pytest.mark.parametrize("name", SAMPLERS)
def test_published_files_drive_every_sampler(text: str, name: str) -> None:
    if SAMPLERS[name].sampler.family == "flow":
        with pytest.raises(ConfigError, match="_class_name"):
            make_sampler(name, json.loads(text), 10)
    else:
        assert len(make_sampler(name, json.loads(text), 10).timesteps) in (10, 11, 19)  # some call more than once


def config_of(name: str, config: dict[str, Any]) -> Any:
    return make_sampler(name, config, 10).config


def test_missing_fields_take_the_defaults_of_the_chosen_class() -> None:
    """Those of diffusers 0.42.1, for each field that a class has there."""
    of_all = load_golden("diffusion/defaults")[1]["defaults"]
    assert of_all.keys() == {entry.sampler.scheduler_class for entry in SAMPLERS.values()} - {None}
    for scheduler_class, defaults in of_all.items():
        own = {f.name: f.default for f in fields(SAMPLERS[find_sampler(scheduler_class)].sampler.Config)}
        compared = defaults.keys() & own.keys()
        assert len(compared) >= (2 if "Flow" in scheduler_class else 8)
        for field in compared:
            default = defaults[field]
            default = -math.inf if default == "-inf" else tuple(default) if isinstance(default, list) else default
            assert own[field] == default, (scheduler_class, field)


def test_fields_of_other_classes_are_passed_over() -> None:
    config = {"_class_name": "DDIMScheduler", "clip_sample": True, "thresholding": 5, "skip_prk_steps": True}
    assert config_of("pndm", config) == config_of("pndm", {"skip_prk_steps": True})


def test_fields_left_at_the_default_of_their_own_class_do_not_count() -> None:
    config = {"timestep_spacing": "leading", "_use_default_values": ["timestep_spacing"]}
    assert config_of("euler", config).timestep_spacing == "linspace"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beta_schedule", "sigmoid"),
        ("beta_start", "0.1"),
        ("beta_start", None),
        ("beta_end", -1.0),
        ("beta_end", math.nan),
        ("num_train_timesteps", 1000.0),
        ("num_train_timesteps", True),
        ("num_train_timesteps", 0),
        ("prediction_type", "flow_prediction"),
        ("timestep_spacing", "middle"),
        ("steps_offset", -1),
        ("rescale_betas_zero_snr", 1),
        ("trained_betas", [0.1, 2.0]),
        ("trained_betas", [0.1, 0.2]),
        ("trained_betas", "linear"),
        ("solver_order", 4),
        ("lambda_min_clipped", math.nan),
        ("use_flow_sigmas", True),
        ("variance_type", "learned_range"),
        ("final_sigmas_type", "one"),
        ("sigma_min", 0.0),
        ("made_up", None),
        ("_class_name", "FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_errors_name_the_field(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        make_sampler("dpm++_2m", {field: value}, 10)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("pndm", "prediction_type", "sample"),
        ("euler_a", "prediction_type", "sample"),
        ("ddpm", "variance_type", "learned"),
        ("ddpm", "variance_type", "fixed_large_log"),
        ("euler", "interpolation_type", "log_linear"),
        ("euler", "timestep_type", "continuous"),
    ],
)
def test_errors_of_single_samplers(name: str, field: str, value: str) -> None:
    with pytest.raises(ConfigError, match=field):
        make_sampler(name, {field: value}, 10)


def test_null_switches_are_off() -> None:
    assert config_of("euler", {"use_karras_sigmas": None}).use_karras_sigmas is False
