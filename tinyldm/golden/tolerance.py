"""How much a tensor may differ: a stated number, or what the arithmetic itself costs.

An honest evaluation in float32, float16 or bfloat16 (every operator's result rounded to that type, sums in float32; see
`rounding`) differs from the float64 oracle too. Its error, tensor by tensor, is written into the oracle's golden file;
`auto` allows a stated multiple of it. A port passes when it is as good as its arithmetic allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinyldm.errors import InputError
from tinyldm.golden.metrics import Metrics, ratio
from tinyldm.golden.store import Golden

FACTOR = 4.0
# Half the distance from 1 to the next number, the largest relative error of one rounding.
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
ARITHMETIC = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Where no tolerance is asked for: relative to the golden's largest value, by the candidate's type.
DEFAULT = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


@dataclass(frozen=True)
class Limits:
    """The largest error that passes, in the units of the tensor; both limits hold. `rmse` None: not judged by it."""

    max_abs: float
    rmse: float | None = None

    def used(self, m: Metrics) -> float:
        """How much of the limits a difference uses up: above 1 it fails."""
        parts = [ratio(m.max_abs, self.max_abs)]
        if self.rmse is not None:
            parts.append(ratio(m.rmse, self.rmse))
        return max(parts)


def exact_limit(dtype: str) -> float:
    """Integers are exact, except the levels of an 8-bit picture, where a value near one half may round either way."""
    return 1.0 if dtype == "U8" else 0.0


class Tolerance:
    """A relative bound for all tensors: the maximum error over the golden's largest value; None: by the type."""

    def __init__(self, relative: float | None = None) -> None:
        if relative is not None and not 0 <= relative < float("inf"):
            raise InputError(f"tolerance: must be a number from 0, or 'auto', not {relative}")
        self.relative = relative

    def limits(self, key: str, m: Metrics, dtype: str) -> Limits | None:
        """The limits of the tensor `key`, whose candidate has the stored type `dtype`; None where none can be had."""
        arithmetic = ARITHMETIC.get(dtype)
        if arithmetic is None:
            return Limits(exact_limit(dtype))
        return Limits((DEFAULT[arithmetic] if self.relative is None else self.relative) * m.largest)

    def describe(self) -> str:
        """In words."""
        if self.relative is None:
            return "by type, of the largest value: " + ", ".join(f"{t} {v:g}" for t, v in DEFAULT.items())
        return f"{self.relative:g} of the largest value"


class AutoTolerance(Tolerance):
    """`factor` times the error of an honest evaluation in `arithmetic`, as the golden file states it.

    With `per_module` each module's is that of an honest evaluation of this module on the golden's own inputs, where the
    file states it, and not that which has gathered since the run began. No tensor is held to less than one rounding of
    that type.
    """

    def __init__(self, golden: Golden, arithmetic: str, factor: float = FACTOR, per_module: bool = False) -> None:
        super().__init__()
        if arithmetic not in UNIT_ROUNDOFF:
            raise InputError(f"arithmetic {arithmetic!r} is unknown; known are {', '.join(UNIT_ROUNDOFF)}")
        if not factor > 0:
            raise InputError(f"factor: must be above 0, not {factor}")
        found = error_tables(golden, "rounding")
        if arithmetic not in found:
            held = ", ".join(found) or "none"
            raise InputError(
                f"{golden.path}: holds no rounding errors of {arithmetic}, which --tolerance auto needs (held: "
                f"{held}); record it with --dtype float64 --rounding {arithmetic}"
            )
        of_modules = error_tables(golden, "rounding_alone").get(arithmetic) if per_module else None
        self.errors = found[arithmetic] | (of_modules or {})
        of_run = "of the whole run (the file states none of single modules)" if per_module else "of the float64 oracle"
        self.of = "of each module alone" if of_modules else of_run
        self.arithmetic = arithmetic
        self.factor = factor

    def limits(self, key: str, m: Metrics, dtype: str) -> Limits | None:
        """A multiple of the honest error, or of one rounding; None for a tensor in which the evaluation overflows."""
        max_abs, rmse = self.errors.get(key, [0.0, 0.0])
        if max_abs is None or rmse is None:
            return None
        if dtype not in ARITHMETIC:
            return Limits(max(exact_limit(dtype), self.factor * max_abs))
        u = UNIT_ROUNDOFF[self.arithmetic]
        return Limits(self.factor * max(max_abs, u * m.largest), self.factor * max(rmse, u * m.rms))

    def describe(self) -> str:
        """In words."""
        return f"{self.factor:g} × the error of an honest {self.arithmetic} evaluation {self.of}"


def error_tables(golden: Golden, entry: str) -> dict[str, dict[str, list[float | None]]]:
    """By arithmetic and key, the maximum error and the RMSE that a metadata entry states. Raises `InputError`."""
    tables = golden.metadata.get(entry) or {}
    try:
        pairs = [pair for table in tables.values() for pair in table.values()]
        sound = all(type(pair) is list and len(pair) == 2 and all(map(is_error, pair)) for pair in pairs)
    except AttributeError:  # no mapping of mappings
        sound = False
    if not sound:
        raise InputError(
            f"{golden.path}: the metadata entry {entry!r} must be {{arithmetic: {{key: [max_abs, rmse]}}}}"
        )
    return dict(tables)


def is_error(value: Any) -> bool:
    """Whether it is a size of an error, or a null."""
    return value is None or (type(value) in (int, float) and value >= 0)
