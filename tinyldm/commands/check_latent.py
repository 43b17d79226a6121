"""Check a latent file against what the decoder takes.

examples:
  tinyldm check-latent apple.safetensors
  tinyldm check-latent --model stable-diffusion-v1-5 --fit photographs/
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tinyldm.commands.options import add_model_options, open_model
from tinyldm.errors import InputError

if TYPE_CHECKING:
    from tinyldm.pipelines.model import LatentDiffusion
    from tinyldm.typing import Array

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    p.add_argument("latent", metavar="FILE", type=Path, nargs="?", help="safetensors file with the tensor `latent`")
    p.add_argument("--fit", metavar="FOLDER", type=Path, help="make the checkpoint's statistics of these pictures")
    p.add_argument("--statistics", metavar="JSON", type=Path, help="where they lie (default: with the checkpoint)")


def run(args: argparse.Namespace) -> int:
    """Check a latent; 1 where it does not fit."""
    from tinyldm.pipelines.latent_check import check_latent, fit, read_statistics, statistics_path
    from tinyldm.pipelines.latents import stored_latent
    from tinyldm.pipelines.pictures import check_writable

    if args.latent is None and args.fit is None:
        raise InputError("name a latent file to check, or a folder of pictures: --fit FOLDER")
    latent = None if args.latent is None else stored_latent(args.latent)
    files = None if args.fit is None else picture_files(args.fit)
    model = open_model(args)
    path = args.statistics or statistics_path(model.path)
    if files is not None:
        check_writable(path)
        statistics = fit(read_pictures(files, model), model.vae)
        statistics.write(path)
        args.written.append(path)
        print(f"{path}: statistics of {statistics.pictures} latents")
    if latent is None:
        return 0
    report = check_latent(latent, model.vae, read_statistics(path))
    print(report)
    return 0 if report.ok else 1


def picture_files(folder: Path) -> list[Path]:
    """The pictures in a folder, by name. Raises `InputError` where there are too few."""
    from tinyldm.pipelines.latent_check import FEWEST

    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if len(files) < FEWEST:
        raise InputError(f"{folder}: wanted at least {FEWEST} pictures ({', '.join(PICTURES)}), found {len(files)}")
    return files


def read_pictures(files: list[Path], model: LatentDiffusion) -> Iterator[Array]:
    """Each picture as pixels, scaled and cropped to the size that the model was trained on."""
    from PIL import Image, ImageOps

    from tinyldm.pipelines.pictures import read_image, to_pixels

    side = model.vae.config.sample_size
    for path in files:
        yield to_pixels(ImageOps.fit(read_image(path), (side, side), Image.Resampling.LANCZOS))
