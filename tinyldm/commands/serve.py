"""`tinyldm serve`: a page in the browser, and the API that other programs speak."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from tinyldm.commands.options import add_force_option, add_model_options, open_model
from tinyldm.commands.streams import note
from tinyldm.errors import InputError

if TYPE_CHECKING:
    from tinyldm.server.studio import Studio

SUMMARY = "make pictures on a page in the browser, and for other programs"
EXAMPLE = """example:
  tinyldm serve --open
  tinyldm serve --model stable-diffusion-v1-5 --port 8000 -o pictures
  tinyldm serve --host 0.0.0.0 --allow-host studio.example.org --token

other programs: AUTOMATIC1111's /sdapi/v1/…, and OpenAI's /v1/images/…, at the same address
"""
DRAWN = "drawn"  # `--token` without a word


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    p.add_argument(
        "--host", metavar="NAME", default="127.0.0.1", help="address to listen on (default: this machine's own)"
    )
    p.add_argument("--port", metavar="N", type=int, default=7860, help="port (default 7860; 0: any that is free)")
    p.add_argument("--open", action="store_true", help="open the page in the browser")
    p.add_argument("-o", "--output", metavar="DIR", type=Path, default=Path("pictures"), help="folder of the pictures")
    p.add_argument("--queue", metavar="N", type=int, default=32, help="requests that may wait (default 32)")
    p.add_argument(
        "--token", metavar="WORD", nargs="?", const=DRAWN, help="answer only who has this word (alone: one is drawn)"
    )
    more = "; may be repeated"
    p.add_argument("--allow-host", metavar="NAME", action="append", default=[], help="answer to this name, too" + more)
    p.add_argument(
        "--allow-origin", metavar="URL", action="append", default=[], help="let pages of this site use the API" + more
    )
    add_force_option(p)


def run(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    from tinyldm.pipelines.files import OPENED_WITH

    try:
        from tinyldm.server.running import listening, serve
        from tinyldm.server.security import Rules
        from tinyldm.server.studio import Studio
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "tinyldm":
            raise
        raise InputError(
            f'`tinyldm serve` needs {missing}, which is not installed: pip install "tinyldm[web]"'
        ) from None

    if args.queue < 1:
        raise InputError(f"--queue must be 1 or more, not {args.queue}")
    if args.token == "":
        raise InputError("--token must be a word, or stand alone to have one drawn")
    token = secrets.token_urlsafe(16) if args.token == DRAWN else args.token
    rules = Rules(
        hosts=(args.host.lower(), *(host.lower() for host in args.allow_host)),
        any_address=args.host in ("0.0.0.0", "::"),
        origins=tuple(args.allow_origin),
        token=token,
    )
    with listening(args.host, args.port) as sock:
        loaded = {name: getattr(args, name) for name in OPENED_WITH}
        studio = Studio(open_model(args), made(args.output), force=args.force, loaded=loaded)
        name = "127.0.0.1" if rules.any_address else args.host
        address = f"http://{f'[{name}]' if ':' in name else name}:{sock.getsockname()[1]}/"
        if rules.any_address and token is None:
            note("whoever reaches this port can make pictures; --token answers only who has a word")
        try:
            serve(studio, rules, sock, places=args.queue, ready=lambda: say(args, studio, address, token))
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


def say(args: argparse.Namespace, studio: Studio, address: str, token: str | None) -> None:
    """Say where the page is, and open it if that is wanted."""
    page = address if token is None else f"{address}?token={token}"
    print(f"{studio.name}: {page}  (Ctrl-C ends it; pictures go to {args.output})")
    if args.open:
        import webbrowser

        webbrowser.open(page)
