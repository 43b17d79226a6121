"""Make pictures on a page in the browser, and for other programs.

example:
  tinyldm serve --open
  tinyldm serve --model stable-diffusion-v1-5 --port 8000 -o pictures
  tinyldm serve --host 0.0.0.0 --allow-host studio.example.org --token

other programs: AUTOMATIC1111's /sdapi/v1/…, and OpenAI's /v1/images/…, at the same address
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from tinyldm.commands.listening import add_listening_options, needed, opened_door, say
from tinyldm.commands.options import add_model_options, add_repeated, open_model
from tinyldm.errors import InputError


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    add_listening_options(p, 7860)
    p.add_argument("-o", "--output", metavar="DIR", type=Path, default=Path("pictures"), help="folder of the pictures")
    add_repeated(p, "--allow-origin", "URL", "let pages of this site use the API; may be repeated")


def run(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    from tinyldm.pipelines.files import OPENED_WITH

    with needed("serve"):
        from tinyldm.server.app import application
        from tinyldm.server.running import serve
        from tinyldm.server.studio import Studio

    with opened_door(args, tuple(args.allow_origin)) as door:
        loaded = {name: getattr(args, name) for name in OPENED_WITH}
        studio = Studio(open_model(args), made(args.output), force=args.force, loaded=loaded)
        ready = functools.partial(say, args, studio.name, door.page, f"; pictures go to {args.output}")
        try:
            serve(functools.partial(application, studio, door.rules, places=args.queue), door.sock, ready)
        finally:  # what Ctrl-C says was kept
            count = len(studio.kept)
            args.written += [f"{count} picture{'s' * (count > 1)} in {args.output}"] if count else []


def made(folder: Path) -> Path:
    """The folder, made where it is not there. Raises `InputError` where it can't be written to."""
    from tinyldm.pipelines.pictures import check_writable

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: can't be made: {error.strerror or error}") from None
    check_writable(folder / "picture.png")
    return folder
