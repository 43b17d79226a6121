"""Make the pictures of a file of rows, and go on after a stop.

example:
  tinyldm batch prompts.txt --seeds 0:8
  tinyldm batch table.csv -o pictures --sampler ddim,dpm++_2m --steps 20 --name "{prompt}-{sampler}-{seed}.png"
  tinyldm batch rows.jsonl -o pictures --cluster tcp://10.0.0.1:8786

rows:
  of a text file a prompt a line; a CSV file has a column for each setting (prompt, seed, steps, guidance_scale,
  width, image, mask, …) under its name; a line of a .jsonl file is an object of them. What a row says goes before the
  options. A list, and of whole numbers a range 0:8, stands for one picture of each.

exit status:
  1 where rows failed and the others are done; the same command goes on where a run was ended, and tries those again
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyldm.commands import interrupts, sampling
from tinyldm.commands.options import add_force_option, add_model_options, add_repeated, load_options, open_model
from tinyldm.commands.previews import Previews, add_preview_options
from tinyldm.commands.prompts import note_unknown, note_unread
from tinyldm.commands.streams import note
from tinyldm.errors import InputError, TinyldmError

if TYPE_CHECKING:
    from tinyldm.batches.making import Made
    from tinyldm.batches.rows import Job
    from tinyldm.batches.run import Report
    from tinyldm.pipelines.model import LatentDiffusion
    from tinyldm.pipelines.walk import Step

# Settings with an option of their own; every other column is set by --set.
SETTINGS = {
    "negative_prompt": ("TEXT", "what the picture should not be; repeated, a picture of each"),
    "steps": ("N", "of the sampler"),
    "guidance_scale": ("G", "pull of the prompt"),
    "sampler": ("NAME", "default ddim, but for few-step models; `help` lists all"),
    "width": ("W", "in pixels (default: the model's own)"),
    "height": ("H", "in pixels (default: the model's own)"),
    "image": ("FILE", "picture to begin from, or latent file of `encode`"),
    "strength": ("X", "with a picture to begin from: 0 keeps it, 1 replaces it (default 0.8)"),
}


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    p.add_argument("file", metavar="FILE", help="text, .csv, .tsv or .jsonl; - reads prompts from standard input")
    p.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, help="for pictures and manifest (default: FILE's name)"
    )
    p.add_argument("--name", metavar="TEMPLATE", help="of the files (default: {row:04d}-{prompt}-{seed}.png)")
    add_repeated(p, "--seeds, --seed", "S", "7, or 0:8 (default 0)", dest="seed")
    for name, (metavar, meaning) in SETTINGS.items():
        add_repeated(p, f"--{name.replace('_', '-')}", metavar, meaning)
    add_repeated(p, "--set", "COLUMN=VALUE", "any other setting of every row; may be repeated")
    p.add_argument(
        "--batch-size", metavar="N", type=int, help="walk so many together at most (default: as many as pay)"
    )
    p.add_argument("--overwrite", action="store_true", help="replace pictures that were made with other settings")
    meaning = "make the rows on a Dask cluster: tcp://HOST:PORT of its scheduler, or local:N for N workers here"
    p.add_argument("--cluster", metavar="ADDRESS", help=meaning)
    p.add_argument("--shared", action="store_true", help="all machines see the FOLDER: workers write there themselves")
    add_preview_options(p)
    add_force_option(p)


def run(args: argparse.Namespace) -> int | None:
    """The pictures of the rows that are not there yet; the exit status says whether one failed."""
    if args.sampler == ["help"]:
        sampling.list_samplers()
        return None
    from tinyldm.batches.run import How, begun_here, planned
    from tinyldm.batches.run import run as run_batch
    from tinyldm.pipelines.files import OPENED_WITH

    if args.batch_size is not None and args.batch_size < 1:
        raise InputError(f"--batch-size must be 1 or more, not {args.batch_size}")
    if args.cluster is not None and args.preview is not None:
        raise InputError("--preview is for pictures that are made here; leave it out with --cluster")
    if args.shared and args.cluster is None:
        raise InputError("--shared is for the workers of a --cluster")
    started, folder = time.perf_counter(), args.output or Path("batch" if args.file == "-" else Path(args.file).stem)
    with contextlib.closing(Shown(args, folder)) as shown, shown.previews:
        loaded = {name: getattr(args, name) for name in OPENED_WITH}
        how = How(args.batch_size, shown.step, shown.began, shown.made, args.overwrite, args.force, loaded)
        model = open_model(args)
        jobs = planned(model, args.file, settings_of(args), args.name)
        note_prompts(model, jobs)
        shown.previews.of(model)
        if args.cluster is None:
            report = run_batch(model, jobs, folder, how, begun_here(model, how))
        else:
            from tinyldm.batches.cluster import on_cluster

            shared = folder if args.shared else None
            with on_cluster(args.cluster, model, load_options(args), how, shared) as engine:
                report = run_batch(model, jobs, folder, how, engine)
    before = f", {report.skipped} were there" if report.skipped else ""
    failed = f", {len(report.failed)} failed" if report.failed else ""
    print(f"{folder}: {report.made} pictures made{before}{failed}, {time.perf_counter() - started:.1f} s")
    return 1 if report.failed else None


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of every row that says no others; an option that is repeated is a list."""
    from tinyldm.pipelines.files import FROM_FILES

    given: dict[str, list[str]] = {name: getattr(args, name) for name in ("seed", *SETTINGS)}
    for text in args.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set wants COLUMN=VALUE, such as guidance_rescale=0.7, not {text!r}")
        given.setdefault(name, []).append(value)
    for name in FROM_FILES:  # a row's is looked for beside the file of rows
        given[name] = [str(Path(file).absolute()) for file in given.get(name, [])]
    return usual_settings() | {name: values for name, values in given.items() if values}


