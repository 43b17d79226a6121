"""What is done to one row of channels at a time: the ends of a matrix product, normalisation, activation, sums.

Every function here runs over `count` neighbouring float32 values as vectors, with a tail one value at a time that
computes the same bits. Addresses are in bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba import types

from tinyldm.kernels import formulas
from tinyldm.kernels.simd import (
    F64,
    FLOAT_BYTES,
    I64,
    POINTER,
    Lanes,
    Value,
    constant,
    emitted,
    for_lanes,
    loop,
    target,
)

# What a matrix product can end with. RESIDUAL adds an array of the result's shape, GEGLU gates one half with the other.
NONE, SILU, GELU, QUICK_GELU, RESIDUAL, GEGLU, RELU, RESIDUAL_RELU = range(8)
WITH_RESIDUAL = {NONE: RESIDUAL, RELU: RESIDUAL_RELU}
ACTIVATIONS = {"silu": SILU, "gelu": GELU, "quick_gelu": QUICK_GELU}
_FORMULAS: dict[int, Callable[[Lanes, Value], Value]] = {
    NONE: lambda _, x: x,
    SILU: formulas.silu,
    GELU: formulas.gelu,
    QUICK_GELU: formulas.quick_gelu,
    RELU: formulas.relu,
}


def _choose(builder: ir.IRBuilder, code: ir.Value, cases: dict[int, Callable[[], None]]) -> None:
    """Emit `match code`, once a row, so that the loops inside are free of branches."""
    after = builder.append_basic_block("chosen")
    switch = builder.switch(code, after)
    for value, emit in cases.items():
        block = builder.append_basic_block(f"case{value}")
        switch.add_case(constant(value), block)
        builder.position_at_end(block)
        emit()
        builder.branch(after)
    builder.position_at_end(after)


@emitted(6)
def finish_row(
    builder: ir.IRBuilder,
    source: ir.Value,
    destination: ir.Value,
    bias: ir.Value,
    residual: ir.Value,
    count: ir.Value,
    ending: ir.Value,
) -> None:
    """destination = activation(source + bias (+ residual)); `ending` says which (see above)."""

    def plain(lanes: Lanes, at: ir.Value) -> Value:
        return lanes.load(source, at) + lanes.load(bias, at)

    def emit(read: Callable[[Lanes, ir.Value], Value], formula: Callable[[Lanes, Value], Value]) -> Callable[[], None]:
        def body(lanes: Lanes, at: ir.Value) -> None:
            lanes.store(formula(lanes, read(lanes, at)), destination, at)

        return lambda: for_lanes(builder, count, body)

    def with_residual(lanes: Lanes, at: ir.Value) -> Value:
        return plain(lanes, at) + lanes.load(residual, at)

    cases = {code: emit(plain, formula) for code, formula in _FORMULAS.items()}
    cases |= {code: emit(with_residual, _FORMULAS[without]) for without, code in WITH_RESIDUAL.items()}
    _choose(builder, ending, cases)


@emitted(6)
def finish_gate(
    builder: ir.IRBuilder,
    values: ir.Value,
    gates: ir.Value,
    destination: ir.Value,
    value_bias: ir.Value,
    gate_bias: ir.Value,
    count: ir.Value,
) -> None:
    """destination = (values + value_bias) * gelu(gates + gate_bias)."""

    def body(lanes: Lanes, at: ir.Value) -> None:
        gate = formulas.gelu(lanes, lanes.load(gates, at) + lanes.load(gate_bias, at))
        lanes.store((lanes.load(values, at) + lanes.load(value_bias, at)) * gate, destination, at)

    for_lanes(builder, count, body)


@emitted(6)
def affine_row(
    builder: ir.IRBuilder,
    source: ir.Value,
    destination: ir.Value,
    gain: ir.Value,
    shift: ir.Value,
    count: ir.Value,
    activation: ir.Value,
) -> None:
    """destination = source * gain + shift, channel by channel; with `activation` = SILU, the SiLU of it."""

    def emit(finish: Callable[[Lanes, Value], Value]) -> Callable[[], None]:
        def body(lanes: Lanes, at: ir.Value) -> None:
            y = lanes.fma(lanes.load(source, at), lanes.load(gain, at), lanes.load(shift, at))
            lanes.store(finish(lanes, y), destination, at)

        return lambda: for_lanes(builder, count, body)

    _choose(builder, activation, {NONE: emit(lambda lanes, y: y), SILU: emit(formulas.silu)})


@emitted(6)
def normalise_row(
    builder: ir.IRBuilder,
    source: ir.Value,
    destination: ir.Value,
    moments: ir.Value,
    gain: ir.Value,
    shift: ir.Value,
    count: ir.Value,
) -> None:
    """destination = (source * r + s) * gain + shift; `moments` holds r = 1/deviation and s = -mean/deviation."""

    def body(lanes: Lanes, at: ir.Value) -> None:
        unit = lanes.fma(lanes.load(source, at), lanes.broadcast(moments), lanes.broadcast(moments, FLOAT_BYTES))
        lanes.store(lanes.fma(unit, lanes.load(gain, at), lanes.load(shift, at)), destination, at)

    for_lanes(builder, count, body)


@emitted(3)
def scale_row(builder: ir.IRBuilder, row: ir.Value, scalar: ir.Value, count: ir.Value) -> None:
    """row = row * the number at address `scalar`."""
    for_lanes(builder, count, lambda lanes, at: lanes.store(lanes.load(row, at) * lanes.broadcast(scalar), row, at))


@emitted(4)
def add_moments(builder: ir.IRBuilder, source: ir.Value, sums: ir.Value, squares: ir.Value, count: ir.Value) -> None:
    """sums += source and squares += source**2, channel by channel, in float64 (`sums`, `squares` are float64)."""

    def body(lanes: Lanes, at: ir.Value) -> None:
        x = lanes.load(source, at)
        parts = 1 if lanes.width == 1 else 2
        for part in range(parts):
            wide = lanes.widen(x, part, parts)
            place = builder.add(builder.mul(at, constant(2)), constant(part * wide.lanes.width * 8))
            wide.lanes.store(wide.lanes.load(sums, place) + wide, sums, place)
            wide.lanes.store(wide.lanes.fma(wide, wide, wide.lanes.load(squares, place)), squares, place)

    for_lanes(builder, count, body)


@emitted(2, types.UniTuple(types.float64, 2))
def row_moments(builder: ir.IRBuilder, source: ir.Value, count: ir.Value) -> ir.Value:
    """The sum of a row and of its squares, in float64, lane by lane and then over the lanes."""
    width = target().width
    totals = []
    whole = builder.and_(count, constant(-width))
    lanes = Lanes(builder, width)
    wide = Lanes(builder, width // 2, F64)

    def body(index: ir.Value, *state: Value) -> list[Value]:
        x = lanes.load(source, builder.mul(index, constant(FLOAT_BYTES)))
        new = []
        for part in range(2):
            w = lanes.widen(x, part, 2)
            new += [state[2 * part] + w, wide.fma(w, w, state[2 * part + 1])]
        return new

    zero = wide.constant(0.0)
    s0, q0, s1, q1 = loop(builder, constant(0), whole, width, [zero] * 4, body)
    one = Lanes(builder, 1)
    single = Lanes(builder, 1, F64)
    for total in (s0 + s1, q0 + q1):
        totals.append(single.splat(wide.reduce(total, lambda _, a, b: a + b)))

    def tail(index: ir.Value, total: Value, square: Value) -> list[Value]:
        w = one.widen(one.load(source, builder.mul(index, constant(FLOAT_BYTES))), 0, 1)
        return [total + w, single.fma(w, w, square)]

    totals = loop(builder, whole, count, 1, totals, tail)
    pair = ir.Constant(ir.ArrayType(F64, 2), ir.Undefined)
    for i, total in enumerate(totals):
        pair = builder.insert_value(pair, builder.extract_element(total.raw, ir.Constant(ir.IntType(32), 0)), i)
    return pair


def _reduced(
    builder: ir.IRBuilder,
    count: ir.Value,
    first: float,
    step: Callable[[Lanes, ir.Value, Value], Value],
    combine: Callable[[Lanes, Value, Value], Value],
) -> ir.Value:
    """A row reduced to one float32: whole vectors lane by lane, then the lanes by halves, then the tail."""
    width = target().width
    whole = builder.and_(count, constant(-width))

    def over(lanes: Lanes, start: ir.Value, stop: ir.Value, total: Value) -> Value:
        def body(index: ir.Value, value: Value) -> list[Value]:
            return [step(lanes, builder.mul(index, constant(FLOAT_BYTES)), value)]

        return loop(builder, start, stop, lanes.width, [total], body)[0]

    lanes, one = Lanes(builder, width), Lanes(builder, 1)
    scalar = lanes.reduce(over(lanes, constant(0), whole, lanes.constant(first)), combine)
    total = over(one, whole, count, one.splat(scalar))
    return builder.extract_element(total.raw, ir.Constant(ir.IntType(32), 0))


@emitted(2, types.float32)
def row_maximum(builder: ir.IRBuilder, source: ir.Value, count: ir.Value) -> ir.Value:
    """The largest value of a row; -inf of an empty one."""

    def step(lanes: Lanes, at: ir.Value, value: Value) -> Value:
        return lanes.maximum(lanes.load(source, at), value)

    return _reduced(builder, count, float("-inf"), step, lambda lanes, a, b: lanes.maximum(a, b))


@emitted(4, types.float32)
def exp_row(
    builder: ir.IRBuilder, source: ir.Value, destination: ir.Value, largest: ir.Value, count: ir.Value
) -> ir.Value:
    """destination = exp(source - the number at address `largest`, which no source exceeds); gives the row's sum."""

    def step(lanes: Lanes, at: ir.Value, total: Value) -> Value:
        y = formulas.exp_negative(lanes, lanes.load(source, at) - lanes.broadcast(largest))
        lanes.store(y, destination, at)
        return total + y

    return _reduced(builder, count, 0.0, step, lambda _, a, b: a + b)


@emitted(2)
def zero_row(builder: ir.IRBuilder, destination: ir.Value, count: ir.Value) -> None:
    """destination = 0."""
    for_lanes(builder, count, lambda lanes, at: lanes.store(lanes.constant(0.0), destination, at))


@emitted(3)
def copy_row(builder: ir.IRBuilder, source: ir.Value, destination: ir.Value, count: ir.Value) -> None:
    """destination = source."""
    for_lanes(builder, count, lambda lanes, at: lanes.store(lanes.load(source, at), destination, at))


@emitted(2)
def put_address(builder: ir.IRBuilder, table: ir.Value, value: ir.Value) -> None:
    """Write one address into a table of addresses."""
    builder.store(value, builder.inttoptr(table, POINTER), align=8)


@emitted(1, types.int64)
def get_address(builder: ir.IRBuilder, table: ir.Value) -> ir.Value:
    """Read one address from a table of addresses."""
    return builder.load(builder.inttoptr(table, POINTER), typ=I64, align=8)
