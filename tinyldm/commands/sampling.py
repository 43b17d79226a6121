"""What `sample` and `img2img` share: the options of a request, what is said before and after, each picture's file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyldm.commands import interrupts
from tinyldm.commands.options import add_force_option, add_seed_option, chosen_seed, open_model
from tinyldm.commands.previews import Previews, add_preview_options
from tinyldm.commands.prompts import add_prompt_options, all_loras, note_unknown, note_unread, read_prompts
from tinyldm.commands.streams import note
from tinyldm.commands.variations import StepFiles, add_variation_options, variation_settings
from tinyldm.errors import InputError

if TYPE_CHECKING:
    from tinyldm.pipelines.model import LatentDiffusion
    from tinyldm.pipelines.request import Request
    from tinyldm.pipelines.walk import Step


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of a request, and of its files."""
    p.add_argument("-o", "--output", metavar="FILE", type=Path, help="PNG to write; several become name-0001.png, …")
    p.add_argument("--negative-prompt", metavar="TEXT", default="", help="what the picture should not be")
    add_prompt_options(p)
    p.add_argument("--steps", metavar="N", type=int, help="of the sampler (default 25; of few-step models 1 or 4)")
    p.add_argument(
        "--guidance-scale", metavar="G", type=float, help="pull of the prompt (default 7.5; of turbo models 0)"
    )
    p.add_argument(
        "--guidance-rescale",
        metavar="R",
        type=float,
        default=0.0,
        help="0 to 1: undo the glare of a strong pull",
    )
    p.add_argument("--sampler", metavar="NAME", help="default ddim, but for few-step models; `help` lists all")
    p.add_argument(
        "--sampler-option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="of the sampler, such as eta=0.5, or a field of its published config; may be repeated",
    )
    add_seed_option(p)
    p.add_argument("-n", "--count", metavar="COUNT", type=int, default=1, help="pictures of each prompt (default 1)")
    add_variation_options(p)
    add_preview_options(p)
    add_force_option(p)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options of a request as its settings."""
    named = ["negative_prompt", "prompt_syntax", "clip_skip", "steps", "guidance_scale", "guidance_rescale", "sampler"]
    settings = {name: getattr(args, name) for name in named} | {"sampler_options": sampler_options(args)}
    return settings | variation_settings(args)


def make(args: argparse.Namespace, **settings: Any) -> None:
    """Make the pictures that the options ask for, and write each with its settings as soon as it is finished."""
    from tinyldm.pipelines.files import numbered, picture_files, said_of
    from tinyldm.pipelines.pictures import grid, write_png
    from tinyldm.pipelines.prompted import words
    from tinyldm.pipelines.request import request
    from tinyldm.pipelines.walk import Walk

    started = time.perf_counter()
    if args.sampler == "help":
        list_samplers()
        return
    if args.count < 1:
        raise InputError(f"-n must be 1 or more, not {args.count}")
    previews = Previews(args)
    if getattr(args, "repeat", None) is not None:
        wanted = repeated(args)
        prompts = [prompt for prompt in wanted.prompts if prompt]
    else:
        prompts = read_prompts(args.prompt)
        settings |= settings_of(args)
        wanted = request(prompts or None, num_images=args.count, seed=chosen_seed(args), **settings)
    sheet: int | None = getattr(args, "grid", None)
    files = picture_files(args.output, prompts, 1 if sheet else len(wanted.prompts))
    steps = None if args.save_steps is None else StepFiles(args, len(wanted.prompts))
    model = open_model(args, all_loras(args, wanted))
    wanted = wanted.resolved(model.parts)
    note_unread([*prompts, *wanted.negative_prompts], wanted.prompt_syntax)
    note_unknown(model, words(model.parts, wanted))
    note_sampler(args, model, wanted)
    print_expectation(args, model, wanted)

    said = said_of(model, vars(args))
    names, images = numbered(files[0], len(wanted.prompts)) if sheet else files, []
    previews.of(model)

    def seen(step: Any) -> None:
        watch(step)
        previews.see(step, names.__getitem__)

    callback = seen if steps is None else steps.watching(model, wanted, seen)
    try:
        for picture in model.pictures(wanted, Walk(progress=progress_bar, callback=callback, single_run=True)):
            if sheet:
                images.append(picture.image)
            else:
                write_png(files[picture.index], picture.image, wanted.metadata(picture.index) | said)
                args.written.append(files[picture.index])
            if steps is not None:
                steps.write(picture, wanted.metadata(picture.index) | said)
    finally:  # a run that is interrupted keeps the pictures that are finished, in one picture too
        if sheet and images:
            write_png(files[0], grid(images, sheet), wanted.metadata(0) | said | {"prompts": "\n".join(prompts)})
            args.written.append(files[0])
    print(*files, *([] if steps is None else steps.files), sep="\n")
    variation = f", variation seed {wanted.variation_seed}" if wanted.variation_strength else ""
    print(f"seed {wanted.seeds[0]}{variation}, {time.perf_counter() - started:.1f} s")


def repeated(args: argparse.Namespace) -> Request:
    """The request that made the picture of `--from`, with the number of its seed where another is asked for."""
    from tinyldm.pipelines.files import FROM_FILES
    from tinyldm.pipelines.pictures import read_text
    from tinyldm.pipelines.request import read_metadata

    if args.prompt:
        raise InputError(f"--from repeats a picture with its own prompt; leave out {args.prompt[0]!r}")
    said = read_text(args.repeat)
    files = dict.fromkeys(FROM_FILES, "was made with a map") | {"image": "began from another picture"}
    for made, why in (files | {"one_stream": "shared its noise with others"}).items():
        if made in said:
            raise InputError(f"{args.repeat}: {why} ({said[made]}), so its settings alone don't make it again")
    return read_metadata(said if args.seed is None else {**said, "seed": str(chosen_seed(args))})


def sampler_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the sampler, their values read as JSON, and what is none as a text."""
    options: dict[str, Any] = {}
    for text in args.sampler_option:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--sampler-option wants NAME=VALUE, such as eta=0.5, not {text!r}")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def list_samplers() -> None:
    """Print every sampler, what else it is called, and what it does."""
    from tinyldm.diffusion.samplers import list_samplers

    for name, aliases, summary in list_samplers():
        also = f"  (also {', '.join(aliases)})" if aliases else ""
        print(f"{name:18} {summary}{also}")


