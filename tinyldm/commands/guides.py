"""What guides pictures beside their prompts, as options: pictures that are read by ControlNets and adapters."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyldm.commands.grammar import nearest
from tinyldm.commands.streams import note
from tinyldm.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from tinyldm.pipelines.model import LatentDiffusion
    from tinyldm.pipelines.request import Request

PREPROCESSORS = ("none", "canny")


def add_guide_options(p: argparse.ArgumentParser) -> None:
    """Pictures that guide others; each option may be repeated, and the first of each goes with the first of the others.

    What `read_guides` and `guided` make of them belongs around `open_model`.
    """
    g = p.add_argument_group("guided by pictures", "each may be repeated, and is paired in order")
    g.add_argument("--controlnet", metavar="PATH", action="append", default=[], help="ControlNet or T2I-Adapter")
    g.add_argument("--control-image", metavar="FILE", action="append", default=[], type=Path, help="the picture for it")
    g.add_argument("--control-scale", metavar="X", action="append", default=[], type=float, help="strength (default 1)")
    g.add_argument(
        "--control-start", metavar="X", action="append", default=[], type=float, help="part of the run (default 0)"
    )
    g.add_argument(
        "--control-end", metavar="X", action="append", default=[], type=float, help="part of the run (default 1)"
    )
    known = ", ".join(PREPROCESSORS)
    g.add_argument("--preprocess", metavar="HOW", action="append", default=[], help=f"draw this of it first: {known}")
    g.add_argument("--canny", metavar="LOW,HIGH", default="100,200", help="thresholds of canny (default 100,200)")


@dataclass(frozen=True)
class GuideOptions:
    """A picture that guides, as it was asked for; `thresholds` are Canny's where its edges are to be drawn."""

    file: Path
    image: Image.Image
    scale: float
    start: float
    end: float
    thresholds: tuple[float, float] | None


def read_guides(args: argparse.Namespace) -> list[GuideOptions]:
    """The pictures that the options name. Raises `InputError` where their numbers differ, before anything is loaded."""
    from tinyldm.pipelines.pictures import read_image

    count = len(args.control_image)
    if args.controlnet and len(args.controlnet) != count:
        raise InputError(f"--controlnet is given {times(len(args.controlnet))} and --control-image {times(count)}")
    defaults: dict[str, Any] = {"control_scale": 1.0, "control_start": 0.0, "control_end": 1.0, "preprocess": "none"}
    scales, starts, ends, ways = (one_each(args, name, count, default) for name, default in defaults.items())
    for way in ways:
        if way not in PREPROCESSORS:
            raise InputError(f"--preprocess {way!r} is unknown; {nearest(way, PREPROCESSORS)}")
    drawn = [thresholds(args.canny) if way == "canny" else None for way in ways]
    images = map(read_image, args.control_image)
    return [GuideOptions(*each) for each in zip(args.control_image, images, scales, starts, ends, drawn, strict=True)]


def one_each(args: argparse.Namespace, name: str, count: int, default: Any) -> list[Any]:
    """The values of an option for so many pictures: the default, one for all, or one for each."""
    values: list[Any] = getattr(args, name)
    if len(values) not in (0, 1, count) or (values and not count):
        option = "--" + name.replace("_", "-")
        raise InputError(f"{option} is given {times(len(values))} and --control-image {times(count)}")
    return values if len(values) == count else (values or [default]) * count


def times(count: int) -> str:
    """How often, in words."""
    return {0: "not at all", 1: "once", 2: "twice"}.get(count, f"{count} times")


def thresholds(text: str) -> tuple[float, float]:
    """The two numbers of `LOW,HIGH`."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise InputError(f"--canny wants LOW,HIGH, such as 100,200, not {text!r}") from None
    return low, high


def guided(model: LatentDiffusion, guides: list[GuideOptions], args: argparse.Namespace, wanted: Request) -> Any:
    """The model, guided by the pictures, each brought to the size of those that are wanted."""
    if args.controlnet and not guides:
        raise InputError("--controlnet is given, and no --control-image")
    for i, guide in enumerate(guides):
        image = brought_to_size(guide.image, model, wanted)
        said: dict[str, Any] = {"image": guide.file.name}
        if guide.thresholds is not None:
            from tinyldm.pipelines.canny import canny

            image = canny(image, *guide.thresholds)
            said |= {"preprocess": "canny", "thresholds": guide.thresholds}
        said |= {"controlnet": Path(args.controlnet[i]).name} if args.controlnet else {}
        model = model.controlled(image, guide.scale, i, start=guide.start, end=guide.end, said=said)
    return model


def brought_to_size(image: Image.Image, model: LatentDiffusion, wanted: Request) -> Image.Image:
    """A picture that guides in the size of the pictures to make; where nothing says that, in its own."""
    from PIL import Image, ImageOps

    from tinyldm.pipelines.pictures import fitted

    factor, begun = model.vae.config.factor, wanted.image
    if isinstance(begun, Image.Image):
        begun = fitted(begun, factor, wanted.resize)
        size = begun.size
    elif begun is not None:
        size = (begun.shape[3] * factor, begun.shape[2] * factor)
    else:
        size = (wanted.width or image.width, wanted.height or image.height)
        if wanted.width is None and wanted.height is None:
            return fitted(image, factor)
    if image.size == size:
        return image
    note(f"the control image of {image.width}×{image.height} is scaled and cropped to {size[0]}×{size[1]}")
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
