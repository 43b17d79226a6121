"""What guides pictures beside their prompts, as options: pictures that are read by ControlNets and adapters."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyldm.commands.grammar import nearest
from tinyldm.commands.options import add_repeated, open_model
from tinyldm.commands.prompts import all_loras
from tinyldm.commands.streams import note
from tinyldm.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from tinyldm.pipelines.model import LatentDiffusion
    from tinyldm.pipelines.request import Request

PREPROCESSORS = ("none", "canny")
# The options of which each picture has one: what they are where nothing is said.
CONTROL: dict[str, Any] = {"control_scale": 1.0, "control_start": 0.0, "control_end": 1.0, "preprocess": "none"}
PROMPT: dict[str, Any] = {"ip_scale": 1.0}


def add_guide_options(p: argparse.ArgumentParser) -> None:
    """Pictures that guide others; each option may be repeated, and the first of each goes with the first of the others.

    `open_guided` makes of them what they ask for.
    """
    g = p.add_argument_group("guided by pictures", "each may be repeated, and is paired in order")
    add_repeated(g, "--controlnet", "PATH", "ControlNet or T2I-Adapter")
    add_repeated(g, "--control-image", "FILE", "the picture that it reads", type=Path)
    add_repeated(g, "--control-scale", "X", "how strongly it guides (default 1)", type=float)
    add_repeated(g, "--control-start", "X", "from which part of the run (default 0)", type=float)
    add_repeated(g, "--control-end", "X", "to which part of the run (default 1)", type=float)
    add_repeated(g, "--preprocess", "HOW", f"what is drawn of the picture first: {', '.join(PREPROCESSORS)}")
    g.add_argument("--canny", metavar="LOW,HIGH", default="100,200", help="thresholds of canny (default 100,200)")
    add_repeated(g, "--ip-adapter", "FILE", "IP-Adapter, by which a picture is a prompt")
    add_repeated(g, "--ip-image", "FILE", "the picture", type=Path)
    add_repeated(g, "--ip-scale", "X", "how strongly it counts beside the text (default 1)", type=float)
    g.add_argument("--image-encoder", metavar="PATH", help="what reads it (default: the one beside the IP-Adapter)")


def check_guides(args: argparse.Namespace) -> None:
    """Raise `InputError` where the options do not fit together, before anything is opened."""
    controls, prompts = len(args.control_image), len(args.ip_image)
    for network, count, image in (("controlnet", controls, "control_image"), ("ip_adapter", prompts, "ip_image")):
        given = len(getattr(args, network))
        if given != count and (given or network == "ip_adapter"):  # a ControlNet may be in the checkpoint
            raise InputError(f"{option(network)} is given {times(given)} and {option(image)} {times(count)}")
    if args.image_encoder is not None and not prompts:
        raise InputError("--image-encoder is given, and no --ip-adapter")
    for names, count, image in ((CONTROL, controls, "control_image"), (PROMPT, prompts, "ip_image")):
        for name in names:
            given = len(getattr(args, name))
            if given not in (0, 1, count) or (given and not count):
                raise InputError(f"{option(name)} is given {times(given)} and {option(image)} {times(count)}")
    for way in args.preprocess:
        if way not in PREPROCESSORS:
            raise InputError(f"--preprocess {way!r} is unknown; {nearest(way, PREPROCESSORS)}")
    thresholds(args.canny)


def option(name: str) -> str:
    """How an argument is called on the command line."""
    return "--" + name.replace("_", "-")


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


def one_each(args: argparse.Namespace, defaults: dict[str, Any], count: int) -> list[tuple[Any, ...]]:
    """For each of so many pictures the value of every option: the default, the one that is for all, or its own."""
    values = [getattr(args, name) or [default] for name, default in defaults.items()]
    return list(zip(*(each * count if len(each) == 1 else each for each in values), strict=True))


def open_guided(args: argparse.Namespace, wanted: Request) -> LatentDiffusion:
    """The model of the options for a request, with the LoRAs that its prompts name, guided by what the options name."""
    check_guides(args)
    return guided(open_model(args, all_loras(args, wanted)), args, wanted)


def guided(model: LatentDiffusion, args: argparse.Namespace, wanted: Request) -> LatentDiffusion:
    """The model, guided by the pictures that the options name; those of ControlNets are brought to the wanted size."""
    from tinyldm.pipelines.canny import canny
    from tinyldm.pipelines.pictures import read_image

    if args.control_image and not model.controlnets:
        raise InputError("--control-image is given and no --controlnet, which is what reads it")
    controls = zip(args.control_image, one_each(args, CONTROL, len(args.control_image)), strict=True)
    for i, (file, (scale, start, end, way)) in enumerate(controls):
        image = brought_to_size(read_image(file), model, wanted)
        said: dict[str, Any] = {"image": file.name}
        said |= {"controlnet": Path(args.controlnet[i]).name} if args.controlnet else {}
        if way == "canny":
            bounds = thresholds(args.canny)
            image, said = canny(image, *bounds), said | {"preprocess": way, "thresholds": bounds}
        model = model.controlled(image, scale, i, start=start, end=end, said=said)
    prompts = zip(args.ip_image, one_each(args, PROMPT, len(args.ip_image)), strict=True)
    for i, (file, (scale,)) in enumerate(prompts):
        said = {"image": file.name, "ip_adapter": Path(args.ip_adapter[i]).name}
        model = model.prompted_by(read_image(file), scale, i, said=said)
    return model


def brought_to_size(image: Image.Image, model: LatentDiffusion, wanted: Request) -> Image.Image:
    """A picture that guides in the size of the pictures to make; where nothing says that, in its own."""
    from PIL import Image, ImageOps

    from tinyldm.pipelines.masks import padded
    from tinyldm.pipelines.pictures import fitted

    factor, begun = model.vae.config.factor, wanted.image
    if isinstance(begun, Image.Image):
        under = wanted.mask is not None  # such a picture is extended, not cropped
        begun = padded(begun, factor, edge=True) if under else fitted(begun, factor, wanted.resize)
        size = begun.size
    elif begun is not None:
        size = (begun.shape[3] * factor, begun.shape[2] * factor)
    else:
        if wanted.width is None and wanted.height is None:
            return fitted(image, factor)
        own = [max(1, round(side / factor)) * factor for side in image.size]
        size = (wanted.width or own[0], wanted.height or own[1])
    if image.size == size:
        return image
    note(f"the control image of {image.width}×{image.height} is scaled and cropped to {size[0]}×{size[1]}")
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
