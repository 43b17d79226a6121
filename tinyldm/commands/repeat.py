"""`--from FILE`: the request that a picture's file says, and what of it this run can't repeat."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tinyldm.commands.options import chosen_seed
from tinyldm.commands.streams import note
from tinyldm.errors import InputError

if TYPE_CHECKING:
    from tinyldm.pipelines.picture_text import Said

# What a file may say so that its settings alone don't make its picture again.
REFUSED = {
    "one_stream": "shared its noise with others ({}), so that its settings alone don't make it again",
    "guides": "was guided by other pictures ({}), so that its settings alone don't make it again; give them as well",
    "prompts": "holds several pictures; wanted the file of one",
    "frames": "holds the {} pictures of a way; wanted the file of one",
    "scale": "was made larger by `tinyldm upscale`, which makes it again with the settings that its file says",
}
ANOTHER = "began from another picture ({{}}); `tinyldm {} --from {} --image …` makes it again"
MAP = "was made with a map ({{}}), which --{} has to give again"
# What decides a picture beside its request, so that another value makes another picture.
COMPARED = ("model", "vae", "text_encoder", "lora", "word", "image_sha256", "guides", "backend", "dtype", "precision")
STRENGTH = 0.8  # of a picture that begins from another, where nothing says it
FROM_HELP = "repeat the picture of this PNG, JPEG or WebP file; other options take the place of its settings"


def said_by(args: argparse.Namespace) -> Said:
    """What the file of `--from` says; it is read once."""
    from tinyldm.pipelines.picture_text import read_said

    if "said" not in args:
        args.said = read_said(args.repeat)
    said: Said = args.said
    return said


def repeated(args: argparse.Namespace, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `request` that made the picture of `--from`, with what is `given` in place of its file's."""
    from tinyldm.pipelines.files import FROM_FILES
    from tinyldm.pipelines.request import read_arguments

    if args.prompt:
        raise InputError(f"--from repeats a picture with its own prompt; leave out {args.prompt[0]!r}")
    said = said_by(args)
    makes = command_of(said.settings)
    refused = dict(REFUSED) | (
        {} if wants(makes) <= vars(args).keys() else {"image": ANOTHER.format(makes, args.repeat)}
    )
    refused |= {name: MAP.format(name) for name in FROM_FILES[1:] if getattr(args, name, None) is None}
    if said.settings.get("mask") == said.settings.get("image"):
        del refused["mask"]  # what is transparent in it
    if getattr(args, "controlnet", None) or getattr(args, "ip_adapter", None):
        del refused["guides"]
    for made in (made for made in refused if made in said.settings):
        raise InputError(f"{args.repeat}: {refused[made].format(said.settings[made])}")
    if said.foreign:
        note(f"{args.repeat}: made by another program; this one makes of its settings a picture alike, not the same")
    if said.unread:
        note(f"{args.repeat}: of its settings not repeated: {', '.join(said.unread)}")
    try:
        arguments = read_arguments(said.settings)
    except InputError as error:
        raise InputError(f"{args.repeat}: {error}") from None
    if "sampler" in given:
        leave_options(args, arguments, given)
    else:
        check_sampler(args, arguments["sampler"])
    if "image" in args:  # whose size is the picture's
        arguments = {"strength": STRENGTH} | arguments | {"height": None, "width": None}
    seed = {} if args.seed is None else {"seed": chosen_seed(args)}
    return {**arguments, "num_images": args.count, **given, **seed}


def command_of(settings: Mapping[str, str]) -> str:
    """The command that makes a picture of these settings."""
    if "image_guidance_scale" in settings:
        return "edit"
    if not {"mask", "outpaint"}.isdisjoint(settings):
        return "inpaint"
    return "img2img" if "image" in settings else "sample"


def wants(command: str) -> set[str]:
    """The options that only a command has which makes the pictures of another."""
    return {"sample": set(), "img2img": {"image"}, "inpaint": {"image", "mask"}, "edit": {"image", "mask"}}[command]


def leave_options(args: argparse.Namespace, arguments: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Take out the options of the file's sampler where another is given: they are not that one's."""
    left = arguments.pop("sampler_options", {})
    if left and "sampler_options" not in given:
        options = ", ".join(f"{name}={value}" for name, value in left.items())
        note(f"{args.repeat}: {options} is of its sampler {arguments['sampler']}; --sampler-option sets it of another")


def check_sampler(args: argparse.Namespace, name: str) -> None:
    """Raise `InputError` where a picture was made by a sampler that is not known here."""
    from tinyldm.diffusion.samplers import find_sampler

    try:
        find_sampler(name)
    except InputError as error:
        raise InputError(f"{args.repeat}: {error}; --sampler takes its place") from None


def note_differences(args: argparse.Namespace, made: Mapping[str, Any]) -> None:
    """Say where the picture of `--from` was made with another model, or computed in another way."""
    from tinyldm.pipelines.request import as_texts

    said, here = said_by(args), as_texts(made)
    for name in COMPARED:
        then, now = said.settings.get(name), here.get(name)
        if then != now and not (said.foreign and then is None):
            note(f"{args.repeat}: was made with {name} {then or 'the usual'}, and this run has {now or 'the usual'}")


def begun_as_before(args: argparse.Namespace) -> Mapping[str, str]:
    """The settings that the file of `--from` says, none without one.

    The size that the picture was resized to from which that of the file began is taken where no other is asked for.
    """
    settings = {} if args.repeat is None else said_by(args).settings
    sizes = re.fullmatch(r"(\d{1,9})x(\d{1,9})", settings.get("image_resized", ""))
    if sizes and (args.width, args.height) == (None, None):
        args.width, args.height = int(sizes[1]), int(sizes[2])
    return settings
