"""The laboratory's page: its files, and what its script asks for.

A panel's question is answered by a stream of server-sent events, as a request for pictures is (`server.page`): the page
leaves an answer that it has no more use for, and the work for it ends with the step under way.
"""

from __future__ import annotations

import math
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as Asked
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tinyldm.diffusion.samplers import make_sampler
from tinyldm.diffusion.spacing import SIGMA_SCHEDULES
from tinyldm.server.app import guarded
from tinyldm.server.fields import Fields, read_json
from tinyldm.server.jobs import Queue
from tinyldm.server.laboratory.drawing import plain
from tinyldm.server.laboratory.laboratory import MOST_STEPS, Laboratory, Trial
from tinyldm.server.laboratory.panels import MOST_SAMPLERS, PANELS, about_schedule, schedule_functions
from tinyldm.server.laboratory.sources import source_of
from tinyldm.server.page import EVENTS, HEADERS, event, file_routes, streamed
from tinyldm.server.refusals import NotThere
from tinyldm.server.security import Rules

FILES = {"/explore": "explore.html", "/explore.css": "explore.css", "/explore.js": "explore.js"}
MOST_ASKED = 1 << 20  # bytes of a question
QUICK, COMPARED = 50_000_000, "1 15"  # a network of fewer weights walks several times at once, for these scales


def explore_application(laboratory: Laboratory, rules: Rules, *, places: int = 32, **how: Any) -> Starlette:
    """The server of `tinyldm explore`, where at most `places` trials wait; `how` is what `app.guarded` takes."""
    queue = Queue(laboratory.compute, places)
    return guarded(routes(laboratory, queue), queue, rules, **{"most": MOST_ASKED, **how})


def routes(laboratory: Laboratory, queue: Queue) -> list[Route]:
    """Every address of the laboratory."""
    page = Page(laboratory, queue)
    return [
        Route("/", page.root, methods=["GET"]),
        *file_routes(FILES),
        Route("/explore/model", page.model, methods=["GET"]),
        Route("/explore/sources/{panel}", page.sources, methods=["GET"]),
        Route("/explore/schedule", page.schedule, methods=["POST"]),
        Route("/explore/{panel}", page.panel, methods=["POST"]),
    ]


class Page:
    """The endpoints."""

    def __init__(self, laboratory: Laboratory, queue: Queue) -> None:
        self.laboratory, self.queue = laboratory, queue

    async def root(self, asked: Asked) -> Response:
        """To the page."""
        return RedirectResponse("/explore", 307)

    async def model(self, asked: Asked) -> Response:
        """What the page has to know of the model."""
        laboratory, parts = self.laboratory, self.laboratory.parts
        own, weights = laboratory.model.defaults, sum(map(math.prod, parts.predictor.parameters.values()))
        return JSONResponse(
            {
                "name": parts.path.name,
                "takes": parts.conditioner.takes,
                "guides": parts.conditioner.guides,
                "takes_negative": parts.conditioner.takes_negative,
                "example": laboratory.example,
                "compare": COMPARED if weights < QUICK else "",
                "scaling_factor": parts.vae.config.scaling_factor,
                "channels": parts.vae.latent_channels,
                "defaults": own._asdict(),
                "most_steps": MOST_STEPS,
                "statistics": laboratory.statistics is not None,
                "samplers": [{"name": one.name, "summary": one.summary} for one in laboratory.samplers],
                "compared": laboratory.compared,
                "levels": list(SIGMA_SCHEDULES),
            }
        )

    async def sources(self, asked: Asked) -> Response:
        """The functions that compute a panel, with their sources, for what is chosen of them."""
        name, parts = asked.path_params["panel"], self.laboratory.parts
        functions = {known: panel.functions for known, panel in PANELS.items()} | {"schedule": schedule_functions}
        if name not in functions:
            raise NotThere(f"there is no panel {name!r}")
        fields, own = Fields(asked.query_params), self.laboratory.model.defaults
        options: dict[str, Any] = {"rescale_betas_zero_snr": True} if fields.flag("zero_snr") else {}
        options |= {"sigma_schedule": levels} if (levels := fields.text("levels")) else {}
        chosen = list(dict.fromkeys(fields.text("samplers", own.sampler).split(",")))[:MOST_SAMPLERS]
        samplers = [make_sampler(one, parts.scheduler_config, own.steps, **options) for one in chosen]
        computed = dict.fromkeys(functions[name](parts, samplers))
        return JSONResponse([plain(source_of(function)) for function in computed], headers=HEADERS)

    async def panel(self, asked: Asked) -> Response:
        """Compute a panel; the answer is a stream of events."""
        name = asked.path_params["panel"]
        if name not in PANELS:
            raise NotThere(f"there is no panel {name!r}")
        fields = read_json(await asked.body())
        trial = await run_in_threadpool(self.trial, name, fields)
        return await streamed(asked, self.queue, trial, "found", lambda found: found)

    def trial(self, name: str, fields: Fields) -> Trial:
        """The trial that a panel's fields ask for. Raises `InputError` for what can't be honoured."""
        trial = Trial(*PANELS[name].read(self.laboratory, fields))
        fields.end()
        return trial

    async def schedule(self, asked: Asked) -> Response:
        """The schedule's curves, which no network computes: they wait for nothing."""
        fields = read_json(await asked.body())
        found = plain(about_schedule(self.laboratory, fields))
        fields.end()
        return Response(event("found", found) + event("done", {"seconds": 0}), headers=HEADERS, media_type=EVENTS)