def note_sampler(args: argparse.Namespace, model: LatentDiffusion, wanted: Request) -> None:
    """Say where a run that names no sampler does not take the scheduler that the checkpoint names."""
    from tinyldm.diffusion.samplers import SAMPLERS, find_sampler

    published = model.scheduler_config.get("_class_name")
    chosen = SAMPLERS[find_sampler(wanted.sampler or "")].sampler.scheduler_class
    if args.sampler is None and published not in (None, chosen):
        note(f"{model.path.name} names the scheduler {published}; sampling with {wanted.sampler} (--sampler)")


def print_expectation(args: argparse.Namespace, model: LatentDiffusion, wanted: Request) -> None:
    """Say what a run will take before it begins. Raises `InputError` where there is too little memory for it."""
    from tinyldm.memory import check_memory, expected_bytes, human_bytes

    h, w = model.parts.latent_size(wanted.height, wanted.width)
    pictures = "1 picture" if len(wanted.prompts) == 1 else f"{len(wanted.prompts)} pictures"
    size = f"{pictures} of {wanted.width}×{wanted.height}"
    if not args.force:
        check_memory(model, h, w, size)
    needed = human_bytes(expected_bytes(model, h, w))
    print(f"{size}, about {needed} of memory; time left is shown after the first step", file=sys.stderr)


def progress_bar(calls: range) -> Iterator[int]:
    """A progress bar over the calls of the denoiser: how many, seconds for one, time left."""
    from tqdm import tqdm

    bar = "{l_bar}{bar:24}| {n_fmt}/{total_fmt} steps, {rate_inv_fmt}, {remaining} left"
    return iter(tqdm(calls, desc="sampling", unit="step", bar_format=bar))


def watch(_: Step) -> None:
    """After each step: an interrupt whose exception was lost ends the run here."""
    interrupts.check()
