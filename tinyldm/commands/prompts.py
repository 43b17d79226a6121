"""Prompts as they are typed: from files and standard input, and what there is to say about their words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinyldm.commands.options import scaled
from tinyldm.commands.streams import note
from tinyldm.errors import InputError

if TYPE_CHECKING:
    from tinyldm.pipelines.model import LatentDiffusion
    from tinyldm.pipelines.request import Request

PROMPT_HELP = "; - reads prompts from standard input, @FILE from a file, one a line; @@ begins one with an @"


def read_prompts(words: Sequence[str]) -> list[str]:
    """The prompts of a command line: as they are, or those that `-` and `@FILE` stand for."""
    prompts = [prompt for word in words for prompt in prompts_of(word)]
    for prompt in prompts:
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise InputError(f"prompt {prompt!r}: is no valid {sys.getfilesystemencoding()}; type it in that encoding")
    return prompts


def prompts_of(word: str) -> Iterator[str]:
    """The prompts that one word of the command line stands for."""
    if word != "-" and (not word.startswith("@") or word.startswith("@@")):
        yield word[word.startswith("@@") :]
        return
    name = "standard input" if word == "-" else word[1:]
    try:
        text = sys.stdin.read() if word == "-" else Path(name).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: prompts must be UTF-8: byte {error.start} is not") from None
    except OSError as error:
        raise InputError(
            f"{name}: prompts can't be read: {error.strerror or error}; @@ begins a prompt with @"
        ) from None
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise InputError(f"{name}: holds no prompts; wanted one a line")
    yield from prompts


def add_prompt_options(p: argparse.ArgumentParser) -> None:
    """How prompts are read."""
    meaning = "webui (default): weights (a:1.3), [a:b:0.5], BREAK, AND, <lora:a:0.8>; plain: words alone"
    p.add_argument("--prompt-syntax", metavar="S", help=meaning)
    p.add_argument("--clip-skip", metavar="N", type=int, help="take the text encoder's Nth layer from the last, 1")
    p.add_argument("--lora-dir", metavar="DIR", type=Path, help="folder of the LoRAs that prompts name")


def all_loras(args: argparse.Namespace, wanted: Request) -> list[tuple[str, float]]:
    """The LoRAs to merge: those of `--lora`, and those that prompts name, at the strength that is named there."""
    given = [scaled(lora) for lora in args.lora]
    if wanted.prompt_syntax == "plain":
        return given
    from tinyldm.pipelines.prompt_loras import named_loras

    named = named_loras([prompt or "" for prompt in wanted.prompts], args.lora_dir, [file for file, _ in given])
    files = {Path(file).resolve() for file, _ in named}
    return [*(lora for lora in given if Path(lora[0]).resolve() not in files), *named]


def note_unread(prompts: Sequence[str], syntax: str = "plain") -> None:
    """Say which parts of prompts other programs would not take as words."""
    from tinyldm.text.known import unread_syntax

    if unread := unread_syntax(prompts, syntax):
        said = ", ".join(unread[:5]) + " …" * (len(unread) > 5)
        why = "as --prompt-syntax plain has it" if syntax == "plain" else "since the prompt syntax has no such signs"
        note(f"prompt: {said}: read as words, {why}")


def note_unknown(model: LatentDiffusion, prompts: Sequence[str]) -> None:
    """Say which words a checkpoint of a small vocabulary does not know, and which captions come near."""
    from tinyldm.text.known import about_unknown

    if said := about_unknown(model.tokenizer, model.path, prompts):
        note(said)
