"""A batch on many machines: groups of rows as tasks of a Dask cluster, which any worker does by itself.

What travels is rows (and the files of pictures to begin from) in one direction and finished pictures in the other. Each
worker opens the checkpoint where it is, once, and says so where its weights are others than here. The scheduler is
given a bounded number of tasks at a time. It gives those of a worker that dies to another; a task that has taken
several workers with it (out of memory, say) is given up, and its rows have failed.

Needs the package `distributed` (`pip install "tinyldm[cluster]"`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tinyldm.batches.making import TOGETHER, Made, chunks, files_of, make, with_memory
from tinyldm.batches.rows import Job
from tinyldm.batches.run import Engine, How, fingerprint
from tinyldm.checkpoints.temporary import handled
from tinyldm.errors import InputError, TinyldmError
from tinyldm.pipelines.load import load
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.pipelines.pictures import write_whole
from tinyldm.version import __version__

WINDOW = 3  # tasks for each thread of the workers that are given out at a time: one under way, two that wait
LOOKED = 2.0  # seconds after which the workers are counted again
PATIENCE = 30.0  # seconds that a scheduler has to answer
ROUNDS = 4  # tasks for each worker, where there are few rows: the last ones end at about the same time


@dataclass(frozen=True)
class Task:
    """What a worker is told: the jobs, which have all in common but prompt and seed, and how to open the model.

    `opening` is pickled arguments of `load`, `weights` what the model is known by (`run.fingerprint`), `files` the
    bytes of the jobs' pictures by their paths. In a `folder` that all machines see it writes the pictures itself.
    """

    jobs: Sequence[Job]
    opening: bytes
    weights: str
    files: Mapping[Path, bytes]
    batch_size: int | None = None
    folder: Path | None = None
    loaded: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__


_one_at_a_time = threading.Lock()  # of the tasks of a worker with several threads: they share a model


@functools.lru_cache(maxsize=1)
def opened(opening: bytes) -> tuple[LatentDiffusion, str]:
    """The model of a worker, and what it is known by."""
    model = load(**pickle.loads(opening))
    return with_memory(model), fingerprint(model)


def work(task: Task) -> list[Made]:
    """What a worker does: the pictures of a task, or the errors of rows that fail.

    Raises `InputError` where it can't do what the batch wants: another version, other weights, a folder that it does
    not have.
    """
    if task.version != __version__:
        raise InputError(f"has tinyldm {__version__}, and the batch is made by {task.version}")
    with _one_at_a_time, tempfile.TemporaryDirectory() as scratch:
        model, weights = opened(task.opening)
        if weights != task.weights:
            raise InputError(f"{model.path}: has other weights there than where the batch was begun")
        jobs = with_files(task, Path(scratch))
        return [delivered(made, task.folder) for made in make(model, jobs, task.batch_size, loaded=task.loaded)]


def with_files(task: Task, folder: Path) -> list[Job]:
    """The jobs of a task, with the files of their pictures in a folder of this machine."""
    places = {}
    for number, (path, content) in enumerate(task.files.items()):
        places[path] = folder / str(number) / path.name
        places[path].parent.mkdir()
        places[path].write_bytes(content)
    return [
        replace(job, settings={**job.settings, **{name: places[path] for name, path in files_of(job).items()}})
        for job in task.jobs
    ]


def delivered(made: Made, folder: Path | None) -> Made:
    """A picture as it travels: with its bytes, or written where all machines see it."""
    if folder is None or not made.png:
        return made
    path = folder / made.job.name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(made.png))
    return replace(made, png=b"")


@contextlib.contextmanager
def on_cluster(
    address: str, model: LatentDiffusion, opening: Mapping[str, Any], how: How, folder: Path | None = None
) -> Iterator[Engine]:
    """The engine of a cluster, for the length of a block: `tcp://…` of its scheduler, or `local:N` for N workers here.

    `opening` is what `load` opened the model with. Raises `InputError` where the cluster can't be reached.
    """
    with connected(address, opening.get("threads")) as (client, threads):
        there = absolute(opening) | ({"threads": threads} if threads else {})
        place = folder and folder.absolute()
        told = Task((), pickle.dumps(there), fingerprint(model), {}, how.batch_size, place, how.loaded)
        yield functools.partial(given_out, client, told)


def absolute(opening: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `load` that mean the same in another folder."""

    def placed(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(placed(item) for item in value)
        return str(Path(value).absolute()) if isinstance(value, (str, Path)) and Path(value).exists() else value

    files = ("path", "vae", "text_encoder", "loras", "words", "controlnet")
    return {name: placed(value) if name in files else value for name, value in opening.items()}


@contextlib.contextmanager
def connected(address: str, threads: int | None) -> Iterator[tuple[Any, int | None]]:
    """A client of the cluster, and the threads that each of the workers started here is to compute with."""
    try:
        import distributed
    except ImportError:
        raise InputError('--cluster needs the package `distributed`: pip install "tinyldm[cluster]"') from None
    kind, _, number = address.partition(":")
    with contextlib.ExitStack() as stack:
        if kind == "local":
            if not number.isascii() or not number.isdigit() or not int(number):
                raise InputError(f"--cluster local:N wants a number of workers, such as local:2, not {address!r}")
            processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            threads = threads or max(1, processors // int(number))
            address = stack.enter_context(started_here(distributed, int(number)))
        try:
            client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"--cluster {address}: no scheduler answers there: {why}") from None
        yield stack.enter_context(client), threads if kind == "local" else None


@contextlib.contextmanager
def started_here(distributed: Any, workers: int) -> Iterator[Any]:
    """A scheduler and workers on this machine, as processes, for the length of a block."""
    options = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "memory_limit": None}
    alone = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}  # its answers about health: at any free port
    quiet = {"dashboard_address": None, "scheduler_kwargs": alone, "silence_logs": logging.CRITICAL}
    with handled(signal.SIGINT, signal.SIG_IGN):  # which a terminal sends to the processes, too
        cluster = distributed.LocalCluster(host="127.0.0.1", **options, **quiet)
    with cluster:
        yield cluster


