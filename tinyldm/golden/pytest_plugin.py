"""The pytest plugin: `golden("name", array)` compares with a stored file, `--golden-update` rewrites it.

```python
def test_unet(golden):
    golden("unet/epsilon", unet(z, 500, context), tolerance=1e-6)
```

The file is `golden_data/<test module>/<test>.safetensors` beside the test module, one for each test (and each of its
parameters), so tests that run at the same time under xdist do not share one. A test that names a tensor that the file
lacks fails, as does one that leaves out a tensor that the file has.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyldm.errors import TinyldmError
from tinyldm.golden.hints import hint
from tinyldm.golden.metrics import Metrics, measure
from tinyldm.golden.store import Golden, GoldenWriter
from tinyldm.golden.tolerance import Limits, Tolerance
from tinyldm.golden.torch_recorder import to_numpy


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--golden-update`."""
    group = parser.getgroup("golden", "golden tensors")
    group.addoption("--golden-update", action="store_true", help="rewrite the golden files of the tests that run")


class GoldenTensors:
    """What a test calls: compares each array with the test's file, or collects them for a new one."""

    def __init__(self, path: Path, update: bool) -> None:
        self.path = path
        self.update = update
        self._new: dict[str, np.ndarray] = {}
        self._seen: set[str] = set()
        self._file = None if update or not path.exists() else Golden(path)

    def __call__(self, name: str, value: Any, *, tolerance: float | None = None) -> None:
        """Compare `value` with the stored tensor `name`; a mapping compares all its tensors, in order.

        `tolerance` is the largest error over the stored tensor's largest value; by default it follows the type.
        """
        __tracebackhide__ = True
        if isinstance(value, Mapping):
            for key, tensor in value.items():
                self(f"{name}/{key}", tensor, tolerance=tolerance)
            return
        array = to_numpy(value)[0]
        if name in self._seen:
            pytest.fail(f"golden {name!r}: is named twice in this test", pytrace=False)
        self._seen.add(name)
        if self.update:
            self._new[name] = np.array(array)
        else:
            self._compare(name, array, tolerance)

    def _compare(self, name: str, array: np.ndarray, tolerance: float | None) -> None:
        __tracebackhide__ = True
        if self._file is None:
            pytest.fail(f"golden {name!r}: there is no file {self.path}; --golden-update writes it", pytrace=False)
        if name not in self._file:
            pytest.fail(f"golden {name!r}: is not in {self.path}; --golden-update adds it", pytrace=False)
        stored = self._file[name]
        if stored.shape != array.shape or stored.dtype.kind != array.dtype.kind:
            floats = stored.dtype.kind == "f" and array.dtype.kind == "f"
            found = (hint(stored, array) if floats else None) or (
                f"{array.dtype} {array.shape}, stored {stored.dtype} {stored.shape}"
            )
            pytest.fail(f"golden {name!r} of {self.path}: {found}", pytrace=False)
        m = measure(stored, array)
        limits = Tolerance(tolerance).limits(name, m, self._file.dtype(name)) or Limits(0.0)
        if m.nonfinite_differ or limits.used(m) > 1:
            text = difference(stored, array, m, limits.max_abs)
            pytest.fail(f"golden {name!r} of {self.path}: {text}", pytrace=False)

    def finish(self, passed: bool) -> None:
        """At the end of a test: write what was collected, or see that no stored tensor was left out."""
        if self.update:
            if passed and self._new:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with GoldenWriter(self.path) as writer:
                    for name, array in self._new.items():
                        writer.add(name, array)
            return
        if self._file is None:
            return
        left = [name for name in self._file.order if name not in self._seen]
        self._file.close()
        if passed and left:
            pytest.fail(f"golden {left[0]!r} of {self.path}: was not compared; --golden-update drops it", pytrace=False)


def difference(stored: np.ndarray, array: np.ndarray, m: Metrics, allowed: float) -> str:
    """By how much an array differs, where the most, and what that looks like."""
    error = np.abs(array.astype(np.float64) - stored.astype(np.float64))
    error = np.where(np.isfinite(array) == np.isfinite(stored), np.nan_to_num(error, nan=0.0), np.inf)
    at = tuple(int(i) for i in np.unravel_index(int(error.argmax()), stored.shape)) if stored.ndim else ()
    lines = [
        f"differs by up to {m.max_abs:.3g}, allowed {allowed:.3g}",
        f"  at {list(at)}: {array[at]!r}, stored {stored[at]!r}",
        f"  relative {m.max_rel:.3g}, rmse {m.rmse:.3g}, cosine {m.cosine:.7f}, {m.nan} NaN, {m.inf} infinite",
    ]
    looks = hint(stored, array)
    return "\n".join([*lines, f"  looks like: {looks}"] if looks else lines)


RESULTS = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the fixture know whether the test passed."""
    report = yield
    if report.when == "call":
        item.stash[RESULTS] = report.passed
    return report


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Iterator[GoldenTensors]:
    """Compare arrays with this test's golden file: `golden("name", array, tolerance=1e-6)`."""
    folder = request.path.parent / "golden_data" / request.path.stem
    name = re.sub(r"[^\w.,=+-]+", "_", request.node.name)
    try:
        tensors = GoldenTensors(folder / f"{name}.safetensors", request.config.getoption("--golden-update"))
    except TinyldmError as error:
        pytest.fail(str(error), pytrace=False)
    yield tensors
    tensors.finish(request.node.stash.get(RESULTS, False))
