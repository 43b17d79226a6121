"""A batch from its rows to its pictures: planned and checked whole, begun where it was left, reported row by row."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tinyldm.batches.making import (
    AfterStep,
    Made,
    asked_of,
    chunks,
    files_of,
    in_words,
    make,
    request_of,
    shared_by,
    with_memory,
)
from tinyldm.batches.manifest import Manifest
from tinyldm.batches.names import named
from tinyldm.batches.rows import Job, jobs_of, read_rows
from tinyldm.errors import InputError, TinyldmError
from tinyldm.memory import check_memory
from tinyldm.pipelines.identity import digest_of
from tinyldm.pipelines.load import load
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.pipelines.picture_text import read_said
from tinyldm.pipelines.request import as_texts

Engine = Callable[[Sequence[Job]], Iterable[Iterable[Made]]]  # makes jobs; what was walked together comes together


@dataclass
class Report:
    """What has become of the pictures of a batch: how many there are, were there before, and were made; which failed.

    `failed` has the errors by the files that are missing. It grows while the batch is at work.
    """

    folder: Path
    total: int = 0
    skipped: int = 0
    made: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class How:
    """How a batch is made, which changes nothing in its pictures.

    `batch_size` pictures are walked together at most, by default as many as pay. `callback` sees each step with its
    jobs, and may end the run by `Stopped`; `began` is called with the report when all is checked and work begins,
    `watch` with it and each picture or failure. `overwrite` replaces pictures that were made with other settings;
    `force` begins with too little memory. `loaded` are the options of the model that its pictures' files tell
    (`files.OPENED_WITH`).
    """

    batch_size: int | None = None
    callback: AfterStep | None = None
    began: Callable[[Report], object] = lambda report: None
    watch: Callable[[Report, Made], object] = lambda report, made: None
    overwrite: bool = False
    force: bool = False
    loaded: Mapping[str, Any] = field(default_factory=dict)


def batch(
    rows: str | Path | Iterable[Mapping[str, Any]],
    output: str | Path,
    *,
    model: LatentDiffusion | None = None,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    how: How | None = None,
) -> Report:
    """Make the pictures of many rows, each a file of its own in the folder `output`; go on where an earlier run ended.

    `rows` is a file (text with a prompt a line, CSV, JSON lines) or mappings: a column is any setting of a picture
    (`prompt`, `seed`, `steps`, …), and lists multiply out. `settings` are for what rows leave open, `name` is the
    template of the files (`names.named`). Each picture is that of a call with its settings alone, bit for bit.

    `manifest.jsonl` in the folder says what was made from what. A run that was stopped, at whatever moment, is taken up
    by the same call: what is there is not made again. A row that fails is in the report, and the rest goes on.

    Raises `InputError` before any work for what is wrong with the file, the names, or the folder, and where no row can
    be honoured.
    """
    how, model = how or How(), model or load()
    jobs = planned(model, rows, settings or {}, name)
    return run(model, jobs, Path(output), how, begun_here(model, how))


def planned(
    model: LatentDiffusion,
    rows: str | Path | Iterable[Mapping[str, Any]],
    settings: Mapping[str, Any],
    name: str | None,
) -> list[Job]:
    """The pictures that are asked for, with the names of their files and what they are made from."""
    if isinstance(rows, (str, Path)):
        jobs = jobs_of(read_rows(rows), settings, Path(rows).parent)
    else:
        jobs = jobs_of(((f"row {k}", row) for k, row in enumerate(rows, 1)), settings, Path())
    return keyed(model, named(jobs, name, model.defaults._asdict()))


def keyed(model: LatentDiffusion, jobs: Sequence[Job]) -> list[Job]:
    """The jobs with a key of what each is made from: its settings, the bytes of its pictures, and the model."""

    @functools.cache
    def content(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    of_model = fingerprint(model)
    done = []
    for job in jobs:
        from_what = {**job.settings, **{name: content(path) for name, path in files_of(job).items()}}
        text = json.dumps([of_model, from_what], sort_keys=True)
        done.append(replace(job, key=hashlib.sha256(text.encode()).hexdigest()[:16]))
    return done


def identity(model: LatentDiffusion) -> dict[str, Any]:
    """What pictures depend on besides their settings, as JSON has it: weights, what is put on top, the arithmetic."""
    runtime, parts = model.runtime, model.parts
    return {
        "networks": {name: digest_of(network.weights) for name, network in parts.networks.items()},
        "loras": [[Path(lora.path).name, lora.strength.value] for lora in parts.loras],
        "controls": [[hashlib.sha256(control.hint.tobytes()).hexdigest(), control.scale] for control in parts.controls],
        "schedule": dict(parts.scheduler_config),
        "runtime": [runtime.backend, str(runtime.dtype), runtime.precision],
    }


def fingerprint(model: LatentDiffusion) -> str:
    """`identity` in 16 digits."""
    return hashlib.sha256(json.dumps(identity(model), sort_keys=True).encode()).hexdigest()[:16]


def begun_here(model: LatentDiffusion, how: How) -> Engine:
    """The engine of this machine."""
    remembers = with_memory(model)
    return lambda jobs: (make(remembers, chunk, how.batch_size, how.callback, how.loaded) for chunk in chunks(jobs))


def run(model: LatentDiffusion, jobs: Sequence[Job], folder: Path, how: How, engine: Engine) -> Report:
    """Make the jobs that are not there yet, and write each with its line in the manifest.

    A picture is written while the next are computed, and on the disk before the next group is begun.
    """
    check_folders(folder, jobs)
    with Manifest(folder) as manifest, ThreadPoolExecutor(1) as writer:
        manifest.clear(job.name for job in jobs)
        missing = [job for job in jobs if not is_there(model, manifest, job, how)]
        report = Report(folder, len(jobs), len(jobs) - len(missing))
        refused = {} if not missing else refusals(model, missing, how.force)
        if refused and len(refused) == len(missing):
            raise InputError(next(iter(refused.values())))
        how.began(report)
        errors = [Made(job, error=refused[job.index]) for job in missing if job.index in refused]
        for part in itertools.chain([errors], engine([job for job in missing if job.index not in refused])):
            writing = []
            for made in part:
                writing.append(writer.submit(keep, manifest, made))
                if made.error:
                    report.failed[made.job.name] = made.error
                report.made += not made.error
                how.watch(report, made)
            for written in writing:
                written.result()
            manifest.settle()
    return report


def keep(manifest: Manifest, made: Made) -> None:
    """Write a picture and its line in the manifest, or the line of what failed."""
    said: dict[str, Any] = {"row": made.job.row, "file": made.job.name}
    if made.error:
        given = {name: str(v) if isinstance(v, Path) else v for name, v in made.job.settings.items()}
        manifest.add(said | {"error": made.error, "settings": given, "key": made.job.key})
        return
    if made.png:
        manifest.write(made.job.name, made.png)
    else:
        manifest.wait_for(made.job.name)
    said |= {"bytes": made.size, "sha256": made.digest, "seconds": round(made.seconds, 3)}
    manifest.add(said | {"settings": made.said, "key": made.job.key})


def is_there(model: LatentDiffusion, manifest: Manifest, job: Job, how: How) -> bool:
    """Whether the picture of a job is there already. Raises `InputError` for one that is there of other settings.

    One without a line, whose run was ended between the two, is known by its own settings, and gets its line.
    """
    if manifest.has(job.name, job.key):
        return True
    path, known = manifest.folder / job.name, manifest.known.get(job.name)
    if how.overwrite or not path.exists() or (known is not None and known.key == job.key):
        return False
    if known is None or known.size < 0:
        try:
            wanted, beside = asked_of(model, [job], how.loaded)
            said = as_texts(wanted.settings(0) | beside)
            if read_said(path).settings == said:
                keep(manifest, replace(Made.of(job, path.read_bytes(), said), png=b""))
                return True
        except (TinyldmError, OSError):
            pass
    raise InputError(f"{path}: is there, and was made with other settings; take another folder, or --overwrite")


def refusals(model: LatentDiffusion, jobs: Sequence[Job], force: bool) -> dict[int, str]:
    """What is wrong with the settings of jobs, by their index, so far as that shows before any work.

    Settings that several share are looked at once, and pictures are not read.
    """
    sound: set[str] = set()
    wrong = {}
    for job in jobs:
        shared = shared_by(job)
        if files_of(job) or shared in sound:
            continue
        if error := refusal(model, job, force):
            wrong[job.index] = error
        else:
            sound.add(shared)
    return wrong


def refusal(model: LatentDiffusion, job: Job, force: bool) -> str:
    """What is wrong with the settings of a job; empty where nothing is."""
    try:
        wanted = request_of(model.parts, [job]).resolved(model.parts)
        if not force:
            h, w = model.parts.latent_size(wanted.height, wanted.width)
            check_memory(model, h, w, f"row {job.row}: {wanted.width}×{wanted.height}")
    except TinyldmError as error:
        return in_words(error)
    return ""


def check_folders(folder: Path, jobs: Sequence[Job]) -> None:
    """Raise `InputError` where a folder of the files would lie outside of the batch's, behind a link."""
    root = folder.resolve()
    for parent in {Path(job.name).parent for job in jobs}:
        if not (root / parent).resolve().is_relative_to(root):
            raise InputError(f"{folder / parent}: leads out of the folder of the batch")
