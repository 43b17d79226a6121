"""What the commands share that answer a browser: where they listen, whom they answer, and what they say."""

from __future__ import annotations

import argparse
import contextlib
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from tinyldm.commands.options import add_force_option, add_repeated
from tinyldm.commands.streams import note
from tinyldm.errors import InputError

if TYPE_CHECKING:  # an extra, which may not be there
    import socket

    from tinyldm.server.security import Rules

DRAWN = "drawn"  # `--token` without a word


class Door(NamedTuple):
    """Where a server listens and whom it answers: the socket, the rules, the address of its page with the token."""

    sock: socket.socket
    rules: Rules
    page: str


def add_listening_options(p: argparse.ArgumentParser, port: int) -> None:
    """Where to listen, and whom to answer."""
    p.add_argument(
        "--host", metavar="NAME", default="127.0.0.1", help="address to listen on (default: this machine's own)"
    )
    p.add_argument("--port", metavar="N", type=int, default=port, help=f"port (default {port}; 0: any that is free)")
    p.add_argument("--open", action="store_true", help="open the page in the browser")
    p.add_argument("--queue", metavar="N", type=int, default=32, help="requests that may wait (default 32)")
    p.add_argument(
        "--token", metavar="WORD", nargs="?", const=DRAWN, help="answer only who has this word (alone: one is drawn)"
    )
    add_repeated(p, "--allow-host", "NAME", "answer to this name, too; may be repeated")
    add_force_option(p)


@contextlib.contextmanager
def needed(command: str) -> Iterator[None]:
    """Import what the extra `web` brings; `InputError` says how to install it where it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "tinyldm":
            raise
        raise InputError(
            f'`tinyldm {command}` needs {missing}, which is not installed: pip install "tinyldm[web]"'
        ) from None


@contextlib.contextmanager
def opened_door(args: argparse.Namespace, origins: tuple[str, ...] = ()) -> Iterator[Door]:
    """The door that the options ask for. Raises `InputError` for options that make no sense, before any work."""
    from tinyldm.server.running import listening
    from tinyldm.server.security import Rules

    if args.queue < 1:
        raise InputError(f"--queue must be 1 or more, not {args.queue}")
    if args.token == "":
        raise InputError("--token must be a word, or stand alone to have one drawn")
    token = secrets.token_urlsafe(16) if args.token == DRAWN else args.token
    hosts = tuple(host.lower() for host in (args.host, *args.allow_host))
    rules = Rules(hosts, any_address=args.host in ("0.0.0.0", "::"), origins=origins, token=token)
    with listening(args.host, args.port) as sock:
        name = "127.0.0.1" if rules.any_address else args.host
        address = f"http://{f'[{name}]' if ':' in name else name}:{sock.getsockname()[1]}/"
        if rules.any_address and token is None:
            note("whoever reaches this port can make pictures; --token answers only who has a word")
        yield Door(sock, rules, address if token is None else f"{address}?token={token}")


def say(args: argparse.Namespace, name: str, page: str, more: str = "") -> None:
    """Say where the page is, and open it if that is wanted."""
    print(f"{name}: {page}  (Ctrl-C ends it{more})")
    if args.open:
        import webbrowser

        webbrowser.open(page)
