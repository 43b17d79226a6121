"""A command as its user types it, run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tinyldm import cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in an empty folder, on the tiny checkpoint: `run("sample", "a") -> status, out, err`."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        name, *rest = words
        try:
            status = cli.main([name, "--model", str(checkpoint), "--backend", "reference", *rest])
        except SystemExit as end:  # of the grammar
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
