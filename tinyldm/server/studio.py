"""What all routes share: the model, the folder of the pictures, and how a job becomes pictures."""

from __future__ import annotations

import functools
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image

from tinyldm.errors import Stopped
from tinyldm.memory import available_bytes, expected_bytes, human_bytes
from tinyldm.pipelines.editing import beside
from tinyldm.pipelines.files import said_of, unused
from tinyldm.pipelines.infotext import infotext
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.pipelines.picture_text import picture_bytes
from tinyldm.pipelines.pictures import write_whole
from tinyldm.pipelines.preview import preview, preview_map, preview_png
from tinyldm.pipelines.prompted import words
from tinyldm.pipelines.request import Request, request
from tinyldm.pipelines.walk import Picture, Step, Walk, pictures
from tinyldm.server.jobs import Job, Made, Progress
from tinyldm.server.notes import noted
from tinyldm.server.refusals import NotEnoughMemory, NotThere, Refusal
from tinyldm.text.known import about_unknown
from tinyldm.typing import Array

MOST_PICTURES = 100  # of one request
BETWEEN = 0.1  # seconds between two previews, at least


class Workroom:
    """A model that jobs are done with, and whether requests are held against the memory there is."""

    def __init__(self, model: LatentDiffusion, force: bool) -> None:
        self.model, self.parts, self.force = model, model.parts, force

    @functools.cached_property
    def colours(self) -> Array:
        """What previews are made with; of some models it is fitted first, which takes seconds."""
        return preview_map(self.parts)

    def resolved(self, prompt: str, negative_prompt: str, seed: int, **settings: Any) -> Request:
        """A resolved request.

        Raises `InputError` for what can't be honoured, and `NotEnoughMemory`. Nothing is computed by then.
        """
        asked = prompt or (None if self.parts.conditioner.takes == "nothing" else prompt)
        wanted = request(asked, negative_prompt, seed=seed, **settings).resolved(self.parts)
        if not self.force:
            check_memory(self.model, wanted)
        return wanted

    @contextmanager
    def working(self, job: Job, too_large: str) -> Iterator[None]:
        """Note what is warned of in this block as said of a job. Raises `NotEnoughMemory` where the system has none."""
        try:
            with noted() as job.notes:
                yield
        except MemoryError:
            raise NotEnoughMemory(f"there was not enough memory for {too_large}") from None

    def unknown(self, texts: Sequence[str]) -> list[str]:
        """What there is to say of words that the model does not know."""
        said = about_unknown(self.model.tokenizer, self.model.path, texts)
        return [said] if said else []


