"""What a picture's file says of how it was made, written and read: text in a PNG, EXIF in a JPEG or a WebP.

Settings stand there twice: as JSON under their own names, which say all that it takes to make the picture again, and in
the form of the web interface (`infotext`), which other tools read.

| | JSON | the web interface's form |
|---|---|---|
| PNG | text `tinyldm`, and each setting as a text of its own name | text `parameters` |
| JPEG, WebP | EXIF `ImageDescription` | EXIF `UserComment`, as the web interface does |
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError, features

from tinyldm.errors import InputError
from tinyldm.pipelines.infotext import infotext, read_infotext
from tinyldm.pipelines.other_programs import read_others
from tinyldm.pipelines.pictures import write_whole
from tinyldm.pipelines.request import as_texts

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # by the suffix of the name
LARGEST = {"PNG": 2**31 - 1, "JPEG": 65_500, "WEBP": 16_383}  # pixels of a side
LARGEST_EXIF = 65_500  # bytes in a JPEG
QUALITY: dict[str, dict[str, Any]] = {"PNG": {}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
OWN = "tinyldm"
USER_COMMENT = 0x9286
UNICODE, PLAIN = b"UNICODE\0", (b"ASCII\0\0\0", bytes(8))  # what a comment of EXIF begins with: its encoding


class Said(NamedTuple):
    """What a file says: settings by name, as text; what is not read of another tool's; and whether it is another's."""

    settings: dict[str, str]
    unread: tuple[str, ...] = ()
    foreign: bool = False


def format_of(path: str | Path) -> str:
    """The format that a picture is written in by its name. Raises `InputError` for one that is not written."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(
            f"{path}: pictures are written as PNG, JPEG or WebP, so the name must end in {', '.join(FORMATS)}"
        )
    if FORMATS[suffix] == "WEBP" and not features.check("webp"):
        raise InputError(f"{path}: this Pillow was built without WebP; write a PNG")
    return FORMATS[suffix]


def check_picture(path: str | Path, settings: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Raise `InputError`, before long work, where a picture of these settings and this size can't be written."""
    kind = format_of(path)
    if max(size) > LARGEST[kind]:
        raise InputError(f"{path}: {kind} has at most {LARGEST[kind]} pixels a side, not {max(size)}; write a PNG")
    encoded(path, settings)


def write_picture(path: str | Path, image: Image.Image, settings: Mapping[str, Any]) -> None:
    """Write a picture with its settings, whole or not at all, in the format of its name.

    A PNG and a WebP have the picture's own pixels, a JPEG those of quality 95. Raises `InputError` where it can't be
    written.
    """
    write_whole(path, lambda file: file.write(picture_bytes(image, settings, path)))


def picture_bytes(image: Image.Image, settings: Mapping[str, Any], path: str | Path = "picture.png") -> bytes:
    """The bytes that `write_picture` writes into `path`."""
    kind, file = format_of(path), io.BytesIO()
    image.save(file, kind, **encoded(path, settings), **QUALITY[kind])
    return file.getvalue()


def encoded(path: str | Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as Pillow's writer of the format takes them."""
    own, of_web = json.dumps(dict(settings)), infotext(settings) if "sampler" in settings else ""
    if format_of(path) == "PNG":
        text = PngImagePlugin.PngInfo()
        for name, value in {**as_texts(settings), "parameters": of_web, OWN: own}.items():
            if value:
                text.add_itxt(name, value)
        return {"pnginfo": text}
    exif = Image.Exif()
    exif[ExifTags.Base.Software], exif[ExifTags.Base.ImageDescription] = str(settings.get("Software", OWN)), own
    if of_web:
        exif.get_ifd(ExifTags.IFD.Exif)[USER_COMMENT] = UNICODE + of_web.encode("utf-16-be", "replace")
    if format_of(path) == "JPEG" and len(exif.tobytes()) > LARGEST_EXIF:
        raise InputError(f"{path}: the settings are too long for a JPEG, which has room for 64 kB; write a PNG")
    return {"exif": exif}


def read_said(path: str | Path | IO[bytes]) -> Said:
    """What a picture's file says of how it was made: its own JSON, or what other tools write for the web interface.

    Raises `InputError` where the file is missing, no picture or damaged, and where it says nothing of that kind.
    """
    texts, name = read_texts(path), named(path)
    try:
        if OWN in texts:
            own = json.loads(texts[OWN])
            return Said(as_texts(own if isinstance(own, dict) else {}))
        if "parameters" in texts and not {"seed", "sampler"} <= texts.keys():
            settings, unread = read_infotext(texts["parameters"])
            return Said(settings, tuple(unread), foreign=True)
        if not {"seed", "sampler"} <= texts.keys() and (others := read_others(texts)) is not None:
            return Said(others[0], tuple(others[1]), foreign=True)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: its settings can't be read: {error}") from None
    return Said(texts)


def read_texts(path: str | Path | IO[bytes]) -> dict[str, str]:
    """The texts of a picture's file by name; those of EXIF under the names that they have in a PNG."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and of odd EXIF: only the texts are wanted
            with Image.open(path) as image:
                texts = {str(name): str(value) for name, value in getattr(image, "text", {}).items()}
                comment = image.info.get("comment")
                if image.format == "GIF" and isinstance(comment, bytes) and comment.startswith(b'{"'):
                    texts[OWN] = comment.decode("utf-8", "replace")  # of an animation
                return texts or exif_texts(image.getexif())
    except FileNotFoundError:
        raise InputError(f"{named(path)}: no such file") from None
    except UnidentifiedImageError:
        raise InputError(f"{named(path)}: not a picture in a format that Pillow reads") from None
    except MemoryError:
        raise
    except Exception as error:  # damaged files and hostile ones make Pillow raise errors of almost every kind
        raise InputError(f"{named(path)}: the picture can't be read: {' '.join(str(error).split())}") from None


def named(path: str | Path | IO[bytes]) -> object:
    """What a file is called in a message; an open one has no name."""
    return path if isinstance(path, (str, Path)) else "the file"


def exif_texts(exif: Image.Exif) -> dict[str, str]:
    """The two texts of EXIF: our JSON, and a comment in the form of the web interface."""
    texts = {}
    software, described = str(exif.get(ExifTags.Base.Software)), exif.get(ExifTags.Base.ImageDescription)
    if software.startswith(OWN) and isinstance(described, str):
        texts[OWN] = described
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(USER_COMMENT)
    if isinstance(comment, bytes) and comment.startswith((UNICODE, *PLAIN)):
        little = comment[9:10] == b"\0"  # some write UTF-16 with the low byte first
        encoding = ("utf-16-le" if little else "utf-16-be") if comment.startswith(UNICODE) else "utf-8"
        texts["parameters"] = comment[8:].decode(encoding, "replace").rstrip("\0")
    return texts
