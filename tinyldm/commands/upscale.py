"""Make a picture larger.

example:
  tinyldm upscale apple.png --prompt "red apple" -o large.png
  tinyldm upscale apple.png --prompt "(red:1.2) apple" --scale 3 --strength 0.2
  tinyldm upscale photo.png --prompt "a white cat" --model stable-diffusion-x4-upscaler
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyldm.commands import options
from tinyldm.commands.first_stages import with_progress
from tinyldm.commands.prompts import add_prompt_options, all_loras, note_unread
from tinyldm.commands.sampling import list_samplers, progress_bar, sampler_options, watch

if TYPE_CHECKING:
    from tinyldm.pipelines.upscale import Upscaling


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    options.add_model_options(p)
    p.add_argument("image", metavar="IMAGE", type=Path, help="picture file")
    p.add_argument("-o", "--output", metavar="FILE", type=Path, help="PNG, JPEG or WebP (default: IMAGE-large.png)")
    p.add_argument("--prompt", metavar="TEXT", help="what the picture shows")
    p.add_argument("--negative-prompt", metavar="TEXT", default="", help="what the picture should not be")
    p.add_argument("--scale", metavar="X", type=float, help="of the sides (default 2, or the model's own)")
    p.add_argument("--strength", metavar="X", type=float, help="how much a model may change that is no upscaler (0.3)")
    p.add_argument("--tile", metavar="PIXELS", type=int, help="side of its tiles (default: the model's own size)")
    p.add_argument("--overlap", metavar="PIXELS", type=int, help="of neighbouring tiles (default: a quarter of a tile)")
    p.add_argument("--noise-level", metavar="N", type=int, help="of the ×4 upscaler: noise on the small picture (20)")
    p.add_argument("--steps", metavar="N", type=int, help="of the sampler (default 25; of upscalers 75 or 100)")
    p.add_argument("--guidance-scale", metavar="G", type=float, help="pull of the prompt (default 7.5; of the ×4, 9)")
    p.add_argument("--sampler", metavar="NAME", help="default: the model's own; `help` lists all")
    options.add_repeated(p, "--sampler-option", "NAME=VALUE", "may be repeated")
    add_prompt_options(p)
    options.add_seed_option(p)
    options.add_rng_option(p)
    options.add_tiling_options(p)
    options.add_force_option(p)


def run(args: argparse.Namespace) -> None:
    """A picture made larger."""
    from tinyldm.pipelines.files import began_with, picture_files, said_of, unused
    from tinyldm.pipelines.picture_text import format_of, write_picture
    from tinyldm.pipelines.pictures import read_image
    from tinyldm.pipelines.request import request
    from tinyldm.pipelines.upscale import Upscaling, upscale
    from tinyldm.pipelines.walk import Walk

    started = time.perf_counter()
    if args.sampler == "help":
        list_samplers()
        return
    (output,) = picture_files(args.output or unused(args.image.with_name(f"{args.image.stem}-large.png")), [], 1)
    format_of(output)
    names = ("prompt", "negative_prompt", "scale", "strength", "tile", "overlap", "noise_level")
    named = {name: getattr(args, name) for name in (*names, "steps", "guidance_scale", "sampler", "clip_skip")}
    named |= {"prompt_syntax": args.prompt_syntax or "webui", "rng": args.rng or "torch"}
    wanted = Upscaling(
        read_image(args.image), seed=options.chosen_seed(args), sampler_options=sampler_options(args), **named
    )
    model = options.open_model(args, all_loras(args, request(wanted.prompt, prompt_syntax=wanted.prompt_syntax)))
    note_unread([wanted.prompt or "", wanted.negative_prompt], wanted.prompt_syntax)
    wanted = wanted.resolved(model.parts)
    model = expected(args, model, wanted)
    how = Walk(progress=progress_bar, callback=watch, single_run=True)
    image = upscale(model.parts, wanted, how)
    said = said_of(model, vars(args)) | began_with(args.image, image, False)
    write_picture(output, image, wanted.metadata() | said)
    args.written.append(output)
    print(output, f"seed {wanted.seed}, {time.perf_counter() - started:.1f} s", sep="\n")


def expected(args: argparse.Namespace, model: Any, wanted: Upscaling) -> Any:
    """Say what is made before it begins; the model, with its autoencoder in tiles where memory is short.

    Raises `InputError` where there is too little memory for that, too.
    """
    width, height = wanted.size
    sides = [side if wanted.tile is None else min(side, wanted.tile) for side in (height, width)]
    size = f"a picture of {width}×{height}"
    h, w = (-(-side // model.vae.factor) for side in sides)
    model = options.fitting(args, model, h, w, size)
    tiles = "" if wanted.tile is None else f" in tiles of {sides[1]}×{sides[0]}"
    print(f"{size}{tiles}; time left is shown after the first step", file=sys.stderr)
    return with_progress(model)
