"""Record what a model computes as a golden file: the pictures of a request, or whatever is run."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from tinyldm import tracing
from tinyldm.diffusion.samplers.registry import find_sampler
from tinyldm.errors import InputError
from tinyldm.golden.guides import guides_of, put_on_top
from tinyldm.golden.module_errors import Errors, ModuleErrorTrace, add_evaluation
from tinyldm.golden.rounding import EVALUATIONS, rounded_model, rounding
from tinyldm.golden.store import GoldenWriter, raw_bytes, sample_positions
from tinyldm.golden.tracing import GoldenTrace, Sink
from tinyldm.models.network import Network
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.pipelines.request import Request, request
from tinyldm.version import __version__

GIVEN_BYTES = 1 << 28  # of inputs that are kept in the file, so that `check` can run it again
Run = Callable[[LatentDiffusion], Mapping[str, np.ndarray]]  # more arrays to record, by key


@dataclasses.dataclass(frozen=True)
class Recording:
    """What of a run is recorded, and under which names.

    Keys that match one of `select`, in diffusers' names or in those that `rename` gives (`names.compvis_names`); with
    `inputs` the inputs of each module; of each tensor at most `sample` values, or with `values=False` statistics alone.

    `rounding` names the arithmetics whose honest error is to stand in the file (for `--tolerance auto`): the run is
    repeated eight times for each, so the model should be a float64 one. `tell` is called with what is being done, where
    that takes long.
    """

    select: Sequence[str] = ("*",)
    inputs: bool = False
    sample: int | None = None
    values: bool = True
    rounding: Sequence[str] = ()
    rename: Callable[[str], str] | None = None
    tell: Callable[[str], object] = lambda text: None

    def check(self, model: LatentDiffusion) -> None:
        """Raise `InputError` for rounding errors that can't be measured."""
        for arithmetic in self.rounding:
            rounding(arithmetic)
        if self.rounding and not self.values:
            raise InputError("rounding errors need values: they can't be recorded with statistics alone")
        if self.rounding and model.runtime.dtype != np.float64:
            raise InputError(f"rounding errors are measured by a float64 run, and this one is {model.runtime.dtype}")

    def settings(self) -> dict[str, Any]:
        """What the file says of it."""
        values = {"select": self.select, "sample": self.sample, "inputs": self.inputs, "rounding": self.rounding}
        return {name: list(v) if isinstance(v, Sequence) else v for name, v in values.items()}


def record(
    model: LatentDiffusion, path: str | PathLike[str], wanted: Request, recording: Recording | None = None
) -> None:
    """Record the pictures of a request (`pipelines.request.request`), from the tokens to the pixels."""
    own = {name: value for name, value in model.defaults._asdict().items() if getattr(wanted, name) is None}
    wanted = dataclasses.replace(wanted, **own)
    wanted = dataclasses.replace(wanted, sampler=find_sampler(str(wanted.sampler)))

    def run(m: LatentDiffusion) -> dict[str, np.ndarray]:
        images = [picture.image for picture in m.pictures(wanted)]
        return {"picture": np.stack([np.moveaxis(np.asarray(image), -1, 0) for image in images])}

    guides, given = guides_of(model)
    settings = settings_of(wanted) | ({"guides": guides, "given": sorted(given)} if guides else {})
    write(path, run, model, describe(model) | {"settings": settings}, recording or Recording(), given)


# The fields of a request that a file states as they are. What only some requests have is stated by those alone, so that
# files of earlier versions are of the same run.
STATED = ("steps", "sampler", "guidance_scale", "height", "width")
STATED_IF_SET = (
    *("sampler_options", "one_stream", "guidance_rescale", "prompt_syntax", "clip_skip", "rng", "seamless"),
    *("variation_seed", "variation_strength"),
)
USUAL = request()


def settings_of(wanted: Request) -> dict[str, Any]:
    """What a file says of a request. Raises `InputError` for one that it can't state, so that none could repeat it."""
    unstated = ("image", "mask", "depth", "segments", "way", "conditions", "noise")
    if any(getattr(wanted, name) is not None for name in unstated):
        raise InputError("a request with a picture, a latent or arrays can't be recorded: a file could not state them")
    varied = bool(wanted.variation_strength)  # then all pictures have the first seed
    if wanted.seeds != tuple(wanted.seeds[0] + k * (not varied) for k in range(len(wanted.prompts))):
        raise InputError(f"recorded pictures have seeds one after the other, not {wanted.seeds}")
    negative = list(wanted.negative_prompts)
    return {
        "prompt": list(wanted.prompts),
        "negative_prompt": negative[0] if len(set(negative)) == 1 else negative,
        "seed": wanted.seeds[0],
        **{name: getattr(wanted, name) for name in STATED},
        **{name: value for name in STATED_IF_SET if (value := getattr(wanted, name)) != getattr(USUAL, name)},
    }


