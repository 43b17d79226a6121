"""Pictures in a row: as an animation (GIF, WebP) or a strip (PNG), and the way of a picture through its steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import ExifTags, Image

from tinyldm.errors import InputError
from tinyldm.pipelines.inpainting import painted
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.picture_text import OWN, write_picture
from tinyldm.pipelines.pictures import check_writable, grid, write_whole
from tinyldm.pipelines.request import Request, as_texts
from tinyldm.pipelines.seamless import seamless_parts
from tinyldm.pipelines.walk import Picture, Step
from tinyldm.typing import Array

KINDS = (".gif", ".webp", ".png")
FRAME, LAST = 125, 1500  # milliseconds that a frame is shown, and the last one


def check_animation(path: Path) -> None:
    """Raise `InputError`, before long work, for a file that can't be written, or is of another kind."""
    if path.suffix.lower() not in KINDS:
        raise InputError(f"{path}: wanted an animation, .gif or .webp, or a strip of pictures, .png")
    check_writable(path)


def write_animation(path: Path, frames: Sequence[Image.Image], said: Mapping[str, object]) -> None:
    """Write frames as what the file's name says, with the settings `said`, whole or not at all.

    The settings are PNG's text, GIF's comment and WebP's EXIF description; in the latter two as JSON.
    """
    kind, text = path.suffix.lower(), json.dumps(as_texts(said))
    if kind == ".png":
        write_picture(path, grid(frames, len(frames)), said)
        return
    exif = Image.Exif()
    exif[ExifTags.Base.Software], exif[ExifTags.Base.ImageDescription] = str(said.get("Software", OWN)), text
    options = {"comment": text.encode()} if kind == ".gif" else {"exif": exif, "quality": 90, "method": 4}
    times = [FRAME] * (len(frames) - 1) + [LAST]
    first, *others = frames
    more = {"save_all": True, "append_images": others, "duration": times, "loop": 0, **options}
    write_whole(path, lambda file: first.save(file, kind[1:].upper(), **more))


@dataclass(frozen=True)
class StepFrames:
    """What the model took for the clean latent at each step: a callback keeps it, and `frames` makes pictures of it."""

    parts: Parts
    request: Request
    seen: dict[int, list[Array]] = field(default_factory=dict)

    def after_step(self, step: Step) -> None:
        """Keep the clean latents of a step."""
        for k in step.pictures:
            if step.clean is not None:
                first = k - step.pictures.start
                self.seen.setdefault(k, []).append(step.clean[first : first + 1])

    def frames(self, picture: Picture, progress: Callable[[list[Array]], Iterable[Array]] = iter) -> list[Image.Image]:
        """The way of a finished picture: a frame for each step, and then the picture. What was kept for it is gone."""
        masked, axes = self.request.mask is not None, self.request.seamless
        parts = self.parts if axes is None else seamless_parts(self.parts, axes)
        decoded = [
            painted(parts, self.request, z) if masked else parts.decode(z)[0]
            for z in progress(self.seen.pop(picture.index, []))
        ]
        return [*decoded, picture.image]
