"""Pictures as arrays and back, and as files: what happens at both ends of the walk."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from tinyldm.errors import InputError


def to_pixels(image: Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
    """A picture as the autoencoder takes it: `(1, 3, H, W)` float32 in [-1, 1]; what is transparent becomes white.

    `size` is `(width, height)` to resize to (Lanczos).
    """
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if size is not None and size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    levels = np.asarray(image, np.float32) / 255
    return np.moveaxis(2 * levels - 1, -1, 0)[None]


def to_images(pixels: np.ndarray) -> list[Image.Image]:
    """Pixels `(N, 3, H, W)`, clipped to [-1, 1], as 8-bit pictures; warns of NaN, which becomes black."""
    missing = np.isnan(pixels)
    if missing.any():
        warnings.warn(
            f"{missing.mean():.1%} of the picture's values are NaN, and black: a number overflowed on the way",
            stacklevel=2,
        )
        pixels = np.where(missing, -1, pixels)
    levels = np.clip(pixels / 2 + 0.5, 0, 1)
    return [Image.fromarray(np.round(p * 255).astype(np.uint8)) for p in np.moveaxis(levels, 1, -1)]


def grid(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size side by side, row by row, in one picture; what stays empty is white."""
    width, height = images[0].size
    sheet = Image.new("RGB", (width * min(columns, len(images)), height * -(-len(images) // columns)), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet


def read_image(path: str | Path) -> Image.Image:
    """Read a picture file. Raises `InputError` where it is missing, no picture, or damaged."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a picture in a format that Pillow reads") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: the picture can't be read: {error}") from None


def write_png(path: str | Path, image: Image.Image, metadata: Mapping[str, object]) -> None:
    """Write a PNG with text metadata, whole or not at all."""
    text = PngImagePlugin.PngInfo()
    for key, value in metadata.items():
        text.add_itxt(key, str(value))
    write_whole(path, lambda file: image.save(file, "PNG", pnginfo=text))


def write_whole(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all: to a temporary file beside it, which then takes its name.

    Raises `InputError` where that can't be done; nothing is left behind.
    """
    path = Path(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            write(file)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Raise `InputError`, before long work begins, where `path` could not be written after it."""
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path}: can't be written: there is no folder {path.parent}")
    if path.is_dir():
        raise InputError(f"{path}: can't be written: it is a folder")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from None
