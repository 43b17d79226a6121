"""A batch on a cluster: the bytes of one machine, a worker killed on the way, and what a worker refuses."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import tinyldm
from tinyldm.batches import cluster
from tinyldm.batches.cluster import Task, absolute, work
from tinyldm.batches.manifest import FILE
from tinyldm.batches.run import fingerprint, planned
from tinyldm.errors import InputError

ROOT = Path(tinyldm.__file__).parents[1]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


# What a worker does, without a cluster -------------------------------------------------------------------------------


@pytest.fixture
def model(checkpoint: Path) -> tinyldm.LatentDiffusion:
    return tinyldm.load(checkpoint, backend="reference")


@pytest.fixture
def task(model: tinyldm.LatentDiffusion, tmp_path: Path) -> Task:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    rows = [{"prompt": "a", "seed": [1, 2], "image": str(tmp_path / "red.png")}]
    jobs = planned(model, rows, {"steps": 4}, None)
    opening = pickle.dumps({"path": model.path, "backend": "reference"})
    return cluster.task_of(Task((), opening, fingerprint(model), {}), jobs)


def test_pictures_to_begin_from_travel_with_the_rows(task: Task, tmp_path: Path) -> None:
    sent = pickle.dumps(task)
    (tmp_path / "red.png").unlink()  # another machine has no such file
    first, second = work(pickle.loads(sent))
    assert not first.error
    assert first.said["image"] == "red.png"
    assert len(first.png) == first.size
    assert first.png != second.png


def test_into_a_folder_that_all_see(task: Task, tmp_path: Path) -> None:
    done = work(cluster.replace(task, folder=tmp_path / "out"))
    assert [made.png for made in done] == [b"", b""]
    assert [len(content) for content in files(tmp_path / "out").values()] == [made.size for made in done]


def test_a_worker_opens_its_model_once(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    count: list[int] = []
    cluster.opened.cache_clear()
    monkeypatch.setattr(cluster, "load", lambda **more: count.append(1) or tinyldm.load(**more))
    work(task)
    work(task)
    assert count == [1]


def test_a_worker_with_another_version_or_other_weights_refuses(task: Task) -> None:
    with pytest.raises(InputError, match=r"has tinyldm .*, and the batch is made by 0\.0\.0"):
        work(cluster.replace(task, version="0.0.0"))
    with pytest.raises(InputError, match="has other weights there"):
        work(cluster.replace(task, weights="0" * 16))
    with pytest.raises(tinyldm.CheckpointError):
        work(cluster.replace(task, opening=pickle.dumps({"path": "nowhere"})))


def test_a_row_that_fails_on_a_worker_is_that_row_alone(task: Task) -> None:
    (path,) = task.files
    (made, other) = work(cluster.replace(task, files={path: b"no picture"}))
    assert "not a picture" in made.error
    assert "not a picture" in other.error


def test_arguments_mean_the_same_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").touch()
    given = {"path": "here", "vae": "owner/name", "loras": [("here", 0.5)], "words": ["here"], "backend": "here"}
    here = str(tmp_path / "here")
    wanted = {"path": here, "vae": "owner/name", "loras": [(here, 0.5)], "words": [here], "backend": "here"}
    assert absolute(given) == wanted


@pytest.mark.parametrize("address", ["local:0", "local:", "local:many"])
def test_an_address_that_is_none(run, address: str) -> None:
    pytest.importorskip("distributed", reason="needs the extra `cluster`")
    Path("rows.txt").write_text("a\n")
    status, _, err = run("batch", "rows.txt", "--cluster", address)
    assert (status, "--cluster local:N wants a number of workers" in err) == (2, True)


def test_without_the_extra_the_command_says_what_brings_it(run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("rows.txt").write_text("a\n")
    monkeypatch.setitem(sys.modules, "distributed", None)
    status, _, err = run("batch", "rows.txt", "--cluster", "local:2")
    assert status == 2
    assert 'pip install "tinyldm[cluster]"' in err.splitlines()[-1]
    assert os.listdir() == ["rows.txt"]


@pytest.mark.parametrize("words", [("--shared",), ("--cluster", "local:1", "--preview", "2")])
def test_options_that_do_not_go_together(run, words: tuple[str, ...]) -> None:
    Path("rows.txt").write_text("a\n")
    assert run("batch", "rows.txt", *words)[0] == 2


# A scheduler and workers as processes --------------------------------------------------------------------------------


class Cluster:
    """A scheduler on the loopback address, and workers, each a process."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("distributed", reason="needs the extra `cluster`")
        self.file, self.processes = folder / "scheduler.json", list[subprocess.Popen]()
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "TINYLDM_THREADS": "1"}
        self.started("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        end = time.monotonic() + 60
        while not self.file.exists() and time.monotonic() < end:
            time.sleep(0.05)
        self.address = json.loads(self.file.read_text())["address"]
        self.workers = [self.worker() for _ in range(2)]

    def started(self, kind: str, *words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "distributed.cli.dask_" + kind, "--scheduler-file", str(self.file), *words]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, env=self.environment, cwd=self.file.parent, **quiet)
        self.processes.append(process)
        return process

    def worker(self) -> subprocess.Popen:
        return self.started("worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--no-dashboard")

    def end(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    yield found
    found.end()


@pytest.mark.extra
def test_the_bytes_are_those_of_one_machine(run, processes: Cluster) -> None:
    Image.effect_noise((16, 16), 50).convert("RGB").save("noise.png")
    Path("rows.csv").write_text("prompt,image,width\na,,\nb,noise.png,\nc,,15\nd,,20\n")
    words = ("batch", "rows.csv", "--seeds", "0:3", "--steps", "3")
    status, out, _ = run(*words, "-o", "here")
    assert (status, out.startswith("here: 9 pictures made, 3 failed")) == (1, True)
    for more in ((), ("--shared",)):
        folder = Path("there" + "".join(more))
        status, out, err = run(*words, "-o", str(folder), "--cluster", processes.address, *more)
        assert (status, out.startswith(f"{folder}: 9 pictures made, 3 failed")) == (1, True), err
        assert files(folder) == files(Path("here"))
        assert len((folder / FILE).read_text().splitlines()) == 12


@pytest.mark.extra
def test_rows_of_a_killed_worker_are_done_again(run, processes: Cluster, checkpoint: Path) -> None:
    """It is killed while it works, after the first pictures have come; every picture is there, once."""
    from tinyldm.batches.manifest import Manifest

    add, victim, added = Manifest.add, processes.workers[0], []

    def kill_one(self, said) -> None:
        add(self, said)
        added.append(said)
        if len(added) == 3:
            victim.kill()

    Path("rows.txt").write_text("a\nb\nc\n")
    words = ("batch", "rows.txt", "--seeds", "0:8", "--steps", "10")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "add", kill_one)
        status, out, err = run(*words, "-o", "there", "--cluster", processes.address)
    assert victim.wait() != 0
    processes.workers[0] = processes.worker()  # for the other tests
    assert (status, out.startswith("there: 24 pictures made")) == (0, True), err
    lines = [json.loads(line)["file"] for line in Path("there", FILE).read_text().splitlines()]
    assert len(set(lines)) == len(lines) == 24
    model = tinyldm.load(checkpoint, backend="reference")
    tinyldm.batch("rows.txt", "here", model=model, settings={"seed": "0:8", "steps": 10, "prompt_syntax": "webui"})
    assert files(Path("there")) == files(Path("here"))


