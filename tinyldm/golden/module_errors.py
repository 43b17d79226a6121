"""The honest error of every module by itself: what an honest evaluation of it errs by, given the oracle's own inputs.

While the oracle runs, each module is computed again in every honest evaluation (`rounding`), on the inputs that it has
just had, rounded. A module inside another one is judged by itself and as a part of that: the deeper modules are nested,
the more this costs beside an honest evaluation of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinyldm import tracing
from tinyldm.golden.metrics import largest_and_rmse
from tinyldm.golden.rounding import EVALUATIONS, as_rounded, rounding
from tinyldm.golden.tracing import GoldenTrace, Sink
from tinyldm.models.network import Network
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.tree import Weights

Errors = dict[str, list[float | None]]  # by key, the largest maximum error and RMSE; nulls where one overflows


def add_evaluation(errors: Errors, key: str, golden: np.ndarray, evaluated: np.ndarray) -> None:
    """Raise the errors of a tensor to those of one more honest evaluation of it."""
    found = largest_and_rmse(golden, evaluated)
    largest, rmse = errors.get(key, [0.0, 0.0])
    if found is None or largest is None or rmse is None:
        errors[key] = [None, None]
    else:
        errors[key] = [max(largest, found[0]), max(rmse, found[1])]


class ModuleErrorTrace(GoldenTrace):
    """A trace of the oracle with inputs that also fills `errors`: by arithmetic, of every module by itself.

    `twins` are models that evaluate in each arithmetic (`rounding.rounded_model`).
    """

    def __init__(
        self,
        select: str | Sequence[str],
        sink: Sink,
        rename: Callable[[str], str] | None,
        twins: Mapping[str, LatentDiffusion],
    ) -> None:
        super().__init__(select, True, sink, rename)
        self.errors: dict[str, Errors] = {arithmetic: {} for arithmetic in twins}
        self._twins = twins

    def wants_call(self, path: str) -> bool:
        """Every module that is recorded is computed again."""
        return self.wants_inputs(path)

    def call(self, path: str, output: np.ndarray, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Compute a module again in every arithmetic and evaluation, and take its largest errors down."""
        key = self.key(path)
        component = key.split("/")[1]
        for arithmetic, twin in self._twins.items():
            network: Network[Any] = twin.networks[component]
            given = in_twin(arguments, network, arithmetic)
            ops = network.runtime.ops
            ops.sums = 0
            for ops.evaluation in range(EVALUATIONS):
                with tracing.trace(into=tracing.Trace(select="")):  # keeps nothing; composites come apart
                    y = function(*(list(x) if isinstance(x, list) else x for x in given))  # skips are used up
                add_evaluation(self.errors[arithmetic], self.named(key), output, y[0] if isinstance(y, tuple) else y)
                if not ops.sums:
                    break  # no order of terms to try


def in_twin(argument: Any, network: Network[Any], arithmetic: str) -> Any:
    """An argument of a module, for the module of a rounded twin: floating arrays rounded, nodes those of the twin."""
    if isinstance(argument, Weights):
        return network.weights.at(argument.path)
    if isinstance(argument, np.ndarray) and argument.dtype.kind == "f":
        with np.errstate(over="ignore"):
            round_ = rounding(arithmetic)
            return as_rounded(round_(argument.astype(np.float32)), round_)
    if isinstance(argument, list | tuple):
        return type(argument)(in_twin(x, network, arithmetic) for x in argument)
    return argument
