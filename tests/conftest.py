"""What many tests share: a tiny checkpoint in the published folder layout, filled with seeded weights."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import write_sd

from tinyldm import cli

Run = Callable[..., tuple[int, str, str]]  # of a command

pytest_plugins = ["tinyldm.golden.pytest_plugin"]  # from the source tree too, where nothing is installed


def sisters_of_the_source_tree() -> None:
    """The package of the checkpoint's sisters, as `pip install ./weights` would install it."""
    spec = ModuleSpec("tinyldm_weights", None, is_package=True)
    spec.submodule_search_locations = [str(Path(__file__).parents[1] / "weights")]
    sys.modules.setdefault("tinyldm_weights", module_from_spec(spec))


sisters_of_the_source_tree()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped has failed")


def without_skips(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    """Turn a skip into a failure, where that is asked for; an expected failure is none."""
    if report.skipped and not hasattr(report, "wasxfail") and config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    without_skips(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    without_skips(report, collector.config)
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that opens a browser is one of the extras'."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.extra)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium: Debian's, or Playwright's own."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason='Playwright is not installed (pip install ".[browser]")'
    )
    with playwright.sync_playwright() as p:
        if BROWSER is None and not Path(p.chromium.executable_path).exists():
            pytest.skip("no Chromium is installed to open the page in")
        opened = p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, shared by all tests, which must not write to it."""
    return write_sd(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def own_checkpoint(tmp_path: Path) -> Path:
    """The tiny checkpoint, for a test that damages it."""
    return write_sd(tmp_path / "tiny")


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
