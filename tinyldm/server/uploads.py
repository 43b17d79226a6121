"""Pictures that came over the network: of a known kind, of a bounded size, and in the size that is asked for."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

from PIL import Image, ImageCms, UnidentifiedImageError

from tinyldm.pipelines.pictures import as_rgb, brought_to
from tinyldm.server.refusals import Refusal, TooLarge

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MOST_PIXELS = 4096 * 4096


def opened(data: bytes, name: str) -> Image.Image:
    """The picture of a file's bytes, read, in its own mode. Raises `Refusal` for what is none, or is too large."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            size = f"{image.width}×{image.height}"
            raise TooLarge(f"{name}: the picture of {size} has more than {MOST_PIXELS:,} pixels", name)
        image.load()
        return image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLarge(f"{name}: the picture has more than {MOST_PIXELS:,} pixels", name) from None
    except UnidentifiedImageError:
        raise Refusal(f"{name}: is no picture; wanted {', '.join(FORMATS)}", name) from None
    except Refusal:
        raise
    except (OSError, SyntaxError, ValueError, OverflowError, EOFError) as error:
        raise Refusal(f"{name}: the picture can't be read: {error}", name) from None


def from_base64(value: Any, name: str) -> Image.Image:
    """The picture of a text in base64, which may be a `data:` link. Raises `Refusal` for any other text."""
    return opened(bytes_of_base64(value, name), name)


def bytes_of_base64(value: Any, name: str) -> bytes:
    """The bytes of a text in base64, which may be a `data:` link. Raises `Refusal` for any other text."""
    if not isinstance(value, str):
        raise Refusal(f"{name} must be a picture in base64, not {type(value).__name__}", name)
    if value.startswith(("http:", "https:", "file:")):
        raise Refusal(f"{name} is a link, which this server does not follow; send the picture itself in base64", name)
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(f"{name} is no valid base64", name) from None


def rgb(image: Image.Image, name: str) -> Image.Image:
    """A picture upright in 8-bit RGB, on white where it is transparent. Raises `Refusal` where it has no colours."""
    try:
        return as_rgb(image)[0]
    except (ValueError, OSError, ImageCms.PyCMSError) as error:
        raise Refusal(f"{name}: {error}", name) from None


def resized(image: Image.Image, width: int | None, height: int | None, how: str) -> Image.Image:
    """A picture in another size (`pictures.brought_to`).

    A side that is None is the picture's own. Raises `TooLarge` for a size that no upload may have.
    """
    size = (width or image.width, height or image.height)
    if image.size == size:
        return image
    if size[0] * size[1] > MOST_PIXELS:
        raise TooLarge(f"width × height: {size[0]}×{size[1]} has more than {MOST_PIXELS:,} pixels", "width")
    return brought_to(image, size, how)


def png_link(png: bytes) -> str:
    """A link that carries the picture of a PNG file."""
    return f"data:image/png;base64,{to_base64(png)}"


def to_base64(data: bytes) -> str:
    """Bytes in base64."""
    return base64.b64encode(data).decode("ascii")
