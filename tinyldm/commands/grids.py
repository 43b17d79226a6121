"""`--rows` and `--columns`: one picture of many over two settings, with labels."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tinyldm.commands.guides import open_guided
from tinyldm.commands.prompts import note_unknown
from tinyldm.commands.repeat import note_differences
from tinyldm.errors import InputError

if TYPE_CHECKING:
    from tinyldm.pipelines.model import LatentDiffusion

BAR = "{l_bar}{bar:24}| {n_fmt}/{total_fmt} steps, {rate_inv_fmt}, {remaining} left"


def add_grid_options(p: argparse.ArgumentParser) -> None:
    """`--rows` and `--columns`."""
    meaning = "write one picture, with labels, over the values of a setting"
    p.add_argument("--rows", metavar="NAME=V,V,…", help=f"{meaning}: steps, sampler, seed, prompt, …")
    p.add_argument("--columns", metavar="NAME=V,V,…", help="the same, along the columns")


def make_grid(
    args: argparse.Namespace,
    arguments: Mapping[str, Any],
    began: Mapping[str, Any],
    expect: Callable[..., LatentDiffusion],
    watch: Callable[[object], None],
) -> None:
    """Make the grid that the options ask for, all cells with the `arguments` of a request, and write it.

    `expect` says what a request will take before it begins, and gives the model that has room for it; `watch` is called
    after each step.
    """
    from tqdm import tqdm

    from tinyldm.pipelines import grids
    from tinyldm.pipelines.files import picture_files, said_of
    from tinyldm.pipelines.picture_text import check_picture, write_picture
    from tinyldm.pipelines.prompted import words
    from tinyldm.pipelines.walk import Walk

    started = time.perf_counter()
    if args.save_steps is not None:
        raise InputError("--save-steps is of one picture; leave it out with --rows and --columns")
    if args.count != 1 or getattr(args, "grid", None) is not None:
        raise InputError("--rows and --columns make one picture a cell; leave out -n and --grid, and take seed=1,2,3")
    rows, columns = (grids.read_axis(text) if text else grids.NOTHING for text in (args.rows, args.columns))
    wanted = grids.cells(arguments, rows, columns)
    prompts = list(dict.fromkeys(prompt for cell in wanted.values() for prompt in cell.prompts if prompt))
    (file,) = picture_files(args.output, prompts, 1)
    of_all = replace(next(iter(wanted.values())), prompts=tuple(prompts))
    model = open_guided(args, of_all)
    made = grids.merged(model.parts, wanted)
    note_unknown(model, list(dict.fromkeys(text for one, _ in made for text in words(model.parts, one))))
    largest = max((one for one, _ in made), key=lambda one: (one.width or 0) * (one.height or 0))
    model = expect(args, model, largest)
    said = {**made[0][0].settings(0), **said_of(model, vars(args)), **began, "prompts": prompts}
    said |= {name: text for name in ("rows", "columns") if (text := getattr(args, name))}
    if args.repeat is not None:
        note_differences(args, said)
    size = (len(columns.values) * (largest.width or 0), len(rows.values) * (largest.height or 0))
    check_picture(file, said, size)
    images: dict[grids.Place, Any] = {}
    bar = tqdm(total=grids.calls(model.parts, made), desc="sampling", unit="step", bar_format=BAR)
    how = Walk(progress=partial(counted, bar), callback=watch, single_run=True)
    try:
        for place, image in grids.grid_pictures(model.parts, made, how):
            images[place] = image
    finally:  # a run that is interrupted keeps the pictures that are finished
        bar.close()
        if images:
            write_picture(file, grids.drawn(images, rows, columns), said)
            args.written.append(file)
    computed = sum(len(one.prompts) for one, _ in made)
    print(file)
    print(f"{len(wanted)} cells, {computed} pictures computed, {time.perf_counter() - started:.1f} s")


def counted(bar: Any, calls: range) -> Iterator[int]:
    """The calls of the denoiser of one walk, each counted on the bar of all."""
    for call in calls:
        yield call
        bar.update()
