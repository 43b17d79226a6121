"""Compare two golden files: every tensor's error, the first that is out of tolerance, and where that error was made.

A module whose inputs were right and whose output is wrong made the error; one whose inputs were wrong inherited it.
Where the inputs of the first wrong module are wrong though no earlier output is, the error was made between modules:
in the nearest enclosing module whose own inputs are right (an attention between its projections and its output, a
block that joins the wrong skip).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from tinyldm.checkpoints.base import quoted
from tinyldm.errors import InputError
from tinyldm.golden.hints import hint, known_factors
from tinyldm.golden.metrics import Metrics, measure
from tinyldm.golden.store import Golden, Statistics, sample_positions
from tinyldm.golden.tolerance import Limits, Tolerance

OK, FAILED, UNJUDGED, SHAPE = "ok", "failed", "unjudged", "shape"


@dataclass
class Result:
    """What became of one tensor. `used` is the share of the tolerance, above 1 where it fails; `hint` says why."""

    key: str
    status: str
    metrics: Metrics | None = None
    used: float = 0.0
    input_error: float | None = None  # the relative RMSE of the worst input, or of the tensor before
    input_key: str | None = None
    inherited: bool = False  # failed, with inputs that were out of tolerance already
    hint: str | None = None
    exact: bool = True  # compared by value, and not by statistics or a sample


@dataclass
class Comparison:
    """All results in the order of execution, and the verdict."""

    results: list[Result]
    missing: list[str]
    extra: list[str]
    tolerance: str
    first: Result | None = None
    culprit: str | None = None  # the module, or boundary array, in which the first error was made
    explanation: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        """0 all within tolerance, 1 not all, 2 not comparable (shapes, missing or extra tensors)."""
        if self.problems:
            return 2
        return 1 if self.first is not None else 0

    @property
    def failed(self) -> list[Result]:
        """The results that are out of tolerance."""
        return [r for r in self.results if r.status in (FAILED, SHAPE)]


def compare(
    golden: Golden,
    candidate: Golden,
    tolerance: Tolerance | None = None,
    *,
    select: Sequence[str] = ("*",),
    allow_missing: bool = False,
    allow_extra: bool = False,
    same_model: bool = True,
) -> Comparison:
    """Judge a candidate's file by a golden one.

    `select` limits the comparison to keys that match one of the patterns. Tensors that only one side has are a problem
    unless they are allowed. `same_model` refuses files whose configurations, weights or settings differ.

    Raises `InputError` where nothing can be compared, or the golden itself holds NaN.
    """
    if same_model:
        check_same_run(golden, candidate)
    return _Comparer(golden, candidate, tolerance or Tolerance(), select).run(allow_missing, allow_extra)


def check_same_run(golden: Golden, candidate: Golden) -> None:
    """Raise `InputError` where what both files say of the model and of the run disagrees."""
    for name in ("config", "weights_sha256", "settings"):
        ours, theirs = golden.metadata.get(name), candidate.metadata.get(name)
        if ours is None or theirs is None:
            continue
        found = first_difference(ours, theirs, name)
        if name == "settings" and found is None:
            found = other_kind(ours, theirs)
        if found is not None:
            where, a, b = found
            raise InputError(
                f"{candidate.path}: not the same {'run' if name == 'settings' else 'model'} as {golden.path}: "
                f"{where} is {quoted(b)}, the golden has {quoted(a)} (--any-model compares all the same)"
            )


def other_kind(ours: Any, theirs: Any) -> tuple[str, Any, Any] | None:
    """What differs where one file is of a fixture and the other of a run from a prompt."""
    a, b = kind_of_run(ours), kind_of_run(theirs)
    return None if a is None or b is None or a == b else ("it", a, b)


def kind_of_run(settings: Any) -> str | None:
    """What was recorded, where the settings say it."""
    if not isinstance(settings, dict):
        return None
    return (
        f"fixture {settings['fixture']}"
        if "fixture" in settings
        else "run from a prompt"
        if "prompt" in settings
        else None
    )


# How a run was computed may differ between the two sides: that is what is compared.
HOW = {"backend", "dtype", "precision", "threads", "low_memory", "select", "sample", "inputs", "rounding", "model"}


def first_difference(a: Any, b: Any, where: str) -> tuple[str, Any, Any] | None:
    """The first place at which two JSON values differ, of what both have."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a:
            if key in b and not key.startswith("_") and not (where == "settings" and key in HOW):
                found = first_difference(a[key], b[key], f"{where}.{key}")
                if found is not None:
                    return found
        return None
    same = list(a) == list(b) if isinstance(a, list) and isinstance(b, list) else a == b
    return None if same else (where, a, b)


