"""A server that runs on the tiny checkpoint."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import WITHOUT, Exploring, Serving

import tinyldm


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> Any:
    return tinyldm.load(checkpoint, backend="reference")


@pytest.fixture
def serve(model: Any, tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """Start a server of one's own: `serve(token="word", places=2)`."""
    pytest.importorskip("uvicorn", reason=WITHOUT)
    with contextlib.ExitStack() as stack:
        folder = tmp_path / "pictures"
        folder.mkdir()
        yield lambda **options: stack.enter_context(Serving(model, folder, **options))


@pytest.fixture(scope="module")
def serving(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that the tests of a module share."""
    pytest.importorskip("uvicorn", reason=WITHOUT)
    with Serving(model, tmp_path_factory.mktemp("pictures")) as running:
        yield running


@pytest.fixture
def explore(model: Any) -> Iterator[Callable[..., Exploring]]:
    """Start a laboratory of one's own: `explore(token="word")`, or of another model: `explore(other)`."""
    pytest.importorskip("uvicorn", reason=WITHOUT)
    with contextlib.ExitStack() as stack:
        yield lambda other=None, **options: stack.enter_context(Exploring(other or model, **options))


@pytest.fixture(scope="module")
def exploring(model: Any) -> Iterator[Exploring]:
    """A laboratory that the tests of a module share."""
    pytest.importorskip("uvicorn", reason=WITHOUT)
    with Exploring(model) as running:
        yield running


@pytest.fixture
def without_web(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra was not installed; the package's own modules are afterwards those that they were before."""
    monkeypatch.setattr(tinyldm, "server", getattr(tinyldm, "server", None), raising=False)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("starlette", "uvicorn") or name.startswith("tinyldm.server"):
            monkeypatch.delitem(sys.modules, name)
    for name in ("starlette", "uvicorn"):
        monkeypatch.setitem(sys.modules, name, None)
