"""The page for a person: its files, and what its script asks for.

A request for pictures is answered by a stream of server-sent events, from its place in the queue to its end: as long as
the browser reads it the job has its place, and who closes the tab or cancels leaves it.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as Asked
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tinyldm.diffusion.samplers import list_samplers
from tinyldm.errors import TinyldmError
from tinyldm.pipelines.picture_text import read_said
from tinyldm.pipelines.pictures import FITS
from tinyldm.pipelines.request import STRENGTH, Request, read_arguments, read_options, request
from tinyldm.server.connection import Endpoints, followed
from tinyldm.server.fields import Fields, read_json
from tinyldm.server.jobs import Job, Made, Progress, Queue
from tinyldm.server.refusals import Refusal, blamed
from tinyldm.server.studio import MOST_PICTURES, Studio
from tinyldm.server.uploads import from_base64, opened, png_link, resized, rgb

STATIC = Path(__file__).parent / "static"
SHARED = ("page.css", "common.js", "icon.svg")  # files of this page and of the laboratory's
# The page has its own files alone: no other site's script runs in it, and none can put it into a frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
EVENTS = "text/event-stream"  # the type of an answer of server-sent events
OF_A_BEGINNING = ("strength", "resize", "mask_blur", "image_guidance_scale")  # settings with a picture to begin from


def routes(studio: Studio, queue: Queue) -> list[Route]:
    """The page, and what its script asks for."""
    page = Page(studio, queue)
    return [
        *file_routes({"/": "index.html", "/page.js": "page.js"}),
        Route("/page/model", page.model, methods=["GET"]),
        Route("/page/pictures", page.pictures, methods=["POST"]),
        Route("/page/settings", page.settings, methods=["POST"]),
        Route("/pictures/{name}", page.picture, methods=["GET"]),
    ]


def file_routes(own: Mapping[str, str]) -> list[Route]:
    """The files of a page by their addresses: its own, and those that both pages have."""
    files = {**own, **{f"/{name}": name for name in SHARED}}

    async def file(asked: Asked) -> Response:
        return FileResponse(STATIC / files[asked.url.path], headers=HEADERS)

    return [Route(path, file, methods=["GET"]) for path in files]


class Page(Endpoints):
    """The endpoints."""

    async def model(self, asked: Asked) -> Response:
        """What the page has to know of the model."""
        parts, own = self.studio.parts, self.studio.model.defaults
        own = own if parts.conditioner.takes != "nothing" else own._replace(guidance_scale=1.0)
        height, width = (side * parts.vae.config.factor for side in parts.latent_size())
        return JSONResponse(
            {
                "name": self.studio.name,
                "takes": parts.conditioner.takes,
                "beside": self.studio.beside,
                "factor": parts.vae.config.factor,
                "defaults": {**own._asdict(), "width": width, "height": height, "strength": STRENGTH},
                "samplers": [{"name": sampler.name, "summary": sampler.summary} for sampler in list_samplers()],
                "most_pictures": MOST_PICTURES,
            }
        )

    async def pictures(self, asked: Asked) -> Response:
        """Make pictures; the answer is a stream of events."""
        fields = read_json(await asked.body())
        job = await run_in_threadpool(self.job, fields)
        return await streamed(asked, self.queue, job, "picture", lambda made: described(job, made))

    def job(self, fields: Fields) -> Job:
        """The job that the page's fields ask for. Raises `Refusal` and `InputError` for what can't be honoured."""
        settings: dict[str, Any] = {
            "steps": fields.integer("steps"),
            "guidance_scale": fields.number("guidance_scale"),
            "guidance_rescale": fields.number("guidance_rescale", 0.0),
            "sampler": fields.text("sampler") or None,
            "sampler_options": read_options(fields.text("sampler_options").split(), "sampler_options"),
            "prompt_syntax": fields.text("prompt_syntax", "webui"),
            "clip_skip": fields.integer("clip_skip", 1),
            "rng": fields.text("rng", "torch"),
            "width": fields.integer("width", 1),
            "height": fields.integer("height", 1),
        }
        begins = fields.get("image") is not None
        fields.ignore(*OF_A_BEGINNING)  # where there is none
        if begins:
            settings |= self.beginning(fields, settings.pop("width"), settings.pop("height"))
        wanted = self.asked_for(fields, fields.integer("num_images", 1, MOST_PICTURES), settings)
        return Job(wanted, "page", keep=True, began_from="a picture on the page" if begins else None)

    def beginning(self, fields: Fields, width: int | None, height: int | None) -> dict[str, Any]:
        """The picture to begin from, how strongly it is changed, and where."""
        image = rgb(from_base64(fields.get("image"), "image"), "image")
        how = fields.choice("resize", "crop", FITS)
        if how == "none" and image.size != (width or image.width, height or image.height):
            raise Refusal(f"resize: the picture's size {image.width}×{image.height} is not the one asked for", "resize")
        image = resized(image, width, height, how)
        fits = all(side % self.studio.parts.vae.config.factor == 0 for side in image.size)
        settings: dict[str, Any] = {"image": image, "resize": how if fits else "none"}
        strength, pull = fields.number("strength", STRENGTH), fields.number("image_guidance_scale")
        blur = fields.number("mask_blur", 0.0)
        if fields.get("mask") is not None:
            mask = from_base64(fields.get("mask"), "mask").convert("L")
            settings |= {"mask": resized(mask, width, height, how), "mask_blur": blur}
        if self.studio.beside == "image":
            return {**settings, "image_guidance_scale": pull}
        return {**settings, "strength": strength}

    async def settings(self, asked: Asked) -> Response:
        """The settings that a picture says of itself; the body is the file."""
        data = await asked.body()
        return JSONResponse(await run_in_threadpool(said_by, data))

    async def picture(self, asked: Asked) -> Response:
        """A picture of the folder."""
        file = self.studio.file(asked.path_params["name"])
        return FileResponse(file, media_type="image/png", headers={"X-Content-Type-Options": "nosniff"})


def said_by(data: bytes) -> dict[str, Any]:
    """The settings of a picture's file as fields of the page. Raises `InputError` where there are none."""
    opened(data, "the file")  # which bounds its kind and its size
    said = read_said(io.BytesIO(data)).settings
    arguments = read_arguments(said)
    beginning = {name: arguments.pop(name) for name in OF_A_BEGINNING if name in arguments}
    settings = fields_of(request(**arguments), 0) | beginning
    began_from = said.get("image")
    return settings if began_from is None else {**settings, "began_from": began_from}


