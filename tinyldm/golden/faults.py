"""Where errors were made: which wrong tensors are faults of their own, and which inherited theirs.

A wrong module whose inputs are right made the error. One whose inputs are wrong inherited it, if one of them is the
output of a module that is wrong, or if a wrong module comes before it in the nearest enclosing module whose own inputs
are right. If none does, the error was made in that module, between those inside it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyldm.golden.comparison import Fault, Result
from tinyldm.golden.pairing import FilePair
from tinyldm.golden.tolerance import Tolerance

SOURCES = ("ids", "t")  # boundary arrays that come from no other tensor
STANDS_OUT = 1000.0  # times the error of what enters it
HANDED_OVER = "it is handed over between the models: what computes it there is wrong"


def find_faults(files: FilePair, tolerance: Tolerance, results: Sequence[Result]) -> list[Fault]:
    """The faults behind the results of a comparison, which are in the order of execution: children come before the
    module around them. Fills in what the results say of their inputs.
    """
    search = _Search(files, tolerance, results)
    for result in results:
        search.look_at(result)
    return search.found


class _Search:
    def __init__(self, files: FilePair, tolerance: Tolerance, results: Sequence[Result]) -> None:
        self.results = {r.key: r for r in results}
        self.found: list[Fault] = []
        self._files, self._tolerance = files, tolerance
        self._around: set[str] = set()  # modules and models that have a wrong one inside them, among those looked at
        self._boundary_wrong = False
        self._previous: Result | None = None

    def look_at(self, result: Result) -> None:
        key = result.key
        result.input_error, result.input_key = self._input_error(key)
        if result.wrong:
            result.inherited = self._inherits(result)
            fault = self._fault(result)
            if fault is not None:
                self._count(fault)
            self._around |= enclosing(key)
            self._boundary_wrong |= is_boundary(key)
        self._previous = result

    def _count(self, fault: Fault) -> None:
        """A fault is not counted again where the same module shows it in another call."""
        module = fault.module.partition("/")[2]
        known = next((f for f in self.found if module and f.module.partition("/")[2] == module), None)
        if known is None:
            self.found.append(fault)
        else:
            known.calls += 1

    def _fault(self, r: Result) -> Fault | None:
        """The fault that a wrong result shows; None where it inherited its error."""
        key, pairs = r.key, self._files.inputs(r.key)
        if r.inherited and self._stands_out(r):
            times = f"{r.metrics.rel_rmse / r.input_error:.0e} times" if r.metrics and r.input_error else "not"
            return Fault(key, key, f"made there too: its error is {times} that of what enters it")
        if is_boundary(key):
            return None if r.inherited else Fault(key, key, HANDED_OVER)
        if not r.inherited:
            if pairs:
                return Fault(key, key, f"made there: its inputs agree to {r.input_error:.2g}, its output does not")
            before = f" (or between {r.input_key} and it)" if r.input_key else ""
            why = f"made there{before}: what comes before is within tolerance; inputs were not recorded"
            return Fault(key, key, why)
        if not pairs or key in self._around or any(self._is_wrong(ours) for ours, _ in pairs):
            return None
        module = self._module_with_right_inputs(key)
        if module in self._around:
            return None
        why = f"made inside it, before {key}: what enters that is wrong, and no earlier module is"
        return Fault(module, key, why)

    def _stands_out(self, r: Result) -> bool:
        """Whether an error is so much larger than that of what enters it that it can't have been inherited.

        An embedding in sines of a timestep is the one place where a model magnifies an error so much.
        """
        before = r.input_error
        inside = r.key in self._around or r.key.endswith("/time_proj")
        return bool(before and r.metrics and not inside and r.metrics.rel_rmse > STANDS_OUT * before)

    def _is_wrong(self, key: str) -> bool:
        return key in self.results and self.results[key].wrong

    def _module_with_right_inputs(self, key: str) -> str:
        """The nearest enclosing module that was given the right inputs; the whole model where there is none."""
        module = key
        while "." in module.rpartition("/")[2]:
            module = module.rpartition(".")[0]
            if module in self.results and not self._inputs_wrong(self.results[module]):
                return module
        return key[: key.index("/", key.index("/") + 1)]

    # Its inputs -----------------------------------------------------------------------------------------------------

    def _input_error(self, key: str) -> tuple[float | None, str | None]:
        """The worst input's error and name; without recorded inputs, those of the tensor before."""
        pairs = self._files.inputs(key)
        if pairs:
            return max((self._files.error(ours, theirs), ours) for ours, theirs in pairs)
        before = self._previous
        return (None, None) if before is None or before.metrics is None else (before.metrics.rel_rmse, before.key)

    def _inherits(self, result: Result) -> bool:
        """Whether a module inside a wrong one is wrong already, or what it was given."""
        key = result.key
        if is_boundary(key):
            return self._was_handed_on(key)
        if self._files.inputs(key):
            return key in self._around or self._inputs_wrong(result)
        return self._boundary_wrong or not self._around.isdisjoint({key, model_of(key)})

    def _was_handed_on(self, key: str) -> bool:
        """Whether a wrong array at a boundary follows from what was wrong before."""
        model, at_model, name = key.partition(":")
        if name in SOURCES:
            return False
        if not at_model:  # the latents, the picture
            return bool(self.found)
        return self._boundary_wrong or model in self._around

    def _inputs_wrong(self, result: Result) -> bool:
        """Whether what a module was given is out of tolerance already."""
        return any(self._input_wrong(ours, theirs, result) for ours, theirs in self._files.inputs(result.key))

    def _input_wrong(self, ours: str, theirs: str, result: Result) -> bool:
        if ours in self.results and ours == theirs:
            return self._is_wrong(ours)
        # An input that is not an output has no tolerance of its own; it is held to what its module may differ by.
        error, m = self._files.error(ours, theirs), result.metrics
        if m is None:  # of another shape, which no rounding of an input explains
            return error == float("inf")
        if not m.rms:
            return error > 0
        limits = self._tolerance.limits(result.key, m, self._files.candidate.dtype(result.key))
        allowed = 0.0 if limits is None else (limits.max_abs if limits.rmse is None else limits.rmse)
        return error > allowed / (m.largest if limits and limits.rmse is None else m.rms)


def is_boundary(key: str) -> bool:
    """Whether a key is of an array at a model's boundary or between the models, and not of a module."""
    return ":" in key or "/" not in key or key.endswith("/latents")


def model_of(key: str) -> str:
    """`0007/unet` of `0007/unet/conv_in`."""
    step, _, rest = key.partition("/")
    return f"{step}/{rest.partition('/')[0]}"


def enclosing(key: str) -> set[str]:
    """The modules around a module, and its model."""
    if is_boundary(key):
        return set()
    parts = key.split(".")
    return {".".join(parts[:n]) for n in range(1, len(parts))} | {model_of(key)}
