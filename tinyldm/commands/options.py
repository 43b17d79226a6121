"""The options that several commands share, and what they open."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyldm.commands.grammar import nearest
from tinyldm.commands.streams import note
from tinyldm.errors import InputError

if TYPE_CHECKING:  # what the options open takes a while to import: `run` does it
    from tinyldm.pipelines.model import LatentDiffusion


def add_repeated(
    p: argparse.ArgumentParser | argparse._ArgumentGroup, names: str, metavar: str, meaning: str, **more: Any
) -> None:
    """An option that may be given several times; what it is given is a list, which is empty where it is not there."""
    p.add_argument(*names.split(", "), metavar=metavar, action="append", default=[], help=meaning, **more)


def add_checkpoint_options(p: argparse.ArgumentParser) -> None:
    """How to read a checkpoint, where it leaves something open."""
    p.add_argument("--variant", metavar="NAME", help="prefer weight files with this in their names, such as fp16")
    p.add_argument("--config", metavar="FILE", type=Path, help="JSON: fields by component, or a published config.json")
    p.add_argument("--prediction-type", metavar="T", help="epsilon, v_prediction or sample, over what the file says")
    p.add_argument("--ema", action=argparse.BooleanOptionalAction, help="running average of the weights, or plain ones")


def checkpoint_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_checkpoint_options` as arguments."""
    from tinyldm.checkpoints.folder import read_json

    named = {name: getattr(args, name) for name in ("variant", "prediction_type", "ema")}
    return {**named, "config": read_json(args.config) if args.config else None}


def add_model_options(p: argparse.ArgumentParser) -> None:
    """Which model to load, and how to compute it."""
    p.add_argument("--model", metavar="PATH", help="checkpoint, a folder or a file (default: the package's own)")
    add_checkpoint_options(p)
    p.add_argument("--vae", metavar="PATH", help="take the autoencoder from this checkpoint")
    p.add_argument("--text-encoder", metavar="PATH", help="take the text encoder from this checkpoint")
    add_repeated(p, "--lora", "FILE[@SCALE]", "merge a LoRA; may be repeated")
    add_repeated(p, "--word", "FILE", "add a learned word; may be repeated")
    add_runtime_options(p, "float32 (default), or float64 with reference")
    p.set_defaults(dtype="float32")
    p.add_argument("--low-memory", action="store_true", help="read weights anew each time instead of keeping them")


def add_tiling_options(p: argparse.ArgumentParser) -> None:
    """`--vae-tiling` and `--vae-tile`."""
    p.add_argument("--vae-tiling", action="store_true", help="decode in tiles: the same picture in half the memory")
    p.add_argument("--vae-tile", metavar="ROWS", type=int, help="rows of pixels in a tile (default 32)")


def add_force_option(p: argparse.ArgumentParser) -> None:
    """`--force`."""
    p.add_argument("--force", action="store_true", help="begin even where there seems to be too little memory")


def add_runtime_options(p: argparse.ArgumentParser, dtypes: str) -> None:
    """How to compute."""
    p.add_argument("--backend", metavar="B", help="numba (default) or reference")
    p.add_argument("--dtype", metavar="D", help=dtypes)
    p.add_argument("--precision", metavar="P", help="fast (default), strict or bf16, of the numba backend")
    p.add_argument("--threads", metavar="N", type=int, help="threads of the numba backend (default: all cores)")