def note_prompts(model: LatentDiffusion, jobs: Sequence[Job]) -> None:
    """Say of all prompts what is not read in them, and which words the checkpoint does not know."""
    from tinyldm.pipelines.prompted import words
    from tinyldm.pipelines.request import request

    by_syntax: dict[str, dict[str, None]] = {}
    for job in jobs:
        by_syntax.setdefault(job.settings.get("prompt_syntax", "plain"), {})[job.settings.get("prompt", "")] = None
    with contextlib.suppress(TinyldmError):  # what is wrong with a prompt is said of its row
        for syntax, prompts in by_syntax.items():
            note_unread(list(prompts), syntax)
            wanted = request(list(prompts), prompt_syntax=syntax, **model.defaults._asdict())
            note_unknown(model, words(model.parts, wanted))


def usual_settings() -> dict[str, Any]:
    """What `tinyldm sample` takes where nothing is said, so that its pictures are those of a batch."""
    from tinyldm.batches.columns import columns

    p = argparse.ArgumentParser()
    sampling.add_options(p)
    usual = vars(p.parse_args([]))
    given = {name: value for name, value in usual.items() if name in columns() and value not in (None, [], "", 0)}
    return {"prompt_syntax": "webui", **given}


class Shown:
    """What a run shows: a bar over all pictures with the time left, and a line for each that failed."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.previews = Previews(args)
        self.bar: Any = None
        self.finished = 0.0

    def began(self, report: Report) -> None:
        """The rows are checked, and work begins."""
        from tqdm import tqdm

        there = f", of which {report.skipped} are there" if report.skipped else ""
        print(f"{report.folder}: {report.total} pictures{there}", file=sys.stderr)
        shape = "{l_bar}{bar:24}| {n:.1f}/{total} pictures, {rate_inv_fmt}, {remaining} left"
        self.finished = report.skipped
        self.bar = tqdm(
            total=report.total, initial=report.skipped, desc="batch", unit="picture", bar_format=shape, smoothing=0.05
        )

    def step(self, step: Step, jobs: Sequence[Job]) -> None:
        """A step of pictures that are walked together: so much of them is done."""
        interrupts.check()
        self.previews.see(step, lambda k: self.folder / jobs[k - step.pictures.start].name)
        self.to(self.finished + len(step.pictures) * 0.95 * (step.index + 1) / step.count)

    def made(self, report: Report, made: Made) -> None:
        """A picture is finished, or has failed."""
        if made.error:
            self.bar.clear()
            note(f"row {made.job.row}, {made.job.name}: failed: {made.error}")
        self.finished = report.skipped + report.made + len(report.failed)
        self.args.written[:] = [f"{report.skipped + report.made} pictures in {report.folder}"]
        self.to(self.finished)

    def to(self, done: float) -> None:
        """Move the bar."""
        self.bar.update(max(0.0, done - self.bar.n))

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
