"""What `sample` and `img2img` share: the options of a request, what is said before and after, each picture's file."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyldm.commands import interrupts, options
from tinyldm.commands.first_stages import with_progress
from tinyldm.commands.grids import BAR, add_grid_options, make_grid
from tinyldm.commands.guides import add_guide_options, open_guided
from tinyldm.commands.previews import Previews, add_preview_options
from tinyldm.commands.prompts import add_prompt_options, note_unknown, note_unread, read_prompts
from tinyldm.commands.repeat import FROM_HELP, note_differences, repeated
from tinyldm.commands.streams import note
from tinyldm.commands.variations import StepFiles, add_variation_options, variation_settings
from tinyldm.errors import InputError

if TYPE_CHECKING:
    from tinyldm.pipelines.model import LatentDiffusion
    from tinyldm.pipelines.request import Request
    from tinyldm.pipelines.walk import Picture


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of a request, and of its files."""
    p.add_argument("-o", "--output", metavar="FILE", type=Path, help="PNG, JPEG or WebP; several are name-0001.png, …")
    p.add_argument("--negative-prompt", metavar="TEXT", help="what the picture should not be")
    add_prompt_options(p)
    p.add_argument("--steps", metavar="N", type=int, help="of the sampler (default 25; of few-step models 1 or 4)")
    p.add_argument(
        "--guidance-scale", metavar="G", type=float, help="pull of the prompt (default 7.5; of turbo models 0)"
    )
    p.add_argument("--guidance-rescale", metavar="R", type=float, help="0 to 1: undo the glare of a strong pull")
    p.add_argument("--sampler", metavar="NAME", help="default ddim, but for few-step models; `help` lists all")
    meaning = "of the sampler, such as eta=0.5, or a field of its published config; may be repeated"
    options.add_repeated(p, "--sampler-option", "NAME=VALUE", meaning)
    options.add_seed_option(p)
    options.add_rng_option(p)
    p.add_argument("-n", "--count", metavar="COUNT", type=int, default=1, help="pictures of each prompt (default 1)")
    p.add_argument("--from", dest="repeat", metavar="FILE", type=Path, help=FROM_HELP)
    p.add_argument(
        "--seamless", metavar="AXES", nargs="?", const="both", help="pictures that tile, along x, y or both (default)"
    )
    options.add_tiling_options(p)
    add_variation_options(p)
    add_preview_options(p)
    add_grid_options(p)
    options.add_force_option(p)
    add_guide_options(p)


# Options of a request.
NAMED = """
negative_prompt prompt_syntax clip_skip steps guidance_scale guidance_rescale sampler rng seamless
""".split()


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options of a request as its settings, those that are given."""
    settings = {name: getattr(args, name) for name in NAMED} | {"sampler_options": sampler_options(args) or None}
    return {name: value for name, value in settings.items() if value is not None} | variation_settings(args)


def make(args: argparse.Namespace, began: dict[str, Any] | None = None, **settings: Any) -> None:
    """Make the pictures that the options ask for, and write each with its settings as soon as it is finished.

    `settings` are of the request; `began` is what the pictures' files say of the one that they began from.
    """
    from tinyldm.pipelines.files import numbered, picture_files, said_of
    from tinyldm.pipelines.prompted import words
    from tinyldm.pipelines.request import request
    from tinyldm.pipelines.walk import Walk

    started = time.perf_counter()
    if args.sampler == "help":
        list_samplers()
        return
    if args.count < 1:
        raise InputError(f"-n must be 1 or more, not {args.count}")
    if (args.rows or args.columns) and args.preview is not None:
        raise InputError("--preview is of one picture under way; leave it out with --rows and --columns")
    previews = Previews(args)
    given = {name: value for name, value in settings.items() if value is not None} | settings_of(args)
    arguments = repeated(args, given) if args.repeat is not None else typed(args, given)
    if args.rows or args.columns:
        make_grid(args, arguments, began or {}, expected, watch)
        return
    wanted = request(**arguments)
    prompts = [prompt for prompt in dict.fromkeys(wanted.prompts) if prompt]
    sheet: int | None = getattr(args, "grid", None)
    files = picture_files(args.output, prompts, 1 if sheet else len(wanted.prompts))
    steps = None if args.save_steps is None else StepFiles(args, len(wanted.prompts))
    model = open_guided(args, wanted)
    wanted = wanted.resolved(model.parts)
    note_unread([*prompts, *wanted.negative_prompts], wanted.prompt_syntax)
    note_unknown(model, words(model.parts, wanted))
    note_sampler(args, model, wanted)
    model = expected(args, model, wanted)
    said = said_of(model, vars(args)) | (began or {})
    if args.repeat is not None:
        note_differences(args, said | ({"guides": list(map(dict, wanted.guides))} if wanted.guides else {}))
    check_files(files, wanted, said, sheet)
    names = numbered(files[0], len(wanted.prompts)) if sheet else files
    previews.of(model)

    def seen(step: Any) -> None:
        watch(step)
        previews.see(step, names.__getitem__)

    callback = seen if steps is None else steps.watching(model, wanted, seen)
    how = Walk(progress=progress_bar, callback=callback, single_run=True)
    with previews:
        write_pictures(args, model.pictures(wanted, how), wanted, files, said, steps)
    print(*files, *([] if steps is None else steps.files), sep="\n")
    variation = f", variation seed {wanted.variation_seed}" if wanted.variation_strength else ""
    print(f"seed {wanted.seeds[0]}{variation}, {time.perf_counter() - started:.1f} s")


def write_pictures(
    args: argparse.Namespace,
    pictures: Iterable[Picture],
    wanted: Request,
    files: Sequence[Path],
    said: dict[str, Any],
    steps: StepFiles | None,
) -> None:
    """Write each picture with its settings as soon as it is finished, or with `--grid` all in one at the end."""
    from tinyldm.pipelines.picture_text import write_picture
    from tinyldm.pipelines.pictures import grid

    sheet: int | None = getattr(args, "grid", None)
    images = []
    try:
        for picture in pictures:
            if sheet:
                images.append(picture.image)
            else:
                write_picture(files[picture.index], picture.image, wanted.settings(picture.index) | said)
                args.written.append(files[picture.index])
            if steps is not None:
                steps.write(picture, wanted.settings(picture.index) | said)
    finally:  # a run that is interrupted keeps the pictures that are finished, in one picture too
        if sheet and images:
            prompts = {"prompts": [prompt for prompt in dict.fromkeys(wanted.prompts) if prompt]}
            write_picture(files[0], grid(images, sheet), wanted.settings(0) | said | prompts)
            args.written.append(files[0])


def typed(args: argparse.Namespace, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `request` as they are typed; prompts have the syntax of the web interface."""
    usual = {"num_images": args.count, "seed": options.chosen_seed(args), "prompt_syntax": "webui"}
    return {"prompt": read_prompts(args.prompt) or None, **usual, **given}


