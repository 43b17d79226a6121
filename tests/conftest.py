"""What many tests share: a tiny checkpoint in the published folder layout, filled with seeded weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_checkpoints import write_sd

pytest_plugins = ["tinyldm.golden.pytest_plugin"]  # from the source tree too, where nothing is installed


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, shared by all tests, which must not write to it."""
    return write_sd(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def own_checkpoint(tmp_path: Path) -> Path:
    """The tiny checkpoint, for a test that damages it."""
    return write_sd(tmp_path / "tiny")
