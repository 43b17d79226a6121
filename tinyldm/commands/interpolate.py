"""Go from one prompt or seed to another, picture by picture.

examples:
  tinyldm interpolate "red apple" "lemon" --frames 12 --seed 1 -o way.gif
  tinyldm interpolate "red apple" --seed 1 --to-seed 2 -o seeds.webp
  tinyldm interpolate "red apple" "lemon" "fox" --frames 9 --seed 1 --to-seed 2 -o strip.png
"""

from __future__ import annotations

import argparse

from tinyldm.commands import sampling
from tinyldm.commands.guides import open_guided
from tinyldm.commands.options import add_model_options, add_size_options, chosen_seed
from tinyldm.commands.prompts import PROMPT_HELP, note_unknown, note_unread, read_prompts
from tinyldm.errors import InputError

# Options of a request that make several files, or another picture than the way.
UNUSED = {"-n": "count", "--save-steps": "save_steps", "--preview": "preview", "--show": "show", "--from": "repeat"}
UNUSED |= {"--rows": "rows", "--columns": "columns"}
UNSET = {"count": 1, "show": False}


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    meaning = "what to show on the way; one is enough with --to-seed"
    p.add_argument("prompt", metavar="PROMPT", nargs="+", help=meaning + PROMPT_HELP)
    p.add_argument("--frames", metavar="N", type=int, default=12, help="pictures on the way (default 12)")
    p.add_argument("--to-seed", metavar="S", type=int, help="seed of the last picture (default: that of the first)")
    sampling.add_options(p)
    add_size_options(p)


def run(args: argparse.Namespace) -> None:
    """The way between prompts and seeds."""
    from tinyldm.pipelines.animation import check_animation, write_animation
    from tinyldm.pipelines.files import said_of
    from tinyldm.pipelines.interpolation import between
    from tinyldm.pipelines.request import request
    from tinyldm.pipelines.walk import Walk

    if args.sampler == "help":
        sampling.list_samplers()
        return
    if args.output is None:
        raise InputError("-o FILE is missing: an animation, .gif or .webp, or a strip of pictures, .png")
    check_animation(args.output)
    if unused := [option for option, name in UNUSED.items() if getattr(args, name) != UNSET.get(name)]:
        raise InputError(f"the way is one row of --frames pictures; leave out {' and '.join(unused)}")
    prompts = read_prompts(args.prompt)
    settings = {"prompt_syntax": "webui"} | sampling.settings_of(args) | {"height": args.height, "width": args.width}
    asked = request(prompts, **settings)
    model = open_guided(args, asked)
    note_unread([*prompts, args.negative_prompt or ""], asked.prompt_syntax)
    wanted = between(model.parts, prompts, args.frames, args.to_seed, seed=chosen_seed(args), **settings)
    note_unknown(model, [*prompts, args.negative_prompt or ""])
    model = sampling.expected(args, model, wanted)
    said = wanted.settings(0) | said_of(model, vars(args)) | {"prompt": "\n".join(prompts), "frames": args.frames}
    said |= {} if args.to_seed is None else {"to_seed": args.to_seed}
    images = []
    try:
        walk = Walk(progress=sampling.progress_bar, callback=sampling.watch, single_run=True)
        for picture in model.pictures(wanted, walk):
            images.append(picture.image)
    finally:  # a run that is interrupted keeps the pictures that are finished
        if images:
            write_animation(args.output, images, said)
            args.written.append(args.output)
    print(args.output)
    print(f"seed {wanted.seeds[0]}")