def fields_of(wanted: Request, k: int) -> dict[str, Any]:
    """The settings of a picture as fields of the page."""
    options = " ".join(f"{name}={json.dumps(value)}" for name, value in wanted.sampler_options.items())
    names = ["steps", "guidance_scale", "guidance_rescale", "sampler", "width", "height"]
    names += ["prompt_syntax", "clip_skip", "rng", *OF_A_BEGINNING]
    return {
        "prompt": wanted.prompts[k] or "",
        "negative_prompt": wanted.negative_prompts[k],
        "seed": wanted.seeds[k],
        "sampler_options": options,
        **{name: getattr(wanted, name) for name in names},
    }


async def streamed(
    asked: Asked, queue: Queue, job: Job, name: str, show: Callable[[Any], Mapping[str, Any]]
) -> StreamingResponse:
    """An answer that goes on as long as there is something to tell of a job (`events`)."""
    changes = followed(asked, queue, job)
    await anext(changes)  # takes the place in the queue: where there is none, the answer is an error
    return StreamingResponse(events(job, changes, name, show), media_type=EVENTS, headers=HEADERS)


async def events(
    job: Job, changes: AsyncIterator[None], name: str, show: Callable[[Any], Mapping[str, Any]]
) -> AsyncIterator[str]:
    """What happens to a job as server-sent events: its place, its steps, each result under a `name`, its end."""
    yield event("entered", {"id": job.id, "count": len(job.request.prompts), "before": job.before})
    sent, said, last = 0, 0, job.progress
    while True:
        if job.state == "waiting":
            yield event("waits", {"before": job.before})
        if job.progress is not last and not job.over:
            yield event("step", shown(job.progress, last))
            last = job.progress
        for result in job.results[sent:]:
            yield event(name, show(result))
        sent = len(job.results)
        for note in job.notes[said:]:
            said += 1
            yield event("note", {"text": note})
        if job.over:
            break
        await anext(changes)
    yield ending(job)


def shown(how_far: Progress, last: Progress) -> dict[str, Any]:
    """How far a job is, with the previews that are new as links that carry their pictures."""
    new = {} if how_far.previews is last.previews else how_far.previews
    return {**vars(how_far), "previews": {k: png_link(png) for k, png in new.items()}}


def described(job: Job, made: Made) -> dict[str, Any]:
    """A finished picture: where it is, and its settings."""
    return {"index": made.index, "name": made.name, "text": made.text, "settings": fields_of(job.request, made.index)}


def ending(job: Job) -> str:
    """The last event."""
    if isinstance(job.error, TinyldmError):
        return event("failed", {"detail": str(job.error), "field": blamed(job.error)})
    return event(job.state, {"seconds": round(job.ended - job.started, 1)})


def event(name: str, data: Mapping[str, Any]) -> str:
    """A server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
