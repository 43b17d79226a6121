"""The options of variations, and of the way from noise to picture."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyldm.pipelines.animation import StepFrames
    from tinyldm.pipelines.model import LatentDiffusion
    from tinyldm.pipelines.request import Request
    from tinyldm.pipelines.walk import Picture
    from tinyldm.typing import Array


def add_variation_options(p: argparse.ArgumentParser) -> None:
    """How far pictures differ from that of their seed, and whether their steps are kept."""
    how = "0 to 1: variations of the picture of --seed, this far away from it"
    p.add_argument("--variation-strength", metavar="X", type=float, help=how)
    p.add_argument("--variation-seed", metavar="S", type=int, help="of the first variation (default: drawn)")
    p.add_argument("--save-steps", metavar="FILE", type=Path, help="the picture at every step: .gif, .webp or .png")


def variation_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The variation that the options ask for, as settings of a request."""
    strength, seed = args.variation_strength, args.variation_seed
    if strength is None and seed is None:
        return {}
    drawn = secrets.randbits(32) if seed in (None, -1) else seed
    return {"variation_strength": 0.0 if strength is None else strength, "variation_seed": drawn}


class StepFiles:
    """Writes the way of every finished picture to its file of `--save-steps`."""

    def __init__(self, args: argparse.Namespace, count: int) -> None:
        from tinyldm.pipelines.animation import check_animation
        from tinyldm.pipelines.files import numbered

        self.args, self.files = args, numbered(args.save_steps, count)
        check_animation(self.files[0])
        self.kept: StepFrames | None = None

    def watching(self, model: LatentDiffusion, wanted: Request, watch: Callable[[object], None]) -> Callable[..., None]:
        """A callback for each step, which calls `watch` as well."""
        from tinyldm.pipelines.animation import StepFrames

        kept = self.kept = StepFrames(model.parts, wanted)

        def after_step(step: Any) -> None:
            watch(step)
            kept.after_step(step)

        return after_step

    def write(self, picture: Picture, said: dict[str, str]) -> None:
        """Decode the steps of a finished picture, and write them with its settings."""
        from tinyldm.pipelines.animation import write_animation

        assert self.kept is not None
        file = self.files[picture.index]
        write_animation(file, self.kept.frames(picture, progress_bar), said)
        self.args.written.append(file)


def progress_bar(latents: list[Array]) -> Iterator[Array]:
    """A progress bar over the pictures that are decoded."""
    from tqdm import tqdm

    return iter(tqdm(latents, desc="decoding the steps", unit="picture", leave=False))
