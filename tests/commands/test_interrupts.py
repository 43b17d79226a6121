"""Ctrl-C at any moment: one line, status 130, and what is finished is kept."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tinyldm import cli, descriptions
from tinyldm.commands import batch, interrupts, sampling
from tinyldm.errors import Stopped
from tinyldm.pipelines import picture_text
from tinyldm.pipelines.walk import Step

ROOT = Path(cli.__file__).parents[1]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

# A process that gets the signal when it begins to import a module; in an `eval`, after which Python would end with the
# signal in the place of a status.
AT_IMPORT = """
import runpy, signal, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(Finder)
            eval("signal.raise_signal(signal.{signal})")
sys.meta_path.insert(0, Finder)
sys.argv = ["tinyldm", "sample", "red apple", "--steps", "1", "-o", {output!r}]
runpy.run_module("tinyldm", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["argparse", "tinyldm.commands.sample", "numpy.linalg", "numba.core.types"])
def test_while_importing(tmp_path: Path, module: str) -> None:
    code = AT_IMPORT.format(module=module, signal="SIGINT", output=str(tmp_path / "a.png"))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "tinyldm: interrupted; nothing was written"
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_termination_cleans_up(tmp_path: Path) -> None:
    code = AT_IMPORT.format(module="numpy.linalg", signal="SIGTERM", output=str(tmp_path / "a.png"))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 143, done.stderr
    assert done.stderr == "\ntinyldm: terminated; nothing was written\n"


class Lost:
    """In whose finaliser an interrupt arrives, which Python can't let out."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_lost_in_a_finaliser(run, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    def work(model: object) -> str:
        del model
        Lost()
        time.sleep(30)
        return "finished"

    monkeypatch.setattr(descriptions, "describe", work)
    started = time.monotonic()
    status, out, err = run("info")
    assert time.monotonic() - started < 20
    assert (status, out) == (130, "")
    assert err.endswith("\ntinyldm: interrupted; nothing was written\n")
    assert "Traceback" not in err


def test_swallowed_by_a_library(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As C code does that clears what was raised, or raises an error of its own in its place."""

    def swallow(model: object) -> str:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            return "finished"
        return "not interrupted"

    def replace(model: object) -> str:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy._core.multiarray failed to import") from None
        return "not interrupted"

    for work in (swallow, replace):
        monkeypatch.setattr(descriptions, "describe", work)
        status, _, err = run("info")
        assert status == 130
        assert err.endswith("tinyldm: interrupted; nothing was written\n")


def test_an_impatient_second_one_leaves_the_cleaning_alone() -> None:
    cleaned, before = False, signal.getsignal(signal.SIGINT)
    with interrupts.watched():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)
            cleaned = True
    assert cleaned
    assert signal.getsignal(signal.SIGINT) is before


def test_one_that_is_sent_again_late_does_not_disturb_the_last_line(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It arrives while the interrupted run says what it has kept."""
    said = cli.interrupted

    def late(args: argparse.Namespace) -> int:
        interrupts._State.when = -interrupts.DEAF  # as where a signal is sent again
        signal.raise_signal(signal.SIGTERM)
        return said(args)

    monkeypatch.setattr(cli, "interrupted", late)
    monkeypatch.setattr(sampling, "watch", lambda _: signal.raise_signal(signal.SIGTERM))
    status, _, err = run("sample", "a", "--steps", "2", "-o", "a.png")
    assert (status, err.splitlines()[-1]) == (143, "tinyldm: terminated; nothing was written")


def test_finished_pictures_are_kept(run, monkeypatch: pytest.MonkeyPatch) -> None:
    write, count = picture_text.write_picture, []

    def write_two(*args: object) -> None:
        count.append(1)
        if len(count) == 3:
            signal.raise_signal(signal.SIGINT)
        write(*args)

    monkeypatch.setattr(picture_text, "write_picture", write_two)
    status, _, err = run("sample", "x", "-n", "4", "-o", "a.png", "--steps", "1", "--seed", "1")
    assert status == 130
    assert err.endswith("tinyldm: interrupted; kept a-0001.png, a-0002.png\n")
    assert sorted(os.listdir()) == ["a-0001.png", "a-0002.png"]


def test_finished_pictures_of_a_grid_are_kept(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt_third(step: Step) -> None:
        if step.pictures.start == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sampling, "watch", interrupt_third)
    words = ("-n", "4", "--grid", "2", "-o", "a.png", "--steps", "1", "--seed", "1")
    status, _, err = run("sample", "x", *words)
    assert (status, err.splitlines()[-1]) == (130, "tinyldm: interrupted; kept a.png")
    with Image.open("a.png") as picture:
        assert picture.size == (32, 16)


def test_finished_pictures_of_a_batch_are_kept_and_it_goes_on(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt_third(self: batch.Shown, step: Step, jobs: object) -> None:
        if step.pictures.start == 2:
            signal.raise_signal(signal.SIGINT)

    Path("rows.txt").write_text("a\nb\nc\nd\n")
    with monkeypatch.context() as patch:
        patch.setattr(batch.Shown, "step", interrupt_third)
        status, _, err = run("batch", "rows.txt", "--steps", "1")
    assert (status, err.splitlines()[-1]) == (130, "tinyldm: interrupted; kept 2 pictures in rows")
    assert run("batch", "rows.txt", "--steps", "1")[1].startswith("rows: 2 pictures made, 2 were there")


def test_a_callback_that_stops_the_run(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(step: Step) -> None:
        raise Stopped

    monkeypatch.setattr(sampling, "watch", stop)
    assert run("sample", "x", "-o", "a.png", "--steps", "2")[0] == 130


def test_a_run_after_an_interrupted_one(run) -> None:
    with interrupts.watched(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert run("info")[0] == 0
