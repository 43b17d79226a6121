"""What a comparison found: a result for each tensor, the faults behind those that are wrong, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field

from tinyldm.golden.metrics import Metrics

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
    inherited: bool = False  # wrong, with inputs that were out of tolerance already or around a module that is wrong
    hint: str | None = None
    exact: bool = True  # compared by value, and not by statistics or a sample

    @property
    def wrong(self) -> bool:
        """Whether it is out of tolerance, or has another shape or type."""
        return self.status in (FAILED, SHAPE)


@dataclass
class Fault:
    """An error that was made, not inherited: in which module or boundary array, and the first tensor that shows it."""

    module: str
    key: str
    explanation: str
    calls: int = 1  # of the module that show it, though what enters each of them is right


@dataclass
class Comparison:
    """All results in the order of execution, and the verdict.

    `faults` are independent of each other: none follows from another one. `problems` are why the files can't be
    compared; `notes` what is to be said beside the verdict.
    """

    results: list[Result]
    missing: list[str]
    extra: list[str]
    tolerance: str
    faults: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        """0 all within tolerance, 1 not all, 2 not comparable (shapes, missing outputs)."""
        if self.problems:
            return 2
        return 1 if self.first is not None else 0

    @property
    def failed(self) -> list[Result]:
        """The results that are out of tolerance."""
        return [r for r in self.results if r.wrong]

    @property
    def first(self) -> Result | None:
        """The first result that is out of tolerance."""
        return next(iter(self.failed), None)

    @property
    def culprit(self) -> str | None:
        """The module, or boundary array, in which the first error was made."""
        return self.faults[0].module if self.faults else None

    @property
    def explanation(self) -> str:
        """How that is known."""
        return self.faults[0].explanation if self.faults else ""