class _Comparer:
    def __init__(self, golden: Golden, candidate: Golden, tolerance: Tolerance, select: Sequence[str]) -> None:
        self.golden, self.candidate, self.tolerance = golden, candidate, tolerance
        self.factors = known_factors(golden.metadata)
        self.patterns = list(select)
        self.results: dict[str, Result] = {}
        self._errors: dict[tuple[str, str], float] = {}

    def run(self, allow_missing: bool, allow_extra: bool) -> Comparison:
        wanted = [key for key in self.golden.order if self._selected(key)]
        missing = [key for key in wanted if key not in self.candidate]
        extra = [key for key in self.candidate.order if self._selected(key) and key not in self.golden]
        shared = [key for key in wanted if key in self.candidate]
        if not shared:
            raise InputError(self._nothing(wanted))
        previous = None
        for key in shared:
            self.results[key] = self._judge(key, previous)
            previous = key
        out = Comparison(list(self.results.values()), missing, extra, self.tolerance.describe())
        if all(r.status == UNJUDGED for r in out.results):
            raise InputError(f"{self.candidate.path}: not one tensor could be judged at the tolerance {out.tolerance}")
        out.first = next(iter(out.failed), None)
        if out.first is not None:
            out.culprit, out.explanation = self._blame(out.first)
        for names, allowed, what, option in (
            (missing, allow_missing, "missing from", "missing"),
            (extra, allow_extra, "only in", "extra"),
        ):
            if names and not allowed:
                more = f" and {len(names) - 1} more" if names[1:] else ""
                out.problems.append(f"{quoted(names[0])}{more} {what} the candidate (--allow-{option} permits that)")
        shapes = [r for r in out.results if r.status == SHAPE]
        if shapes:
            more = f" and {len(shapes) - 1} more tensors" if shapes[1:] else ""
            out.problems.append(f"{quoted(shapes[0].key)}{more}: {shapes[0].hint}")
        return out

    def _selected(self, key: str) -> bool:
        return any(fnmatchcase(key, pattern) for pattern in self.patterns)

    def _nothing(self, wanted: list[str]) -> str:
        if not wanted:
            return f"{self.golden.path}: nothing to compare: no tensor matches {' '.join(self.patterns)}"
        have = self.candidate.order[0] if self.candidate.order else "nothing"
        return (
            f"{self.candidate.path}: nothing to compare: it shares no tensor with {self.golden.path} "
            f"(its first is {quoted(have)}, the golden's {quoted(wanted[0])})"
        )

    # One tensor -----------------------------------------------------------------------------------------------------

    def _judge(self, key: str, previous: str | None) -> Result:
        if self.golden.shape(key) != self.candidate.shape(key):
            return self._misshapen(key, previous, self._shape_hint(key))
        g, c, exact = self._values(key, key)
        if g.dtype.kind == "f" and np.isnan(g).any():
            raise InputError(f"{self.golden.path}: the golden tensor {quoted(key)} holds NaN: it can judge nothing")
        if g.dtype.kind == "f" and c.dtype.kind not in "f":
            return self._misshapen(key, previous, f"dtype {c.dtype}, the golden has {g.dtype}")
        m = measure(g, c, self.candidate.dtype(key))
        limits = self.tolerance.limits(key, m, self.candidate.dtype(key))
        if limits is not None and not exact and key not in self.golden.sampled:
            limits = Limits(limits.max_abs)  # the mean over a few values may be above the mean over all
        if limits is None and not m.nonfinite_differ:
            return Result(key, UNJUDGED, m, exact=exact)
        used = float("inf") if m.nonfinite_differ or limits is None else limits.used(m)
        result = Result(key, FAILED if used > 1 else OK, m, used, exact=exact)
        result.input_error, result.input_key = self._input_error(key, previous)
        if result.status == FAILED:
            result.inherited = self._inputs_wrong(key, result, previous) or self._child_failed(key)
            if self.golden.has_values(key) and self.candidate.has_values(key):
                result.hint = hint(g, c, self.factors)
        return result

    def _misshapen(self, key: str, previous: str | None, why: str) -> Result:
        """The result of a tensor whose shape or type is wrong, whatever its values are."""
        result = Result(key, SHAPE, used=float("inf"), hint=why)
        result.input_error, result.input_key = self._input_error(key, previous)
        result.inherited = self._inputs_wrong(key, result, previous) or self._child_failed(key)
        return result

    def _values(self, ours: str, theirs: str) -> tuple[np.ndarray, np.ndarray, bool]:
        """The values to compare of a tensor, from both files: all, those that were sampled, or the statistics."""
        g, c = self.golden, self.candidate
        if not (g.has_values(ours) and c.has_values(theirs)):
            mine, other = self._statistics(g, ours), self._statistics(c, theirs)
            if mine.sha256 == other.sha256:
                other = mine
            return _four(mine), _four(other), False
        a, b = g[ours], c[theirs]
        if ours in g.sampled and theirs not in c.sampled:
            b = b.reshape(-1)[sample_positions(ours, b.size, a.size)]
        elif theirs in c.sampled and ours not in g.sampled:
            a = a.reshape(-1)[sample_positions(theirs, a.size, b.size)]
        elif a.shape != b.shape:  # both sampled: the shorter is the beginning of the longer
            n = min(a.size, b.size)
            a, b = a[:n], b[:n]
        return a, b, ours not in g.sampled and theirs not in c.sampled

    @staticmethod
    def _statistics(file: Golden, key: str) -> Statistics:
        from tinyldm.golden.store import statistics

        return file.statistics[key] if key in file.statistics else statistics(file[key])

    def _shape_hint(self, key: str) -> str:
        files = self.golden, self.candidate
        if any(key in file.sampled or not file.has_values(key) for file in files):
            return f"shape {self.candidate.shape(key)}, the golden has {self.golden.shape(key)}"
        found = hint(self.golden[key], self.candidate[key], self.factors)
        return found or f"shape {self.candidate.shape(key)}, the golden has {self.golden.shape(key)}"

    # Its inputs -----------------------------------------------------------------------------------------------------

    def _input_pairs(self, key: str) -> list[tuple[str, str]]:
        """The recorded inputs of a module in both files; the candidate's by the golden's references where it has none.

        Inputs that are in one file only, or of other shapes, say nothing.
        """
        ours = self.golden.inputs.get(key, [])
        theirs = self.candidate.inputs.get(key) or ours
        pairs = zip(ours, theirs, strict=False)
        return [(a, b) for a, b in pairs if b in self.candidate and self.golden.shape(a) == self.candidate.shape(b)]

    def _error_between(self, ours: str, theirs: str) -> float:
        """The relative RMSE of an input; infinite where one side has NaN or infinity and the other has not."""
        if (ours, theirs) not in self._errors:
            g, c, _ = self._values(ours, theirs)
            m = measure(g, c)
            self._errors[ours, theirs] = float("inf") if m.nonfinite_differ else m.rel_rmse
        return self._errors[ours, theirs]

    def _input_error(self, key: str, previous: str | None) -> tuple[float | None, str | None]:
        """The worst input's error and name; without recorded inputs, those of the tensor before."""
        pairs = self._input_pairs(key)
        if pairs:
            return max((self._error_between(a, b), a) for a, b in pairs)
        before = None if previous is None else self.results[previous].metrics
        return (None, None) if before is None else (before.rel_rmse, previous)

    def _child_failed(self, key: str) -> bool:
        """Whether a module inside this one is wrong already."""
        return any(r.status in (FAILED, SHAPE) for k, r in self.results.items() if k.startswith(f"{key}."))

    def _inputs_wrong(self, key: str, result: Result, previous: str | None) -> bool:
        """Whether what a failed module was given is out of tolerance already."""
        pairs = self._input_pairs(key)
        if not pairs:
            return previous is not None and self.results[previous].status in (FAILED, SHAPE)
        return any(self._input_wrong(a, b, result) for a, b in pairs)

    def _input_wrong(self, ours: str, theirs: str, result: Result) -> bool:
        if ours in self.results and ours == theirs:
            return self.results[ours].status in (FAILED, SHAPE)
        # An input that is not an output has no tolerance of its own; it is held to what its module may differ by.
        m = result.metrics
        if m is None:  # of another shape, which no rounding of an input explains
            return self._error_between(ours, theirs) == float("inf")
        if not m.rms:
            return self._error_between(ours, theirs) > 0
        limits = self.tolerance.limits(result.key, m, self.candidate.dtype(result.key))
        allowed = 0.0 if limits is None else (limits.max_abs if limits.rmse is None else limits.rmse)
        return self._error_between(ours, theirs) > allowed / (m.largest if limits and limits.rmse is None else m.rms)

    # Where it was made ----------------------------------------------------------------------------------------------

    def _blame(self, first: Result) -> tuple[str, str]:
        """The module in which the first error was made, and a sentence that says how that is known."""
        key = first.key
        if ":" in key or "/" not in key or key.endswith("/latents"):
            return key, "it is handed over between the models: what computes it there is wrong"
        if not self._input_pairs(key):
            before = f" (or between {first.input_key} and it)" if first.input_key else ""
            return key, f"made there{before}: what comes before is within tolerance; inputs were not recorded"
        if not first.inherited:
            return key, f"made there: its inputs agree to {first.input_error:.2g}, its output does not"
        module = key
        while "." in module.rpartition("/")[2]:
            module = module.rpartition(".")[0]
            result = self.results.get(module)
            if result is None:
                continue
            if not self._input_pairs(module) or not self._inputs_wrong(module, result, None):
                return module, f"made inside it, before {key}: what enters {key} is wrong, and no earlier module is"
        component = key[: key.index("/", key.index("/") + 1)]
        return component, f"made inside it, before {key}: what enters {key} is wrong, and no earlier module is"


def _four(s: Statistics) -> np.ndarray:
    return np.array([s.min, s.max, s.mean, s.std, float(s.nonfinite)])