@pytest.mark.extra
def test_workers_started_here(run) -> None:
    pytest.importorskip("distributed", reason="needs the extra `cluster`")
    Path("rows.txt").write_text("a\nb\n")
    words = ("batch", "rows.txt", "--seeds", "0:4", "--steps", "2")
    status, out, err = run(*words, "-o", "there", "--cluster", "local:2")
    assert (status, out.startswith("there: 8 pictures made")) == (0, True), err
    assert run(*words, "-o", "there", "--cluster", "local:1")[1].startswith("there: 0 pictures made, 8 were there")
    assert run(*words, "-o", "here")[0] == 0
    assert files(Path("there")) == files(Path("here"))


@pytest.mark.extra
def test_no_scheduler_there(run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="needs the extra `cluster`")
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    Path("rows.txt").write_text("a\n")
    for address in ("tcp://127.0.0.1:9", "nonsense", "tcp://"):
        status, _, err = run("batch", "rows.txt", "--cluster", address)
        assert status == 2
        assert f"--cluster {address}: no scheduler answers there" in err.splitlines()[-1]
        assert "Traceback" not in err
    assert not Path("rows").exists()


@pytest.mark.extra
def test_what_becomes_of_a_task() -> None:
    scheduler = pytest.importorskip("distributed.scheduler", reason="needs the extra `cluster`")

    class Future:
        status = "error"

        def __init__(self, error: Exception | None) -> None:
            self.error = error
            self.status = "cancelled" if error is None else "error"

        def exception(self) -> Exception | None:
            return self.error

    task = Task(planned(tinyldm.load(), [{"prompt": "a", "seed": [1, 2]}], {}, None), b"", "", {})
    made = cluster.result_of(Future(scheduler.KilledWorker("key", None, 3)), task)
    assert [one.error for one in made] == ["the workers that had it died, 4 in all: too little memory, perhaps"] * 2
    for error, message in (
        (InputError("has other weights"), "a worker: has other weights"),
        (ModuleNotFoundError("No module named 'tinyldm'"), "a worker has not this version of tinyldm"),
        (None, "the cluster is gone; what was made is kept"),
        (OSError("closed"), "a worker: OSError: closed"),
    ):
        with pytest.raises(InputError, match=message):
            cluster.result_of(Future(error), task)
