"""The files of pictures: their names, and that they can be written, before any work."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyldm.errors import InputError
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.pipelines.picture_text import format_of
from tinyldm.pipelines.pictures import check_writable
from tinyldm.version import __version__

OPENED_WITH = ("vae", "text_encoder", "lora", "word")  # options of a model that its pictures tell
FROM_FILES = ("image", "mask", "depth", "segments")  # the settings of a request that a file may hold


def picture_files(output: Path | None, prompts: Sequence[str], count: int) -> list[Path]:
    """The files of `count` pictures, checked to be writable; without `output` named for the first prompt and unused.

    Raises `InputError` for a name of a format that is not written, and where a file can't be written.
    """
    name = re.sub(r"\W+", "-", "".join(prompts[:1])).strip("-")[:60] or "picture"
    files = numbered(output or Path(f"{name}.png"), count)
    if output is None:
        files = [unused(file) for file in files]
    format_of(files[0])
    check_writable(files[0])
    if folder := next((file for file in files if file.is_dir()), None):
        raise InputError(f"{folder}: can't be written: it is a folder")
    return files


def said_of(model: LatentDiffusion, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What beside a request decides a picture: the model, what was put in its place or added, and how it computes.

    `settings` have the paths of the pictures that it was made with, and the options that the model was opened with.
    """
    runtime = model.runtime
    said: dict[str, Any] = {"Software": f"tinyldm {__version__}", "model": model.path.name}
    said |= {name: path.name for name in FROM_FILES if isinstance(path := settings.get(name), Path)}
    said |= {"backend": runtime.backend} if runtime.backend != "numba" else {}
    said |= {"dtype": str(runtime.dtype)} if runtime.dtype != "float32" else {}
    said |= {"precision": runtime.precision} if runtime.precision not in (None, "fast") else {}
    for option in OPENED_WITH:
        value = settings.get(option)
        names = [Path(each).name for each in value] if isinstance(value, list) else value and Path(value).name
        said |= {option: names} if names else {}
    return said


def began_with(path: Path, image: Any, is_resized: bool) -> dict[str, str]:
    """What a picture's file says of the one that it began from: its name and bytes, and the size it was brought to."""
    with path.open("rb") as file:
        began = {"image": path.name, "image_sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    return began | ({"image_resized": f"{image.width}x{image.height}"} if is_resized else {})


def numbered(path: Path, count: int) -> list[Path]:
    """`name.png`, or `name-0001.png`, `name-0002.png`, … for several."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{i:04d}{path.suffix}") for i in range(1, count + 1)]


def unused(path: Path) -> Path:
    """A name that no file has yet: where no name was asked for, none is overwritten."""
    candidate, i = path, 1
    while candidate.exists():
        i += 1
        candidate = path.with_name(f"{path.stem}-{i}{path.suffix}")
    return candidate