def check_files(files: Sequence[Path], wanted: Request, said: Mapping[str, Any], sheet: int | None) -> None:
    """Raise `InputError` where a file can't hold its picture, or what is said of it."""
    from tinyldm.pipelines.picture_text import check_picture

    columns = min(sheet or 1, len(wanted.prompts))
    rows = -(-len(wanted.prompts) // columns) if sheet else 1
    for k, file in enumerate(files):
        check_picture(
            file, {**wanted.settings(k), **said}, ((wanted.width or 0) * columns, (wanted.height or 0) * rows)
        )


def sampler_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the sampler, their values read as JSON, and what is none as a text."""
    from tinyldm.pipelines.request import read_options

    return read_options(args.sampler_option, "--sampler-option")


def list_samplers() -> None:
    """Print every sampler, what else it is called, and what it does."""
    from tinyldm.diffusion.samplers import list_samplers

    for name, aliases, summary in list_samplers():
        also = f"  (also {', '.join(aliases)})" if aliases else ""
        print(f"{name:18} {summary}{also}")


def note_sampler(args: argparse.Namespace, model: LatentDiffusion, wanted: Request) -> None:
    """Say where a run that names no sampler does not take the scheduler that the checkpoint names."""
    from tinyldm.diffusion.samplers import SAMPLERS, find_sampler

    if (args.sampler, args.repeat) != (None, None):
        return
    published = model.scheduler_config.get("_class_name")
    chosen = SAMPLERS[find_sampler(wanted.sampler or "")].sampler.scheduler_class
    if published not in (None, chosen):
        note(f"{model.path.name} names the scheduler {published}; sampling with {wanted.sampler} (--sampler)")


def expected(args: argparse.Namespace, model: LatentDiffusion, wanted: Request) -> LatentDiffusion:
    """Say what a run will take before it begins; the model, with its autoencoder in tiles where memory is short.

    Raises `InputError` where there is too little memory for that, too.
    """
    from tinyldm.memory import expected_bytes, human_bytes

    h, w = model.parts.latent_size(wanted.height, wanted.width)
    pictures = "1 picture" if len(wanted.prompts) == 1 else f"{len(wanted.prompts)} pictures"
    size = f"{pictures} of {wanted.width}×{wanted.height}"
    model = options.fitting(args, model, h, w, size)
    needed = human_bytes(expected_bytes(model, h, w))
    print(f"{size}, about {needed} of memory; time left is shown after the first step", file=sys.stderr)
    return with_progress(model)


def progress_bar(calls: range) -> Iterator[int]:
    """A progress bar over the calls of the denoiser: how many, seconds for one, time left."""
    from tqdm import tqdm

    return iter(tqdm(calls, desc="sampling", unit="step", bar_format=BAR))


def watch(_: object) -> None:
    """After each step: an interrupt whose exception was lost ends the run here."""
    interrupts.check()
