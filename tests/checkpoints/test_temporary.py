"""What a run leaves behind when it is ended, killed, or out of disk: nothing, or what the next one removes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_commands import convert
from tiny_checkpoints import write_sd

from tinyldm.checkpoints.temporary import held, remove_stale
from tinyldm.errors import CheckpointError, InputError

ROOT = Path(__file__).parents[2]
# A convert that stops in the middle, says so, and waits.
STOPS = """
import sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from checkpoint_commands import convert
from tinyldm.checkpoints.safetensors import SafetensorsWriter
write, count = SafetensorsWriter.write, iter(range(1000))
def stopped(self, name, array):
    if next(count) == 20:
        print("half", flush=True)
        time.sleep(60)
    write(self, name, array)
SafetensorsWriter.write = stopped
convert(sys.argv[1], sys.argv[2])
"""


def half_written(source: Path, destination: Path) -> subprocess.Popen[str]:
    code = STOPS.format(root=str(ROOT), tests=str(ROOT / "tests"))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(source), str(destination)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="signals and locks of Unix")
@pytest.mark.parametrize("name", ["out.safetensors", "out"])
def test_a_run_that_is_ended_or_killed(tmp_path: Path, name: str) -> None:
    source, place = write_sd(tmp_path / "sd"), tmp_path / "place"
    place.mkdir()
    with half_written(source, place / name) as process:
        assert len(list(place.iterdir())) == 1
        assert remove_stale(place) == []  # it is being written
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    assert list(place.iterdir()) == []
    with half_written(source, place / name) as process:
        process.kill()
    assert [path.name for path in place.iterdir()] != []
    found = convert(source, place / name)
    assert any("which a run that was killed left" in note for note in found.notes)
    assert [path.name for path in place.iterdir()] == [name]


def test_only_what_is_stale_is_removed(tmp_path: Path) -> None:
    keep = [".picture.png.01234567.tmp", "a.safetensors.01234567.tmp", ".a.safetensors.0123.tmp", "x.tmp"]
    for name in keep:
        (tmp_path / name).write_text("x")
    (tmp_path / ".a.safetensors.01234567.tmp").write_text("x")
    (tmp_path / ".folder.89abcdef.tmp").mkdir()
    with held(tmp_path / ".folder.89abcdef.tmp"):
        assert remove_stale(tmp_path) == [".a.safetensors.01234567.tmp"]
    assert remove_stale(tmp_path) == [".folder.89abcdef.tmp"]
    assert sorted(os.listdir(tmp_path)) == sorted(keep)
    assert remove_stale(tmp_path / "nowhere") == []


def test_a_full_disk_is_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_sd(tmp_path / "sd")

    def full(*names: object, **options: object) -> None:
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(CheckpointError, match=r"out: cannot be written: .*No space left on device"):
        convert(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sd"]


def test_a_suffix_that_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out\.bin: a file is written as \.safetensors"):
        convert(tmp_path / "in", tmp_path / "out.bin")