def request_of(settings: Mapping[str, Any]) -> Request:
    """The request that a file's settings state."""
    names = ("prompt", "negative_prompt", "seed", *STATED)
    stated = {name: settings[name] for name in names} | {n: settings[n] for n in STATED_IF_SET if n in settings}
    return request(stated.pop("prompt"), stated.pop("negative_prompt"), **stated)


def write(
    path: str | PathLike[str],
    run: Run,
    model: LatentDiffusion,
    metadata: Mapping[str, Any],
    recording: Recording,
    given: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Run and write; then repeat the run in every honest evaluation, compare tensor by tensor, and write that too.

    `given` are inputs that no seed can make again: they are kept in the file.
    """
    recording.check(model)
    facts = {
        **metadata,
        "names": "compvis" if recording.rename else "diffusers",
        "settings": metadata["settings"] | recording.settings(),
    }
    with GoldenWriter(path, facts, sample=recording.sample, values=recording.values) as writer:
        of_modules = traced_run(run, model, recording, writer.add, errors_of_modules=recording.inputs)
        if not writer.order:
            raise InputError(f"{path}: nothing to record: no tensor matches {' '.join(recording.select)}")
        if recording.rounding:
            writer.metadata["rounding"] = {
                a: honest_errors(run, model, a, writer, recording) for a in recording.rounding
            }
        if of_modules:
            writer.metadata["rounding_alone"] = of_modules
        keep_given(writer, given or {}, recording)


def keep_given(writer: GoldenWriter, given: Mapping[str, np.ndarray], recording: Recording) -> None:
    """Keep what the run was given, unless that is too much; which is told."""
    size = sum(array.nbytes for array in given.values())
    if size > GIVEN_BYTES:
        recording.tell(f"the given inputs, {size:,} bytes, are not kept: `golden check` can't run this file again")
        return
    for name, array in given.items():
        writer.add_given(name, array)


def traced_run(
    run: Run, model: LatentDiffusion, recording: Recording, sink: Sink, *, errors_of_modules: bool = False
) -> dict[str, Errors]:
    """Run the model and give every tensor that is recorded to `sink`; the honest errors of modules, where wanted."""
    t = GoldenTrace(recording.select, recording.inputs, sink, recording.rename)
    if errors_of_modules and recording.rounding:
        recording.tell(f"the run, and the error of every module alone in honest {', '.join(recording.rounding)}")
        twins = {arithmetic: rounded_model(model, arithmetic) for arithmetic in recording.rounding}
        t = ModuleErrorTrace(recording.select, sink, recording.rename, twins)
    with tracing.trace(into=t):
        more = run(model)
    for key, array in more.items():
        t.milestone(key, array)
    return t.errors if isinstance(t, ModuleErrorTrace) else {}


def honest_errors(
    run: Run, model: LatentDiffusion, arithmetic: str, oracle: GoldenWriter, recording: Recording
) -> Errors:
    """By key, the largest maximum error and RMSE of the honest evaluations; nulls where one overflows."""
    errors: Errors = {}

    def compare(key: str, array: np.ndarray, inputs: tuple[np.ndarray, ...]) -> None:
        golden = oracle.stored(key)
        if golden.shape != array.shape:
            array = array.reshape(-1)[sample_positions(key, array.size, golden.size)]
        add_evaluation(errors, key, golden, array)

    for i in range(EVALUATIONS):
        recording.tell(f"the error of honest {arithmetic}: evaluation {i + 1} of {EVALUATIONS}")
        traced_run(run, rounded_model(model, arithmetic, i), dataclasses.replace(recording, inputs=False), compare)
    return errors


# What is said of the model -------------------------------------------------------------------------------------------


def describe(model: LatentDiffusion) -> dict[str, Any]:
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
        **({"beside": beside} if (beside := put_on_top(model)) else {}),
        "weights_sha256": {name: weights_digest(network) for name, network in model.networks.items()},
        "runtime": {"backend": runtime.backend, "dtype": str(runtime.dtype), "precision": runtime.precision},
    }


def weights_digest(network: Network[Any]) -> str:
    """The SHA-256 over name, shape and float32 values of every weight that the architecture has, in name order."""
    source, h = network.weights.source, hashlib.sha256()
    for name in sorted(network.parameters):
        array = np.ascontiguousarray(source.read(name, np.float32), "<f4")
        h.update(f"{name}|{array.shape}|".encode())
        h.update(raw_bytes(array))
    return h.hexdigest()
