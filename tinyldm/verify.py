"""`tinyldm verify`: run a case whose pixels were published for a real checkpoint, and say whether they come out.

Test suites of the original implementations state a few pixels of a picture that a real checkpoint makes of a prompt.
Whoever has the weights can so prove the whole chain: reading, tokens, text encoder, noise schedule, sampler, UNet,
decoder. The cases are data, each with its source: `verify_cases.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from tinyldm.checkpoints.embedded import embedded
from tinyldm.errors import InputError
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.pipelines.request import request
from tinyldm.pipelines.walk import latents

SIDE = 3  # pixels wide and high: what the published slices show of the last channel


@dataclass(frozen=True)
class Case:
    """A published case, as the file of cases has it: what to run, and the pixels that must come out."""

    name: str
    checkpoint: str
    source: str
    family: str
    hint: str
    noise: str
    prompt: str | None
    arguments: dict[str, Any]
    scheduler: dict[str, Any]
    shape: Sequence[int]
    corner: Sequence[int]
    pixels: np.ndarray
    tolerance: float


@dataclass(frozen=True)
class Verdict:
    """What came out of a case."""

    case: Case
    found: np.ndarray

    @property
    def error(self) -> float:
        """The largest difference of the pixels, in parts of the full range."""
        return float(np.abs(self.found - self.case.pixels).max())

    @property
    def passed(self) -> bool:
        """Whether every pixel is within the published tolerance."""
        return self.error <= self.case.tolerance

    def __str__(self) -> str:
        def row(values: np.ndarray) -> str:
            return " ".join(f"{value:.5f}" for value in values.ravel())

        word = "pass" if self.passed else "FAIL"
        return (
            f"{word}: {self.case.name}, largest difference {self.error:.5f}, tolerance {self.case.tolerance}\n"
            f"  published {row(self.case.pixels)}\n  found     {row(self.found)}\n  source    {self.case.source}"
        )


def read_cases() -> list[Case]:
    """All published cases; what one does not state is the usual."""
    data = json.loads(files("tinyldm").joinpath("verify_cases.json").read_text(encoding="utf-8"))
    cases = []
    for stated in data["cases"]:
        pixels = np.array(stated.pop("slice")).reshape(SIDE, SIDE)
        usual = {"prompt": data["prompt"], "scheduler": {}, "corner": [size - SIDE for size in stated["shape"][1:]]}
        cases.append(Case(**usual | stated, pixels=pixels))
    return cases


def choose_cases(model: LatentDiffusion, name: str | None = None) -> list[Case]:
    """The cases of a checkpoint: the named one, or all whose hint is in the checkpoint's path.

    Weights do not tell 1.1 from 1.4, so a path without a hint needs a name. Raises `InputError` where none fits.
    """
    cases = read_cases()
    if name is not None:
        chosen = [case for case in cases if case.name == name]
        if not chosen:
            raise InputError(f"case {name!r} is unknown; known: {', '.join(case.name for case in cases)}")
        return chosen
    if model.path.resolve() == embedded().resolve():
        return [case for case in cases if case.family == "embedded"]
    path = model.path.as_posix().lower().replace("_", "-")
    chosen = [case for case in cases if case.family != "embedded" and re.search(case.hint, path)]
    if not chosen:
        known = ", ".join(f"{case.name} ({case.checkpoint})" for case in cases)
        raise InputError(f"{model.path}: its name does not tell which published checkpoint it is; say --case: {known}")
    return chosen


def run_case(model: LatentDiffusion, case: Case) -> Verdict:
    """Run a case. The first latent is drawn by the generator of the published test: NumPy's old one, or torch's.

    Raises `InputError` where the model makes pictures of another size or kind than the case.
    """
    factor, channels = model.vae.config.factor, model.vae.latent_channels
    _, height, width = case.shape
    if height % factor or width % factor:
        raise InputError(f"{model.path}: makes no pictures of {width}×{height}, which case {case.name} is of")
    shape = (1, channels, height // factor, width // factor)
    model = model.replaced(scheduler_config={**model.scheduler_config, **case.scheduler})
    pixels = np.clip(model.vae.decode(model.vae.unscale(denoised(model, case, shape)))[0] / 2 + 0.5, 0, 1)
    row, column = case.corner
    return Verdict(case, pixels[-1, row : row + SIDE, column : column + SIDE])


def denoised(model: LatentDiffusion, case: Case, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The latent that a case ends with; a case without a prompt is of an unconditional model.

    Where the published test leaves the first latent to torch's generator, it is drawn by the seed's stream as always.
    """
    noise = None
    if case.noise == "numpy":
        noise = np.random.RandomState(case.arguments["seed"]).standard_normal(shape).astype(np.float32)
    _, height, width = case.shape
    wanted = request(case.prompt, noise=noise, height=height, width=width, **case.arguments).resolved(model.parts)
    ((_, z),) = latents(model.parts, wanted)
    return z