class Studio(Workroom):
    """A model, the folder that its pictures are kept in, and whether requests are held against the memory there is.

    `loaded` are the options of the model that its pictures' files tell (`files.OPENED_WITH`). `beside` says what the
    model takes beside the latent (`editing.beside`). Raises `InputError` for a model that no request can fill.
    """

    def __init__(
        self, model: LatentDiffusion, folder: Path, *, force: bool = False, loaded: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(model, force)
        self.loaded, self.folder = loaded or {}, folder.resolve()
        self.beside = beside(model.parts)
        self.name = model.path.name
        self.kept: list[Path] = []

    # Before a job --------------------------------------------------------------------------------------------------

    def request(self, prompt: str, negative_prompt: str, seed: int | None, count: int, **settings: Any) -> Request:
        """A resolved request for so many pictures; a seed of None or -1 is drawn. Raises as `resolved` does."""
        if count > MOST_PICTURES:
            raise Refusal(f"num_images: {count} pictures are too many for one request; take {MOST_PICTURES} at most")
        drawn = secrets.randbits(32) if seed in (None, -1) else seed or 0
        return self.resolved(prompt, negative_prompt, drawn, num_images=count, **settings)

    # A job ---------------------------------------------------------------------------------------------------------

    def compute(self, job: Job, tell: Callable[[Progress], None], add: Callable[[Made], None]) -> None:
        """The pictures of a job; see `jobs.Queue`. Raises `NotEnoughMemory` where the system gives no more."""
        with self.working(job, f"a picture of {job.request.width}×{job.request.height}; take a smaller size"):
            watch = PictureWatch(self, job, tell)
            watch.check()
            job.notes += self.unknown(words(self.parts, job.request))
            for picture in pictures(self.parts, job.request, Walk(callback=watch.see)):
                add(self.finished(job, picture))
                watch.check()

    def finished(self, job: Job, picture: Picture) -> Made:
        """A picture with its file, which is written into the folder where it is to be kept."""
        k, wanted = picture.index, job.request
        said = wanted.settings(k) | said_of(self.model, self.loaded)
        said |= {} if job.began_from is None else {"image": job.began_from}
        image = picture.image if job.finish is None else job.finish(picture.image)
        text, png = infotext(said), picture_bytes(image, said)
        name = self.keep(png, wanted.prompts[k] or "picture") if job.keep else None
        return Made(k, image, png, wanted.seeds[k], text, name)

    # The folder ----------------------------------------------------------------------------------------------------

    def keep(self, png: bytes, prompt: str) -> str:
        """Write a PNG into the folder, under a name that no file has; returns the name."""
        stem = re.sub(r"\W+", "-", prompt).strip("-")[:60] or "picture"
        file = unused(self.folder / f"{stem}.png")
        write_whole(file, lambda out: out.write(png))
        self.kept.append(file)
        return file.name

    def file(self, name: str) -> Path:
        """A picture of the folder by its name. Raises `NotThere` for anything that is no picture right in it."""
        file = self.folder / name
        inside = name == file.name and not name.startswith(".") and name.endswith(".png")
        if not inside or not file.is_file() or file.resolve().parent != self.folder:
            raise NotThere(f"there is no picture {name!r}")
        return file


def check_memory(model: LatentDiffusion, wanted: Request) -> None:
    """Raise `NotEnoughMemory` where a request takes more than is free and this process holds already."""
    h, w = model.parts.latent_size(wanted.height, wanted.width)
    needed, free = expected_bytes(model, h, w), available_bytes()
    if free is None or needed <= (there := free + held_bytes()):
        return
    raise NotEnoughMemory(
        f"a picture of {wanted.width}×{wanted.height} takes about {human_bytes(needed)} of memory, and "
        f"{human_bytes(max(0, there))} are available; take a smaller size",
        "width",
    )


class Watch:
    """Looks at a job that is worked on: tells how far it is, and raises `Stopped` when it is to stop."""

    def __init__(self, room: Workroom, job: Job, tell: Callable[[Progress], None]) -> None:
        self.parts, self.colours, self.job, self.tell = room.parts, room.colours, job, tell
        self.started, self.shown = time.monotonic(), -BETWEEN

    def check(self) -> None:
        """Raise `Stopped` where the job is to stop."""
        if self.job.stopping:
            raise Stopped

    def preview(self, z: Array) -> Image.Image:
        """The colours of a clean latent `(C, h, w)`, without the decoder."""
        return preview(z, self.colours)

    def say(self, part: float, step: int, steps: int, previews: Mapping[int, bytes]) -> None:
        """Tell how far the job is, and about how long the rest takes."""
        left = (time.monotonic() - self.started) / part * (1 - part)
        self.tell(Progress(part, step, steps, previews, left))


class PictureWatch(Watch):
    """Looks at every step of a job that makes pictures."""

    def __init__(self, room: Workroom, job: Job, tell: Callable[[Progress], None]) -> None:
        super().__init__(room, job, tell)
        self.count = len(job.request.prompts)
        self.first = job.request.begun(self.parts)[1]
        self.previews: dict[int, bytes] = {}

    def see(self, step: Step) -> None:
        """After a step."""
        self.check()
        taken, steps = step.index + 1 - self.first, step.count - self.first
        now = time.monotonic()
        if now - self.shown >= BETWEEN and step.clean is not None:
            self.shown = now
            self.previews = {k: preview_png(z, self.colours) for k, z in zip(step.pictures, step.clean, strict=True)}
        part = (step.pictures.start + len(step.pictures) * taken / steps) / self.count
        self.say(part, taken, steps, self.previews)


def held_bytes() -> int:
    """The memory that this process holds, on Linux: it is counted in what a picture takes. 0 where nothing is known."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
