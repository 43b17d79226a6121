"""OpenAI's API for images, as its clients use it: `/v1/images/generations`, `/v1/images/edits`, `/v1/models`.

Fields and their defaults follow OpenAI's API reference. What its models have and this one has not (a quality, a style,
a stream of partial pictures) is an error unless it has its default. `steps`, `seed`, `guidance_scale`, `sampler`,
`negative_prompt` and, where a picture is edited, `strength` are taken beside them, as clients send them with
`extra_body`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request as Asked
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tinyldm.pipelines.masks import as_mask, masked
from tinyldm.pipelines.pictures import as_file
from tinyldm.pipelines.request import STRENGTH
from tinyldm.server.connection import Endpoints, awaited
from tinyldm.server.fields import Fields, read_json
from tinyldm.server.jobs import Job, Made, Queue
from tinyldm.server.masking import is_transparent, transparent
from tinyldm.server.refusals import NotThere, Refusal
from tinyldm.server.security import MOST_BYTES
from tinyldm.server.studio import Studio
from tinyldm.server.uploads import opened, resized, rgb, to_base64

MOST = 10  # pictures of a request
# The values with which fields change nothing.
ONLY: Mapping[tuple[str, ...], tuple[Any, ...]] = {
    ("complexity", "frame_count", "frame_duration_ms", "svg"): (),
    ("background",): ("auto", "opaque"),
    ("input_fidelity",): ("low", "high"),
    ("partial_images",): (0, "0"),
    ("quality",): ("auto", "standard"),
    ("stream",): (False, "false"),
    ("style",): ("vivid",),
}
IGNORED = ("moderation", "user", "safety_identifier")  # they change no picture
FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


def routes(studio: Studio, queue: Queue) -> list[Route]:
    """The addresses."""
    api = Api(studio, queue)
    return [
        Route("/v1/images/generations", api.generations, methods=["POST"]),
        Route("/v1/images/edits", api.edits, methods=["POST"]),
        Route("/v1/models", api.models, methods=["GET"]),
    ]


class Api(Endpoints):
    """The endpoints."""

    async def generations(self, asked: Asked) -> Response:
        """Pictures of a prompt."""
        fields = read_json(await asked.body())
        return await self.made(asked, fields, await run_in_threadpool(self.job, fields, None))

    async def edits(self, asked: Asked) -> Response:
        """Pictures that begin from another."""
        fields, files = await read_form(asked)
        return await self.made(asked, fields, await run_in_threadpool(self.job, fields, files))

    async def models(self, asked: Asked) -> Response:
        """The model."""
        described = {"id": self.studio.name, "object": "model", "created": 0, "owned_by": "tinyldm"}
        return JSONResponse({"object": "list", "data": [described]})

    async def made(self, asked: Asked, fields: Fields, job: Job) -> Response:
        """The answer: each picture in base64, or where it lies."""
        await awaited(asked, self.queue, job)
        kind, quality = fields.text("output_format", "png"), fields.integer("output_compression")
        base = str(asked.base_url)
        data = [
            {"url": f"{base}pictures/{picture.name}"}
            if job.keep
            else {"b64_json": to_base64(converted(picture, kind, quality))}
            for picture in job.pictures
        ]
        size = f"{job.request.width}x{job.request.height}"
        about = {"background": "opaque", "output_format": kind, "size": size}
        return JSONResponse({"created": int(time.time()), "data": data, **about})

    def job(self, fields: Fields, files: dict[str, bytes] | None) -> Job:
        """The job that the fields ask for. Raises `Refusal` and `InputError` for what can't be honoured."""
        fields.without_part(ONLY)
        fields.ignore(*IGNORED)
        model = fields.text("model", self.studio.name)
        if model != self.studio.name:
            raise NotThere(f"the model {model!r} is not here; this server has {self.studio.name!r}", "model")
        keep = fields.choice("response_format", "b64_json", ("b64_json", "url")) == "url"
        kind = fields.choice("output_format", "png", FORMATS)
        if keep and kind != "png":
            raise Refusal("pictures that are kept at a url are png; take b64_json for other formats", "response_format")
        fields.integer("output_compression", 0, 100)
        settings: dict[str, Any] = {
            "steps": fields.integer("steps"),
            "guidance_scale": fields.number("guidance_scale"),
            "sampler": fields.text("sampler") or None,
        }
        size = size_of(fields.text("size", "auto"))
        settings |= size if files is None else edited(fields, files, size, self.studio.beside)
        if fields.get("prompt") is None:
            raise Refusal("prompt is missing", "prompt")
        wanted = self.asked_for(fields, fields.integer("n", 1, MOST), settings)
        return Job(wanted, "openai", keep=keep, began_from=None if files is None else "image")


