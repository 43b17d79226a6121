"""The pictures of some rows, by one model: what a batch does here, and each worker of a cluster for itself."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from tinyldm.batches.columns import OF_A_PICTURE, PICTURE, columns
from tinyldm.batches.remembering import KEPT, remembering
from tinyldm.batches.rows import Job
from tinyldm.diffusion.random import check_seed
from tinyldm.diffusion.streams import generators
from tinyldm.errors import InputError, Stopped
from tinyldm.pipelines.editing import beside
from tinyldm.pipelines.files import began_with, said_of
from tinyldm.pipelines.latents import is_latent_file, read_latent
from tinyldm.pipelines.masks import as_mask
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.picture_text import picture_bytes
from tinyldm.pipelines.pictures import read_image, read_stored
from tinyldm.pipelines.request import STRENGTH, Request, as_texts, request
from tinyldm.pipelines.walk import Step, Walk

TOGETHER = 16  # pictures of one request, which the walk takes in groups that pay
WINDOW = KEPT  # jobs to put together from: so many that their prompts are kept
AfterStep = Callable[[Step, Sequence[Job]], object]


@dataclass(frozen=True, slots=True)
class Made:
    """What has become of a job: the bytes of its PNG file, and its settings as they stand in there; or an error.

    `size` and `digest` (SHA-256) are those of the file; `png` is empty where it is written already.
    """

    job: Job
    png: bytes = b""
    said: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    size: int = -1
    digest: str = ""
    error: str = ""

    @classmethod
    def of(cls, job: Job, png: bytes, said: Mapping[str, str], seconds: float = 0.0) -> Made:
        """A picture that is finished."""
        return cls(job, png, said, seconds, len(png), hashlib.sha256(png).hexdigest())


def with_memory(model: LatentDiffusion) -> LatentDiffusion:
    """The model, with a conditioner that keeps the last prompts."""
    return LatentDiffusion(replace(model.parts, conditioner=remembering(model.parts.conditioner)))


def files_of(job: Job) -> dict[str, Path]:
    """The pictures that a job begins from, by the names of their columns."""
    return {name: value for name, value in job.settings.items() if columns()[name] is PICTURE}


def shared_by(job: Job) -> str:
    """What pictures must have in common to be walked together, as a text.

    A variation shares it with none: the seeds of several in one request follow each other.
    """
    shared = {n: v for n, v in sorted(job.settings.items()) if n not in OF_A_PICTURE}
    alone = {"index": job.index} if job.settings.get("variation_strength") else {}
    return json.dumps(shared | alone, default=str)


def chunks(jobs: Sequence[Job], most: int = TOGETHER) -> Iterator[list[Job]]:
    """The jobs in pieces that have all in common but prompt and seed, of `most` at most.

    They come about in their order: pieces are put together from `WINDOW` jobs that follow each other.
    """
    for begin in range(0, len(jobs), WINDOW):
        alike: dict[str, list[Job]] = {}
        for job in jobs[begin : begin + WINDOW]:
            alike.setdefault(shared_by(job), []).append(job)
        for together in alike.values():
            yield from (together[k : k + most] for k in range(0, len(together), most))


def make(
    model: LatentDiffusion,
    jobs: Sequence[Job],
    batch_size: int | None = None,
    callback: AfterStep | None = None,
    loaded: Mapping[str, Any] | None = None,
) -> Iterator[Made]:
    """The pictures of jobs that have all in common but prompt and seed (`chunks`), each as it is finished.

    A job that fails is handed out with its error, and the others are made all the same. `batch_size` is that of the
    walk; `callback` is called after each step with the jobs of its pictures, and may end it by `Stopped`. The files say
    which options the model was `loaded` with (`files.OPENED_WITH`).
    """

    def after_step(step: Step) -> None:
        if callback is not None:
            callback(step, jobs[step.pictures.start : step.pictures.stop])

    begun, done = time.perf_counter(), 0
    try:
        wanted, beside = asked_of(model, jobs, loaded or {})
        for picture in model.pictures(wanted, Walk(batch_size=batch_size, callback=after_step)):
            job, now = jobs[picture.index], time.perf_counter()
            said = wanted.settings(picture.index) | beside
            yield Made.of(job, picture_bytes(picture.image, said), as_texts(said), now - begun)
            begun, done = now, done + 1
    except Stopped:
        raise
    except Exception as error:  # of whatever kind: the rest of a long run is worth more than a traceback
        if len(jobs) == 1:
            yield Made(jobs[0], error=in_words(error))
            return
        for job in jobs[done:]:  # alone, so that one that fails is no other's misfortune
            yield from make(model, [job], batch_size, callback, loaded)


def asked_of(model: LatentDiffusion, jobs: Sequence[Job], loaded: Mapping[str, Any]) -> tuple[Request, dict[str, Any]]:
    """The resolved request for jobs that have all in common but prompt and seed, and what their files say beside it."""
    wanted, own = request_of(model.parts, jobs), jobs[0].settings
    said = said_of(model, {**loaded, **own})
    if "image" in own:
        is_resized = not {"width", "height"}.isdisjoint(own) and not is_latent_file(own["image"])
        said |= began_with(own["image"], wanted.image, is_resized)
    return wanted.resolved(model.parts), said


def in_words(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) and text else f"{type(error).__name__}: {text or 'no more is known'}"


def request_of(parts: Parts, jobs: Sequence[Job]) -> Request:
    """The request for jobs that have all in common but prompt and seed. Raises `InputError` as `request` does."""
    settings = {name: value for name, value in jobs[0].settings.items() if name not in OF_A_PICTURE}
    settings |= {name: READERS[name](settings) for name in files_of(jobs[0])}
    if "image" in settings:
        begun = {} if "mask" in settings or beside(parts) == "image" else {"strength": STRENGTH}
        settings = begun | {n: v for n, v in settings.items() if n not in ("width", "height")}
    wanted = request(
        [job.settings.get("prompt") for job in jobs],
        [job.settings.get("negative_prompt", "") for job in jobs],
        **settings,
    )
    for job in jobs:
        check_seed(job.settings["seed"])
        if wanted.rng != "torch":
            generators(wanted.rng)(job.settings["seed"])
    return replace(wanted, seeds=tuple(job.settings["seed"] for job in jobs))


def image_of(settings: Mapping[str, Any]) -> Any:
    """The picture to begin from, in the size that `width` and `height` ask for; it may be a latent, too."""
    path: Path = settings["image"]
    if is_latent_file(path):
        if not {"width", "height"}.isdisjoint(settings):
            raise InputError(f"{path}: is a latent, which has its size; leave out width and height")
        return read_latent(path)
    return sized(read_image(path), settings, Image.Resampling.LANCZOS)


def mask_of(settings: Mapping[str, Any]) -> Image.Image:
    """The mask of the picture to begin from, resized as that is."""
    mask, path = read_stored(settings["mask"]), settings.get("image")
    if path is None or is_latent_file(path):
        return mask  # which the request refuses
    return sized(as_mask(mask, read_image(path)), settings, Image.Resampling.NEAREST)


def sized(image: Image.Image, settings: Mapping[str, Any], resampling: Image.Resampling) -> Image.Image:
    """A picture in the size that `width` and `height` ask for."""
    size = (settings.get("width", image.width), settings.get("height", image.height))
    if min(size) < 1:
        raise InputError(f"width and height must be positive, not {size[0]} and {size[1]}")
    return image if size == image.size else image.resize(size, resampling)


READERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "image": image_of,
    "mask": mask_of,
    "depth": lambda settings: read_stored(settings["depth"]),
    "segments": lambda settings: read_stored(settings["segments"]),
}
