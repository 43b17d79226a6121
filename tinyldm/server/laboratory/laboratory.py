"""The laboratory: a model to try things on, its last walks, and how a trial becomes what a panel shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from tinyldm.diffusion.samplers import SAMPLERS, list_samplers
from tinyldm.pipelines.latent_check import read_statistics, statistics_path
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.pipelines.pictures import as_file
from tinyldm.pipelines.request import Request, request
from tinyldm.pipelines.walk import Step
from tinyldm.server.fields import Fields
from tinyldm.server.jobs import Job, Progress
from tinyldm.server.laboratory.drawing import plain
from tinyldm.server.laboratory.walks import Walked, Walks, walked
from tinyldm.server.studio import BETWEEN, Watch, Workroom
from tinyldm.typing import Array

MOST_STEPS = 200  # of a walk, each step of which is kept
RIVAL = "dpm++_2m"  # what a sampler is compared with first
MOMENT = 0.25  # seconds
EXAMPLES = {"text": "red apple", "classes": "0"}  # prompts to begin with, by what a model takes


class Laboratory(Workroom):
    """A model, its statistics of latents if it has any, the samplers that it runs, and the last walks.

    Raises `InputError` for a model that makes no pictures of prompts alone.
    """

    def __init__(self, model: LatentDiffusion, *, force: bool = False) -> None:
        super().__init__(model, force)
        self.walks = Walks()
        found = read_statistics(statistics_path(model.path))
        channels = model.vae.latent_channels
        self.statistics = found if found is not None and found.channels == channels else None
        self.example = EXAMPLES.get(self.parts.conditioner.takes)
        own = request(self.example).resolved(self.parts).sampler or ""
        family = SAMPLERS[own].sampler.family
        self.samplers = [one for one in list_samplers() if SAMPLERS[one.name].sampler.family == family]
        rivals = [one.name for one in self.samplers if one.name not in (own, RIVAL)]
        self.compared = own, RIVAL if family == "diffusion" and own != RIVAL else rivals[0]

    def request(self, fields: Fields) -> Request:
        """The walk that the page's fields ask for, resolved. Raises as `resolved` does."""
        return self.resolved(
            fields.text("prompt"),
            fields.text("negative_prompt"),
            fields.integer("seed", 0) or 0,
            steps=fields.integer("steps", 1, MOST_STEPS),
            guidance_scale=fields.number("guidance_scale"),
            sampler=fields.text("sampler") or None,
        )

    def compute(self, trial: Trial, tell: Callable[[Progress], None], add: Callable[[Any], None]) -> None:
        """What a trial finds, ready to be sent; see `jobs.Queue`."""
        with self.working(trial, "this; take a smaller model"):
            bench = Bench(self, trial, tell)
            bench.check()
            trial.notes += self.unknown([trial.request.prompts[0] or ""])
            for found in trial.work(bench):
                add(plain(found))
                bench.check()
            self.walks.trim()


class Bench(Watch):
    """What the work of a trial is done on: the laboratory, and walks that tell how far they are and can be stopped."""

    def __init__(self, laboratory: Laboratory, trial: Trial, tell: Callable[[Progress], None]) -> None:
        super().__init__(laboratory, trial, tell)
        self.walks, self.statistics = laboratory.walks, laboratory.statistics

    def rest(self) -> None:
        """Wait for a moment before slow work, in which who moves on can stop the trial."""
        until = time.monotonic() + MOMENT
        while time.monotonic() < until:
            self.check()
            time.sleep(MOMENT / 10)

    def walk(self, wanted: Request, maps: bool = False, number: int = 0, count: int = 1) -> Walked:
        """The walk of a request, kept or taken now: the one of this number among the `count` walks of the trial."""
        kept = self.walks.get(wanted, maps)
        if kept is not None:
            return kept

        def watch(step: Step) -> None:
            self.check()
            if time.monotonic() - self.shown < BETWEEN:
                return
            self.shown = time.monotonic()
            previews = {} if step.clean is None else {0: as_file(self.preview(step.clean))}
            part = (number + (step.index + 1) / step.count) / count
            self.say(part, step.index + 1, step.count, previews)

        walk = walked(self.parts, wanted, watch, maps)
        self.walks.put(walk, maps)
        return walk

    def score(self, z: Array) -> float | None:
        """How far a latent `(C, h, w)` is from those of real pictures; usual up to 1, None without statistics."""
        return None if self.statistics is None else float(self.statistics.scores(z[None], self.parts.vae)[0])


Work = Callable[[Bench], Iterator[Any]]


class Trial(Job):
    """A question of a panel: the walk that it is about, and the work that answers it, finding by finding."""

    def __init__(self, wanted: Request, work: Work) -> None:
        super().__init__(wanted, "laboratory")
        self.work = work