def size_of(text: str) -> dict[str, Any]:
    """Width and height of a text such as `512x768`; `auto` leaves them to the model, or to the picture."""
    if text == "auto":
        return {}
    match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text)
    if match is None or "0" in (match[1].strip("0") or "0", match[2].strip("0") or "0"):
        raise Refusal(f"size must be such as 512x512, or auto, not {text!r}", "size")
    return {"width": int(match[1]), "height": int(match[2])}


def edited(fields: Fields, files: dict[str, bytes], size: Mapping[str, int], beside: str) -> dict[str, Any]:
    """The picture to begin from, in the size that is asked for, how strongly it is changed, and where.

    That is where the mask is transparent, or without one the picture itself.
    """
    if "image" not in files:
        raise Refusal("image is missing: the picture to edit, as a file", "image")
    for name in files:
        if name not in ("image", "mask"):
            raise Refusal(f"{name} is not supported; leave it out", name)
    stored = opened(files["image"], "image")
    strength = fields.number("strength")
    settings: dict[str, Any] = {} if beside == "image" else {"strength": STRENGTH if strength is None else strength}
    if "mask" in files:
        image, mask = rgb(stored, "image"), transparent(opened(files["mask"], "mask"))
        as_mask(mask, image)  # looked at before either is resized
    elif is_transparent(stored):
        image, mask = masked(stored, None)
    else:
        image = resized(rgb(stored, "image"), size.get("width"), size.get("height"), "crop")
        return {"image": image, "resize": "none" if size else "crop", **settings}
    image, mask = (resized(part, size.get("width"), size.get("height"), "crop") for part in (image, mask))
    return {"image": image, "mask": mask, "strength": 1.0 if strength is None else strength}


async def read_form(asked: Asked) -> tuple[Fields, dict[str, bytes]]:
    """The fields and the files of a form. Raises `Refusal` for anything else, and for a name that comes twice.

    All of it stays in memory, whose size the guard has bounded: no file is written.
    """
    if not asked.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refusal("the body must be a form (multipart/form-data) with the picture as the file `image`")
    try:
        parser = MultiPartParser(asked.headers, asked.stream(), max_files=17, max_fields=100, max_part_size=1 << 20)
        parser.spool_max_size = MOST_BYTES + 1
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError) as error:
        raise Refusal(f"the form can't be read: {getattr(error, 'message', error)}") from None
    try:
        return await sorted_out(form)
    finally:
        await form.close()


async def sorted_out(form: FormData) -> tuple[Fields, dict[str, bytes]]:
    """The fields and the files of a form that was read. Raises `Refusal` for a name that comes twice."""
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for key, value in form.multi_items():
        name = key.removesuffix("[]")
        if name in fields or name in files:
            raise Refusal(f"{name} is there more than once; this server takes one", name)
        if isinstance(value, UploadFile):
            files[name] = await value.read()
        else:
            fields[name] = value
    return Fields(fields), files


def converted(picture: Made, kind: str, quality: int | None) -> bytes:
    """A picture in a format; its settings stand in a PNG alone."""
    if kind == "png":
        return picture.png
    return as_file(picture.image, FORMATS[kind], quality=100 if quality is None else quality)
