"""Pictures that a command begins from, with their masks and maps."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyldm.commands.encode import resized
from tinyldm.errors import InputError

if TYPE_CHECKING:
    from PIL import Image


def read_picture_and_mask(args: argparse.Namespace, optional: bool) -> tuple[Image.Image, Image.Image | None]:
    """The picture of `--image` and the mask of `--mask`, both resized where `--width` or `--height` ask for it.

    Without `--mask` it is what is transparent in the picture, which is filled with the colours around it; where nothing
    is and the mask is `optional`, there is none.
    """
    from PIL import Image

    from tinyldm.pipelines.masks import masked
    from tinyldm.pipelines.pictures import read_image, read_stored

    stored = read_stored(args.image)
    if args.mask is not None:
        whole, mask = masked(read_image(args.image), read_stored(args.mask))
    elif optional and not stored.has_transparency_data:
        return resized(args, read_image(args.image)), None
    else:
        whole, mask = masked(stored, None)
    whole = resized(args, whole)
    return whole, mask if mask.size == whole.size else mask.resize(whole.size, Image.Resampling.NEAREST)


def add_map_options(p: argparse.ArgumentParser) -> None:
    """The maps that some models make pictures from."""
    p.add_argument("--depth", metavar="FILE", type=Path, help="map of depth, near is white (Stable Diffusion 2 depth)")


def map_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The maps of the options as settings of a request."""
    from tinyldm.pipelines.pictures import read_stored

    names = [name for name in ("depth", "segments") if getattr(args, name, None) is not None]
    return {name: read_stored(getattr(args, name)) for name in names}


def read_layout_file(path: Path) -> str:
    """The layout of a JSON file on one line. Raises `InputError` where it is none."""
    from tinyldm.pipelines.layout import read_layout

    try:
        text = " ".join(path.read_text(encoding="utf-8").split())
        read_layout(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return text
