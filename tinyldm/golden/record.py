"""Record what a model computes as a golden file: a whole run from a prompt, or one model on given inputs."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from tinyldm import tracing
from tinyldm.errors import InputError
from tinyldm.golden.alone import AloneTrace, Errors, worse
from tinyldm.golden.rounding import EVALUATIONS, rounded_component, rounded_model
from tinyldm.golden.rounding import rounding as check_arithmetic
from tinyldm.golden.seeded import seeded_input
from tinyldm.golden.store import GoldenWriter, raw_bytes, sample_positions
from tinyldm.golden.tracing import GoldenTrace, Sink
from tinyldm.version import __version__

COMPONENTS = ("text_encoder", "unet", "vae")
GIVEN_BYTES = 1 << 28  # of inputs that are kept in the file, so that `check` can run it again
Run = Callable[[Any], Mapping[str, np.ndarray]]  # the model -> more arrays to record, by key
Rename = Callable[[str], str]
Twin = Callable[[int], Any]  # which honest evaluation -> the model that makes it
Tell = Callable[[str], None]  # what is being done


def ignore(_: str) -> None:
    """Tell nobody."""


@dataclasses.dataclass(frozen=True)
class Keep:
    """What of a run is kept: keys that match one of `select`, in diffusers' names or in those asked for; with `inputs`
    the inputs of each module; of each tensor at most `sample` values, or with `values=False` statistics alone.
    """

    select: tuple[str, ...] = ("*",)
    inputs: bool = False
    sample: int | None = None
    values: bool = True


def record(
    model: Any,
    path: str | PathLike[str],
    *,
    prompt: str | Sequence[str] = "",
    negative_prompt: str | Sequence[str] = "",
    seed: int = 0,
    steps: int = 25,
    sampler: str = "ddim",
    guidance_scale: float = 7.5,
    height: int | None = None,
    width: int | None = None,
    keep: Keep | None = None,
    rounding: Sequence[str] = (),
    rename: Rename | None = None,
    tell: Tell = ignore,
) -> None:
    """Record text to image, from the tokens to the picture, with the settings of `LatentDiffusion.text_to_image`.

    `rounding` names the arithmetics whose honest error is to stand in the file (for `--tolerance auto`): the run is
    repeated eight times for each, so the model should be a float64 one. `rename` gives the original layout's names
    (`names.compvis_names`). `tell` is called with what is being done, where that takes long.
    """
    settings = {
        "prompt": [prompt] if isinstance(prompt, str) else list(prompt),
        "negative_prompt": negative_prompt if isinstance(negative_prompt, str) else list(negative_prompt),
        "seed": seed,
        "steps": steps,
        "sampler": sampler,
        "guidance_scale": guidance_scale,
        "height": height,
        "width": width,
    }

    def run(m: Any) -> dict[str, np.ndarray]:
        images = m.text_to_image(
            settings["prompt"],
            negative_prompt,
            steps=steps,
            guidance_scale=guidance_scale,
            seed=seed,
            sampler=sampler,
            height=height,
            width=width,
        )
        return {"picture": np.stack([np.moveaxis(np.asarray(image), -1, 0) for image in images])}

    twins: dict[str, Twin] = {a: functools.partial(rounded_model, model, a) for a in rounding}
    write(path, run, model, twins, describe(model) | {"settings": settings}, keep or Keep(), rename, tell)


def record_fixture(
    model: Any,
    path: str | PathLike[str],
    component: str,
    *,
    inputs: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    keep: Keep | None = None,
    rounding: Sequence[str] = (),
    rename: Rename | None = None,
    tell: Tell = ignore,
) -> None:
    """Record one model without a prompt: `unet` (z, t, context), `vae` (pixels, then z), `text_encoder` (ids).

    Inputs that are not given are seeded (`tinyldm.golden.seeded`), `size` being the latent's height and width. The
    component `scheduler` records the noise schedule's tables and every sampler's timesteps instead.
    """
    check_given(component, inputs or {})
    arrays = fixture_inputs(model, component, seed, size) | dict(inputs or {})

    def run(m: Any) -> dict[str, np.ndarray]:
        return run_fixture(m, component, arrays)

    twins: dict[str, Twin] = {}
    if component in COMPONENTS:

        def twin(arithmetic: str, evaluation: int) -> Any:
            parts = {component: rounded_component(getattr(model, component), arithmetic, evaluation)}
            return model.replaced(**parts)

        twins = {a: functools.partial(twin, a) for a in rounding}
    settings = {"fixture": component, "seed": seed, "size": list(size) if size else None, "given": sorted(inputs or {})}
    metadata = describe(model) | {"settings": settings}
    write(path, run, model, twins, metadata, keep or Keep(), rename, tell, given=inputs or {})


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


def fixture_inputs(model: Any, component: str, seed: int, size: tuple[int, int] | None) -> dict[str, np.ndarray]:
    """Seeded inputs for a component: a batch of 2, the first 2 timesteps of interest, ids over the whole vocabulary."""
    if component == "scheduler":
        return {}
    if component not in COMPONENTS:
        raise InputError(f"fixture {component!r} is unknown; known are {', '.join([*COMPONENTS, 'scheduler'])}")
    if component == "text_encoder":
        config = model.text_encoder.config
        uniform = seeded_input("ids", (2, config.max_position_embeddings), seed) / np.sqrt(12.0) + 0.5
        return {"ids": (np.clip(uniform, 0, 1 - 1e-6) * config.vocab_size).astype(np.int64)}
    h, w = size or (8, 8)
    if component == "unet":
        config = model.unet.config
        tokens = model.text_encoder.config.max_position_embeddings
        return {
            "z": seeded_input("z", (2, config.in_channels, h, w), seed),
            "t": np.array([500, 20]),
            "context": seeded_input("context", (2, tokens, config.context_dim), seed),
        }
    config = model.vae.config
    pixels = np.clip(seeded_input("pixels", (1, config.in_channels, h * config.factor, w * config.factor), seed), -1, 1)
    return {"pixels": pixels, "z": seeded_input("z", (1, config.latent_channels, h, w), seed)}


def run_fixture(model: Any, component: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
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
    from tinyldm.diffusion.samplers import SAMPLERS, make_sampler
    from tinyldm.errors import TinyldmError

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


def write(
    path: str | PathLike[str],
    run: Run,
    model: Any,
    twins: Mapping[str, Twin],
    metadata: dict[str, Any],
    keep: Keep,
    rename: Rename | None = None,
    tell: Tell = ignore,
    given: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Run and write; then repeat the run in every honest evaluation, compare tensor by tensor, and write that too.

    `given` are inputs that no seed can make again: they are kept in the file.
    """
    for arithmetic in twins:
        check_arithmetic(arithmetic)
    if twins and not keep.values:
        raise InputError("rounding errors need values: they can't be recorded with statistics alone")
    if twins and model.runtime.dtype != np.float64:
        raise InputError(f"rounding errors are measured by a float64 run, and this one is {model.runtime.dtype}")
    metadata["names"] = "compvis" if rename else "diffusers"
    metadata["settings"] = metadata["settings"] | {
        "select": list(keep.select),
        "sample": keep.sample,
        "inputs": keep.inputs,
        "rounding": list(twins),
    }
    rename = rename or (lambda key: key)
    with GoldenWriter(path, metadata, sample=keep.sample, values=keep.values) as writer:
        alone = traced_run(run, model, keep, rename, writer.add, twins if keep.inputs else {}, tell)
        if not writer.order:
            raise InputError(f"{path}: nothing to record: no tensor matches {' '.join(keep.select)}")
        if twins:
            writer.metadata["rounding"] = {
                arithmetic: honest_errors(run, arithmetic, twin, writer, keep, rename, tell)
                for arithmetic, twin in twins.items()
            }
        if alone:
            writer.metadata["rounding_alone"] = alone
        keep_given(writer, given or {}, tell)


