"""The files of pictures: their names, and that they can be written, before any work."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyldm.errors import InputError
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.pipelines.pictures import check_writable
from tinyldm.version import __version__

FROM_FILES = ("image", "mask", "depth", "segments")  # the settings of a request that a file may hold


def picture_files(output: Path | None, prompts: Sequence[str], count: int) -> list[Path]:
    """The files of `count` pictures, checked to be writable; without `output` named for the first prompt and unused.

    Raises `InputError` for a name that is no PNG's, and where a file can't be written.
    """
    name = re.sub(r"\W+", "-", "".join(prompts[:1])).strip("-")[:60] or "picture"
    files = numbered(output or Path(f"{name}.png"), count)
    if output is None:
        files = [unused(file) for file in files]
    if files[0].suffix.lower() != ".png":
        raise InputError(f"{files[0]}: pictures are written as PNG, so the name must end in .png")
    check_writable(files[0])
    if folder := next((file for file in files if file.is_dir()), None):
        raise InputError(f"{folder}: can't be written: it is a folder")
    return files


def said_of(model: LatentDiffusion, settings: Mapping[str, Any]) -> dict[str, str]:
    """What a picture's file says beside its request: the program, the model, and the files that it was made with.

    Those are the paths in its `settings`.
    """
    said = {"Software": f"tinyldm {__version__}", "model": model.path.name}
    said |= {name: path.name for name in FROM_FILES if isinstance(path := settings.get(name), Path)}
    return said | ({"precision": "bf16"} if model.runtime.precision == "bf16" else {})


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
