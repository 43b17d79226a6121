"""`--preview`: the picture under way, at chosen steps, as a small file beside it or in the terminal."""

from __future__ import annotations

import argparse
import base64
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tinyldm.commands.streams import note
from tinyldm.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from tinyldm.pipelines.model import LatentDiffusion
    from tinyldm.typing import Array

BETWEEN = 0.2  # seconds after which files that wait are written
COLUMNS = 32  # that a picture takes in a terminal
ITERM = ("iTerm.app", "WezTerm", "vscode", "mintty", "rio")  # TERM_PROGRAM of those that take iTerm2's pictures
PIECE = 4096  # characters of one message of kitty's protocol


def add_preview_options(p: argparse.ArgumentParser) -> None:
    """`--preview` and `--show`."""
    meaning = "see the picture under way every N steps, or at those of a list 1,5,10; as NAME.step-05.png beside it"
    p.add_argument("--preview", metavar="STEPS", help=meaning)
    meaning = (
        "in the terminal instead of in files: kitty, ghostty, iTerm2, WezTerm, VS Code, or any with 24-bit colours"
    )
    p.add_argument("--show", action="store_true", help=meaning)


class Previews:
    """The previews that the options ask for. Raises `InputError`, before any work, for what can't be done.

    A preview is as large as the latent. Files are written by a thread of its own, a few times a second those that wait:
    a small picture takes longer to write than to make, and so the run never waits for the disk. Within a `with`, all
    are there at its end, whatever ends it.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.chosen = chosen(args.preview)
        if args.show and self.chosen is None:
            raise InputError("--show is where --preview goes; give that one, too, such as --preview 5")
        self.draw = drawer(sys.stderr, os.environ) if args.show else None
        self.rgb: Any = None
        self.waiting: deque[tuple[Path, str, Array]] = deque()
        self.ended = threading.Event()
        self.writer = threading.Thread(target=self.write, name="previews")

    def __enter__(self) -> Previews:
        if self.chosen is not None and self.draw is None:
            self.writer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.ended.set()
        if self.writer.is_alive():
            self.writer.join()

    def of(self, model: LatentDiffusion) -> Previews:
        """These, of the pictures of a model; the map of its latents to colours may have to be fitted now."""
        if self.chosen is not None:
            from tinyldm.pipelines.preview import preview_map

            self.rgb = preview_map(model.parts)
        return self

    def see(self, step: Any, file_of: Callable[[int], Path]) -> None:
        """After each step: its previews, where it is one of the chosen ones. `file_of` a picture is what it becomes."""
        number = step.index + 1
        if self.chosen is None or not self.chosen(number, step.count):
            return
        from tinyldm.pipelines.preview import preview

        for k, z in zip(step.pictures, step.latent if step.clean is None else step.clean, strict=True):
            if self.draw is None:
                self.waiting.append((file_of(k), f".step-{number:0{len(str(step.count))}d}.png", z))
            else:
                print(f"\r\x1b[K{self.draw(preview(z, self.rgb))}", file=sys.stderr)

    def write(self) -> None:
        """Write what waits, now and then until the end, and then the last."""
        from tinyldm.pipelines.preview import preview_png

        ended = False
        while not ended and self.chosen is not None:
            ended = self.ended.wait(BETWEEN)
            try:
                while self.waiting:
                    picture, suffix, z = self.waiting.popleft()
                    write(picture, suffix, preview_png(z, self.rgb))
            except OSError as error:  # a preview is not worth the picture
                note(f"no more previews: {error.filename}: {error.strerror}")
                self.chosen = None


def write(picture: Path, suffix: str, png: bytes) -> None:
    """Write a preview beside its picture.

    One that is there goes first: a file that is overwritten is put on the disk at once, which takes milliseconds.
    """
    picture.parent.mkdir(parents=True, exist_ok=True)
    path = picture.with_name(picture.stem + suffix)
    path.unlink(missing_ok=True)
    path.write_bytes(png)


def chosen(text: str | None) -> Callable[[int, int], bool] | None:
    """Which of the steps, counted from 1 to a count, are looked at; None where none is asked for."""
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise InputError(f"--preview wants a number of steps such as 5, or a list such as 1,5,10, not {text!r}")
    if len(numbers) > 1:
        return lambda number, count: number in numbers
    return lambda number, count: number % numbers[0] == 0 and number < count  # the last one is the picture itself


def drawer(terminal: TextIO, environment: Mapping[str, str]) -> Callable[[Image.Image], str]:
    """What writes a picture to this terminal. Raises `InputError` where that shows none."""
    program, term = environment.get("TERM_PROGRAM", ""), environment.get("TERM", "")
    if not terminal.isatty():
        raise InputError("--show wants a terminal for standard error; without it previews are files")
    if environment.get("KITTY_WINDOW_ID") or "kitty" in term or "ghostty" in (term, program):
        return kitty
    if program in ITERM or environment.get("LC_TERMINAL") == "iTerm2":
        return iterm
    if environment.get("COLORTERM") in ("truecolor", "24bit"):
        return half_blocks
    raise InputError(
        "--show: this terminal is not known to show pictures; kitty, ghostty, iTerm2, WezTerm, VS Code and those with "
        "COLORTERM=truecolor do; without it previews are files"
    )


def png_of(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file, made quickly."""
    from tinyldm.pipelines.pictures import as_file

    return as_file(image, compress_level=1)


def kitty(image: Image.Image) -> str:
    """The messages of kitty's graphics protocol that show a picture: https://sw.kovidgoyal.net/kitty/graphics-protocol."""
    data = base64.b64encode(png_of(image)).decode()
    pieces = [data[k : k + PIECE] for k in range(0, len(data), PIECE)]
    first = f"a=T,f=100,c={COLUMNS},"
    messages = [f"{first * (k == 0)}m={int(k < len(pieces) - 1)};{piece}" for k, piece in enumerate(pieces)]
    return "".join(f"\x1b_G{message}\x1b\\" for message in messages)


def iterm(image: Image.Image) -> str:
    """The message of iTerm2 that shows a picture: https://iterm2.com/documentation-images.html."""
    data = base64.b64encode(png_of(image)).decode()
    return f"\x1b]1337;File=inline=1;width={COLUMNS};preserveAspectRatio=1:{data}\x07"


def half_blocks(image: Image.Image) -> str:
    """A picture of coloured half blocks, two of its pixels in a character, one above the other."""
    if image.width > 2 * COLUMNS:
        image = image.resize((2 * COLUMNS, max(1, image.height * 2 * COLUMNS // image.width)))
    lines = []
    for y in range(0, image.height, 2):
        line = ""
        for x in range(image.width):
            upper, lower = (image.getpixel((x, min(row, image.height - 1))) for row in (y, y + 1))
            line += f"\x1b[38;2;{levels(upper)}m\x1b[48;2;{levels(lower)}m▀"
        lines.append(f"{line}\x1b[0m")
    return "\n".join(lines)


def levels(colour: Any) -> str:
    """A colour in a terminal's words."""
    return ";".join(map(str, colour))