def keep_given(writer: GoldenWriter, given: Mapping[str, np.ndarray], tell: Tell) -> None:
    """Keep what the run was given, unless that is too much; which is told."""
    size = sum(array.nbytes for array in given.values())
    if size > GIVEN_BYTES:
        tell(f"the given inputs, {size:,} bytes, are not kept: `golden check` can't run this file again")
        return
    for name, array in given.items():
        writer.add_given(name, array)


def traced_run(
    run: Run,
    model: Any,
    keep: Keep,
    rename: Rename,
    take: Sink,
    twins: Mapping[str, Twin] | None = None,
    tell: Tell = ignore,
) -> dict[str, Errors]:
    """Run the model and give every tensor that is kept to `take`; with twins, the honest errors of modules alone."""

    def sink(key: str, array: np.ndarray, inputs: tuple[np.ndarray, ...] = ()) -> None:
        take(rename(key), array, inputs)

    t = GoldenTrace(keep.select, keep.inputs, sink, rename)
    if twins:
        tell(f"the run, and the error of every module alone in honest {', '.join(twins)}")
        t = AloneTrace(keep.select, sink, rename, {arithmetic: twin(0) for arithmetic, twin in twins.items()})
    with tracing.trace(into=t):
        more = run(model)
    for key, array in more.items():
        if t.selected(key):
            sink(key, array)
    found = t.errors if isinstance(t, AloneTrace) else {}
    return {arithmetic: {rename(key): e for key, e in errors.items()} for arithmetic, errors in found.items()}