def given_out(client: Any, told: Task, jobs: Sequence[Job]) -> Iterator[list[Made]]:
    """The engine: tasks are given out in a bounded window, and what is made of each comes as it is done."""
    from distributed import as_completed

    threads = counted(client)
    most = max(1, min(TOGETHER, len(jobs) // (ROUNDS * threads())))
    waiting = (task_of(told, chunk) for chunk in chunks(jobs, most))
    running = as_completed(loop=client.loop, raise_errors=False)
    under_way: dict[str, Task] = {}
    batch = uuid.uuid4().hex[:8]

    def give_out() -> None:
        while len(under_way) < WINDOW * threads() and (task := next(waiting, None)) is not None:
            key = f"tinyldm-{batch}-{task.jobs[0].index}"
            under_way[key] = task
            running.add(client.submit(work, task, key=key, pure=False))

    give_out()
    while under_way:
        future = next(running)
        yield result_of(future, under_way.pop(future.key))
        future.release()
        give_out()


def task_of(told: Task, jobs: Sequence[Job]) -> Task:
    """The task of some jobs, with the pictures that they begin from."""
    paths = {path for job in jobs for path in files_of(job).values()}
    return replace(told, jobs=jobs, files={path: path.read_bytes() for path in sorted(paths)})


def counted(client: Any) -> Callable[[], int]:
    """What tells how many threads the workers have, at least one: asked every few seconds, as workers come and go."""
    known, when = 0, -LOOKED

    def threads() -> int:
        nonlocal known, when
        if time.monotonic() - when > LOOKED:
            known, when = sum(client.nthreads().values()), time.monotonic()
        return max(1, known)

    return threads


def result_of(future: Any, task: Task) -> list[Made]:
    """What a task has come to, under the jobs as they are known here.

    Raises `InputError` where the cluster is gone, or a worker can't do what the batch wants.
    """
    from distributed.scheduler import KilledWorker

    if future.status == "finished":
        jobs = {job.index: job for job in task.jobs}
        return [replace(made, job=jobs[made.job.index]) for made in future.result()]
    error = future.exception() if future.status == "error" else None
    if isinstance(error, KilledWorker):
        died = f"the workers that had it died, {error.allowed_failures + 1} in all: too little memory, perhaps"
        return [Made(job, error=died) for job in task.jobs]
    if isinstance(error, TinyldmError):
        raise InputError(f"--cluster: a worker: {error}")
    if isinstance(error, (ImportError, AttributeError)):
        raise InputError(f"--cluster: a worker has not this version of tinyldm: {error}")
    if error is not None:
        raise InputError(f"--cluster: a worker: {type(error).__name__}: {error}")
    raise InputError("--cluster: the cluster is gone; what was made is kept, and the same command goes on")
