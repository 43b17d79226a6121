"""What can't be written to a standard stream never costs a picture: closed, full, or read by none."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from tinyldm import cli
from tinyldm.commands.streams import Patient

ROOT = Path(cli.__file__).parents[1]
linux = pytest.mark.skipif(sys.platform != "linux", reason="wants /dev/full")


def shell(command: str, checkpoint: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of shell, in which `$T` is the command and `$S` one that samples."""
    sample = f"{sys.executable} -m tinyldm sample x --model {checkpoint} --backend reference --steps 1 --seed 1"
    line = command.replace("$S", f"{sample} -o {folder}/a.png").replace("$T", f"{sys.executable} -m tinyldm")
    return subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)


@linux
@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        (">/dev/full", 2, "tinyldm: error: standard output can't be written: No space left on device"),
        (">&- 2>&- <&-", 0, ""),
    ],
)
def test_the_picture_is_kept(checkpoint: Path, tmp_path: Path, redirection: str, status: int, said: str) -> None:
    done = shell(f"$S {redirection}", checkpoint, tmp_path)
    assert done.returncode == status, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert "Traceback" not in done.stderr
    assert not said or done.stderr.splitlines()[-1] == said


@linux
def test_a_reader_that_closes_early(checkpoint: Path, tmp_path: Path) -> None:
    """The status is what a shell shows for it, and no word is said; the picture is there."""
    done = shell("{ $S; echo $? >&2; } | true", checkpoint, tmp_path)
    assert done.stderr.splitlines()[-1] == "141"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    done = shell(f"{{ $T inspect {checkpoint}; echo $? >&2; }} | true", checkpoint, tmp_path)
    assert done.stderr == "141\n"


def test_characters_that_an_encoding_lacks() -> None:
    file = io.BytesIO()
    stream = Patient(io.TextIOWrapper(file, "ascii"))
    print("64×64", file=stream)  # type: ignore[call-overload]
    assert file.getvalue() == b"64?64\n"
    assert stream.error is None


def test_no_stream_at_all() -> None:
    stream = Patient(None)
    assert stream.write("word\n") == 5
    assert stream.error is None


def test_the_error_is_kept_and_the_rest_dropped() -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    stream = Patient(Full())
    stream.write("a\n")
    stream.write("b\n")
    assert isinstance(stream.error, OSError)