def honest_errors(
    run: Run, arithmetic: str, twin: Twin, oracle: GoldenWriter, keep: Keep, rename: Rename, tell: Tell
) -> Errors:
    """By key, the largest maximum error and RMSE of the honest evaluations; nulls where one overflows."""
    errors: Errors = {}

    def compare(key: str, array: np.ndarray, inputs: tuple[np.ndarray, ...]) -> None:
        stored = oracle.stored(key)
        if stored.shape != array.shape:
            array = np.asarray(array).reshape(-1)[sample_positions(key, array.size, stored.size)]
        worse(errors, key, stored, array)

    for i in range(EVALUATIONS):
        tell(f"the error of honest {arithmetic}: evaluation {i + 1} of {EVALUATIONS}")
        traced_run(run, twin(i), dataclasses.replace(keep, inputs=False), rename, compare)
    return errors


# What is said of the model -------------------------------------------------------------------------------------------


def describe(model: Any) -> dict[str, Any]:
    """The metadata of a model: versions, configurations, the digest of its weights, and how it computes."""
    runtime = model.runtime
    return {
        "versions": {"tinyldm": __version__, "numpy": np.__version__, "python": platform.python_version()},
        "machine": platform.machine(),
        "model": str(model.path),
        "config": {
            **{name: dataclasses.asdict(network.config) for name, network in model.networks.items()},
            "scheduler": dict(model.scheduler_config),
        },
        "weights_sha256": {name: weights_digest(network) for name, network in model.networks.items()},
        "runtime": {"backend": runtime.backend, "dtype": str(runtime.dtype), "precision": runtime.precision},
    }


def weights_digest(component: Any) -> str:
    """The SHA-256 over name, shape and float32 values of every weight that the architecture has, in name order."""
    source, h = component.weights.source, hashlib.sha256()
    for name in sorted(component.parameters):
        array = np.ascontiguousarray(source.read(name, np.float32), "<f4")
        h.update(f"{name}|{array.shape}|".encode())
        h.update(raw_bytes(array))
    return h.hexdigest()


__all__ = ["GoldenTrace", "Keep", "record", "record_fixture", "scheduler_tables"]
