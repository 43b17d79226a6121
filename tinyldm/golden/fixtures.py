"""Fixtures: one network on seeded or given inputs, or the scheduler's tables, recorded without a prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from tinyldm.diffusion.samplers import SAMPLERS, make_sampler
from tinyldm.errors import InputError, TinyldmError
from tinyldm.golden.record import Recording, describe, write
from tinyldm.golden.seeded import seeded_input
from tinyldm.pipelines.model import LatentDiffusion

COMPONENTS = ("text_encoder", "unet", "vae", "scheduler")


def record_fixture(
    model: LatentDiffusion,
    path: str | PathLike[str],
    component: str,
    recording: Recording | None = None,
    *,
    inputs: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
) -> None:
    """Record one model without a prompt: `unet` (z, t, context), `vae` (pixels, then z), `text_encoder` (ids).

    Inputs that are not given are seeded (`tinyldm.golden.seeded`), `size` being the latent's height and width. The
    component `scheduler` records the noise schedule's tables and every sampler's timesteps instead.
    """
    inputs, recording = inputs or {}, recording or Recording()
    check_given(component, inputs)
    if component == "scheduler":
        recording = dataclasses.replace(recording, rounding=())  # tables are not computed in an arithmetic
    arrays = fixture_inputs(model, component, seed, size) | dict(inputs)
    settings = {"fixture": component, "seed": seed, "size": list(size) if size else None, "given": sorted(inputs)}
    metadata = describe(model) | {"settings": settings}
    write(path, lambda m: run_fixture(m, component, arrays), model, metadata, recording, inputs)


# What a fixture can be given; a UNet takes conditions by further names, and says itself which.
TAKES = {"text_encoder": ("ids",), "vae": ("pixels", "z"), "scheduler": ()}


def check_given(component: str, inputs: Mapping[str, np.ndarray]) -> None:
    """Raise `InputError` for given inputs that the component does not take, or that hold NaN or infinity."""
    takes = TAKES.get(component)
    for name, array in inputs.items():
        if takes is not None and name not in takes:
            raise InputError(f"the fixture {component} takes {' and '.join(takes) or 'no inputs'}, not {name!r}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"the given input {name!r} holds NaN or infinity")


def fixture_inputs(
    model: LatentDiffusion, component: str, seed: int, size: tuple[int, int] | None
) -> dict[str, np.ndarray]:
    """Seeded inputs for a component: a batch of 2, the first 2 timesteps of interest, ids over the whole vocabulary.

    Raises `InputError` for a component that is unknown, or that the model has not.
    """
    if component not in COMPONENTS:
        raise InputError(f"fixture {component!r} is unknown; known are {', '.join(COMPONENTS)}")
    network = getattr(model, component) if component != "scheduler" else None
    if network is None:
        if component == "scheduler":
            return {}
        raise InputError(f"{model.path}: has no {component}; its networks are {', '.join(model.networks)}")
    config, (h, w) = network.config, size or (8, 8)
    if component == "text_encoder":
        uniform = seeded_input("ids", (2, config.max_position_embeddings), seed) / np.sqrt(12.0) + 0.5
        return {"ids": (np.clip(uniform, 0, 1 - 1e-6) * config.vocab_size).astype(np.int64)}
    if component == "unet":
        inputs = {"z": seeded_input("z", (2, config.in_channels, h, w), seed), "t": np.array([500, 20])}
        if hasattr(config, "context_dim"):
            text = model.text_encoder
            tokens = text.config.max_position_embeddings if text is not None else 1  # a class is one token
            inputs["context"] = seeded_input("context", (2, tokens, config.context_dim), seed)
        return inputs
    sides = (h * config.factor, w * config.factor)
    pixels = np.clip(seeded_input("pixels", (1, config.in_channels, *sides), seed), -1, 1)
    return {"pixels": pixels, "z": seeded_input("z", (1, config.latent_channels, h, w), seed)}


def run_fixture(model: LatentDiffusion, component: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Call the component on the arrays; what it records is the trace's, except for the scheduler's tables."""
    if component == "scheduler":
        return scheduler_tables(model.scheduler_config)
    if component == "text_encoder":
        model.text_encoder(arrays["ids"])
    elif component == "unet":
        model.unet(**arrays)
    else:
        if "pixels" in arrays:
            model.vae.encode(arrays["pixels"])
        if "z" in arrays:
            model.vae.decode(arrays["z"])
    return {}


def scheduler_tables(config: Mapping[str, Any], counts: Sequence[int] = (1, 2, 10, 25, 50)) -> dict[str, np.ndarray]:
    """The schedule's tables, and each sampler's timesteps and noise levels, by `scheduler/SAMPLER/STEPS/NAME`."""
    out: dict[str, np.ndarray] = {}
    for name in SAMPLERS:
        for count in counts:
            try:
                sampler = make_sampler(name, config, count)
            except TinyldmError:
                continue  # a count that this sampler does not take
            out.setdefault("scheduler/alpha_bar", np.asarray(sampler.alpha_bar))
            out[f"scheduler/{name}/{count}/timesteps"] = np.asarray(sampler.timesteps)
            if hasattr(sampler, "sigmas"):
                out[f"scheduler/{name}/{count}/sigmas"] = np.asarray(sampler.sigmas)
            out[f"scheduler/{name}/{count}/init_noise_sigma"] = np.asarray(sampler.init_noise_sigma, np.float64)
    return out