def runtime_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_runtime_options` as arguments."""
    named = {name: getattr(args, name) for name in ("backend", "dtype", "precision")}
    return {**named, "threads": bounded_threads(args.threads)}


def bounded_threads(asked: int | None) -> int | None:
    """The threads that are asked for, by the option or by TINYLDM_THREADS, but no more than there are processors."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    named = os.environ.get("TINYLDM_THREADS", "")
    if asked is None and named.isascii() and named.isdigit():
        asked = int(named) if int(named) > processors else None
    if asked is None or asked <= processors:
        return asked
    note(f"{asked} threads are more than the {processors} processors here, which would be slower; taking {processors}")
    return processors


def open_model(args: argparse.Namespace, loras: Sequence[tuple[str, float]] | None = None) -> LatentDiffusion:
    """Load the checkpoint that the options name, and print what there is to note about it.

    `loras` are merged, by default those of `--lora`.
    """
    from tinyldm.pipelines.load import load

    model = load(**load_options(args) | ({} if loras is None else {"loras": loras}))
    tile = chosen_tile(args)
    model = model if tile is None else model.tiled(tile)
    for text in model.notes:
        note(text)
    return model


def load_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_model_options` as arguments of `load`, and those of adapters where a command has them."""
    named = {name: getattr(args, name) for name in ("low_memory", "vae", "text_encoder")}
    named |= {name: getattr(args, name) for name in ("controlnet", "ip_adapter", "image_encoder") if name in args}
    put_on_top = {"loras": [scaled(lora) for lora in args.lora], "words": args.word}
    return {"path": args.model, **runtime_options(args), **checkpoint_options(args), **named, **put_on_top}


def fitting(args: argparse.Namespace, model: Any, h: int, w: int, what: str, denoises: bool = True) -> Any:
    """The model, with its autoencoder in tiles where memory is short for `what`, of latents of `h` × `w`.

    With `--force` it stays as it is. Raises `InputError` where there is too little memory for that, too.
    """
    from tinyldm import memory

    return model if args.force else memory.fitting(model, h, w, what, denoises)


def chosen_tile(args: argparse.Namespace) -> int | None:
    """The rows of `--vae-tile`, or of `--vae-tiling` alone; None where neither was given."""
    if not getattr(args, "vae_tiling", False):
        return getattr(args, "vae_tile", None)
    from tinyldm.models.tiled import TILE

    return TILE if args.vae_tile is None else int(args.vae_tile)


def scaled(lora: str) -> tuple[str, float]:
    """The file and the scale of `FILE@SCALE`; the scale may be left out."""
    path, at, scale = lora.rpartition("@")
    if not at:
        return lora, 1.0
    try:
        return path, float(scale)
    except ValueError:
        return lora, 1.0  # an @ in the name of the file


def add_measured_options(p: argparse.ArgumentParser) -> None:
    """What the commands that measure take: a checkpoint or a published architecture, and a size."""
    add_model_options(p)
    known = "sd15, sd15-taesd, sd21, sdxs-512, sdxl, ldm-imagenet, ldm-celebahq"
    p.add_argument("--architecture", metavar="NAME", help=f"random weights of a published one: {known}")
    add_size_options(p)


def open_measured(args: argparse.Namespace) -> Any:
    """The checkpoint that the options name, or a published architecture with random weights."""
    from tinyldm.architectures import ARCHITECTURES, random_model
    from tinyldm.runtime import Runtime

    if args.architecture is None:
        return open_model(args)
    if args.architecture not in ARCHITECTURES:
        raise InputError(f"architecture {args.architecture!r} is unknown; {nearest(args.architecture, ARCHITECTURES)}")
    return random_model(args.architecture, Runtime.choose(**runtime_options(args), low_memory=args.low_memory))


def add_size_options(p: argparse.ArgumentParser, meaning: str = "in pixels (default: the model's own)") -> None:
    """`--width` and `--height`."""
    p.add_argument("--width", metavar="W", type=int, help=meaning)
    p.add_argument("--height", metavar="H", type=int, help=meaning)


def add_resize_options(p: argparse.ArgumentParser) -> None:
    """To which size a picture is brought, and how it is where its sides do not fit the model."""
    add_size_options(p, "resize the picture to this first")
    meaning = "a picture whose sides do not fit: crop (default), pad, stretch, or none: refuse it"
    p.add_argument("--resize", metavar="HOW", default="crop", help=meaning)


def add_seed_option(p: argparse.ArgumentParser, of: str = "the noise") -> None:
    """`--seed`."""
    p.add_argument("--seed", metavar="S", type=int, help=f"seed of {of} (default, and -1: drawn, and printed)")


def add_rng_option(p: argparse.ArgumentParser) -> None:
    """`--rng`."""
    meaning = "what a seed means: torch (default), cuda (as on a GPU; cuda:THREADS of another card) or numpy"
    p.add_argument("--rng", metavar="R", help=meaning)


def chosen_seed(args: argparse.Namespace) -> int:
    """The seed that was given, or one that is drawn."""
    if args.seed not in (None, -1):
        return int(args.seed)
    import secrets

    return secrets.randbits(32)
