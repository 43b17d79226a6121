"""Pictures as arrays and back, and as files: what happens at both ends of the walk."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from tinyldm.errors import InputError
from tinyldm.typing import Array


class PictureWarning(UserWarning):
    """Something was done to a picture that its owner may not expect."""


def to_pixels(image: Image.Image) -> Array:
    """A picture as the autoencoder takes it: `(1, 3, H, W)` float32 in [-1, 1]; what is transparent becomes white."""
    levels = np.asarray(as_rgb(image)[0], np.float32) / 255
    return np.moveaxis(2 * levels - 1, -1, 0)[None]


def as_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """A picture of any kind upright in 8-bit RGB, and what had to be done for that, in words.

    Raises `InputError` for numbers that have no place between black and white.
    """
    said = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        said.append(f"it has {frames} frames; the first is taken")
        image.seek(0)
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        said.append("it is turned upright, as its EXIF orientation says")
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image, scale = numbers_as_grey(image)
        said.append(f"its numbers are taken as grey from 0 to {scale}")
    if image.mode in ("CMYK", "LAB"):
        said.append(f"its {image.mode} colours are turned into RGB")
        image = in_srgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            said.append("what is transparent is laid on white")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB"), said


def numbers_as_grey(image: Image.Image) -> tuple[Image.Image, int]:
    """A picture of 16- or 32-bit integers or of floats as 8-bit grey, and the number that is white.

    Integers count from 0 to 65535, floats from 0 to 1. Raises `InputError` for others, and for NaN.
    """
    values = np.asarray(image, np.float64)
    white = 1 if image.mode == "F" else 65535
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not (low >= 0 and high <= white):  # NaN is neither
        kind = "floats" if image.mode == "F" else "integers"
        raise InputError(f"the picture's {kind} are from {low:g} to {high:g}; wanted 0 to {white}")
    return Image.fromarray(np.round(values * (255 / white)).astype(np.uint8)), white


def in_srgb(image: Image.Image) -> Image.Image:
    """A CMYK or LAB picture in sRGB, by its own colour profile where it has one; CMYK without one by complement."""
    profile = image.info.get("icc_profile")
    if profile is None and image.mode == "CMYK":
        return image.convert("RGB")
    source = (
        ImageCms.createProfile("LAB") if image.mode == "LAB" else ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
    )
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None  # it is None only where the picture itself is changed
    return converted


FITS = ("crop", "pad", "stretch", "none")


def fitted(image: Image.Image, factor: int, how: str = "crop") -> Image.Image:
    """A picture in the nearest size whose sides are multiples of `factor`; warns where that is another one.

    `how`: scale and `crop` the edges, scale and `pad` them with the colour of the border, `stretch`, or `none`: refuse.
    Raises `InputError` for another word, and with `none` for a size that does not fit.
    """
    if how not in FITS:
        raise InputError(f"resize: {how!r} is unknown; take one of {', '.join(FITS)}")
    width, height = (max(1, round(side / factor)) * factor for side in image.size)
    if (width, height) == image.size:
        return image
    before = f"{image.width}×{image.height}"
    if how == "none":
        raise InputError(f"the picture's size {before} must be a multiple of {factor} pixels each way")
    done = {"crop": "scaled and cropped", "pad": "scaled and padded", "stretch": "stretched"}[how]
    warnings.warn(f"the picture of {before} is {done} to {width}×{height}", PictureWarning, stacklevel=2)
    return brought_to(image.convert("RGB") if how == "pad" else image, (width, height), how)


def brought_to(image: Image.Image, size: tuple[int, int], how: str) -> Image.Image:
    """A picture in a size (width, height): `stretch` it, scale and `crop` it, or `pad` it with the border's colours."""
    if how == "crop":
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    if how == "stretch":
        return image.resize(size, Image.Resampling.LANCZOS)
    scale = min(size[0] / image.width, size[1] / image.height)
    inside = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    left, top = (size[0] - inside.width) // 2, (size[1] - inside.height) // 2
    edges = [(top, size[1] - inside.height - top), (left, size[0] - inside.width - left), (0, 0)]
    pixels = np.asarray(inside)
    return Image.fromarray(np.pad(pixels, edges[: pixels.ndim], mode="edge"))


def grid(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size side by side, row by row, in one picture; what stays empty is white."""
    width, height = images[0].size
    sheet = Image.new("RGB", (width * min(columns, len(images)), height * -(-len(images) // columns)), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet


def read_image(
    path: str | Path, convert: Callable[[Image.Image], tuple[Image.Image, list[str]]] = as_rgb
) -> Image.Image:
    """Read a picture file: upright, 8-bit RGB, or as `convert` has it; warns of what had to be done for that.

    Raises `InputError` where it is missing, no picture, damaged, or of numbers that are no colours.
    """
    try:
        with Image.open(path) as image:
            image.load()
            converted, said = convert(image)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a picture in a format that Pillow reads") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, ImageCms.PyCMSError) as error:
        raise InputError(f"{path}: the picture can't be read: {error}") from None
    if said:
        warnings.warn(f"{path}: {'; '.join(said)}", PictureWarning, stacklevel=2)
    return converted


def read_stored(path: Path) -> Image.Image:
    """A picture file with its transparency and its numbers as they are stored. Raises as `read_image` does."""
    return read_image(path, lambda image: (image.copy(), []))


def write_whole(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all: to a temporary file beside it, which then takes its name.

    It is on the disk before it does, so that not even a failure of power leaves half of it.
    Raises `InputError` where that can't be done; nothing is left behind.
    """
    path = Path(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def as_file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture's file, without any settings; `options` are those of Pillow's writer."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


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
