"""Explicit vectors for Numba: the few instructions that every fast kernel here is written in.

A compiler turns a plain loop into vector instructions only when it can prove that nothing overlaps and that no sum
changes its order. The kernels do not hope for that: they say which vectors they want. `Lanes` emits LLVM instructions
on vectors of `width` float32 values while Numba compiles a kernel, and `Value` gives those vectors Python's
operators, so that a formula reads as a formula:

    y = x / (1 + lanes.exp(-x))

Emitting functions become Numba functions through `numba.extending.intrinsic`. Memory is named by byte addresses (plain
integers, see `address`): they cost nothing to pass and to offset.

All emitted arithmetic is ordinary IEEE float32 with fused multiply-add where it is asked for by name. Nothing may be
reassociated, so the same bits come out of every run, and of the vector body and of the one-lane tail of a loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinyldm.errors import InputError
from tinyldm.kernels.permission import permitted

F32, F64, I32, I64, BYTE = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64), ir.IntType(8)
I16 = ir.IntType(16)
POINTER = ir.PointerType()
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Target:
    """What the kernels are shaped by: float32 values in a vector, and the register tile of the matrix product."""

    name: str
    width: int  # float32 values in one vector register
    tile_heights: tuple[int, ...]  # rows of A that a register tile works on: the usual one first, then for the rest
    tile_vectors: int  # vectors of B columns that it works on
    fused: bool = True  # the processor has a fused multiply-add

    @property
    def tile_rows(self) -> int:
        """Rows of A that a register tile works on."""
        return self.tile_heights[0]

    @property
    def tile_columns(self) -> int:
        """Columns of B that a register tile works on."""
        return self.width * self.tile_vectors


# A tile must leave registers for its operands: rows * vectors + vectors + 1 is at most 32 (AVX-512, NEON) or 16.
TARGETS = {
    "avx512": Target("avx512", width=16, tile_heights=(14, 8, 4), tile_vectors=2),
    "avx2": Target("avx2", width=8, tile_heights=(6, 4, 2), tile_vectors=2),
    "neon": Target("neon", width=4, tile_heights=(8, 4), tile_vectors=2),
    "generic": Target("generic", width=4, tile_heights=(4, 2), tile_vectors=2, fused=False),
}


# What multiplies pairs of bfloat16 values: the matrix unit, a vector instruction, or nothing but widened values.
TILES, DOTS, WIDENED = "amx", "avx512bf16", "none"
UNITS = {TILES: "the matrix unit (AMX)", DOTS: "vectors of pairs (AVX-512 BF16)", WIDENED: "widened values"}


@cache
def target() -> Target:
    """The widest target this processor has, or the one that TINYLDM_SIMD names."""
    chosen = os.environ.get("TINYLDM_SIMD")
    if chosen in (TILES, DOTS):
        chosen = "avx512"
    if chosen:
        if chosen not in TARGETS:
            raise InputError(f"TINYLDM_SIMD {chosen!r} is unknown; known are {', '.join([*TARGETS, DOTS, TILES])}")
        return TARGETS[chosen]
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return TARGETS["avx512"]
    if features.get("avx2") and features.get("fma"):
        return TARGETS["avx2"]
    if features.get("neon") or llvm.get_process_triple().startswith(("aarch64", "arm64")):
        return TARGETS["neon"]
    return TARGETS["generic"]


@cache
def unit() -> str:
    """What multiplies bfloat16 values here: TILES, DOTS or WIDENED.

    The best that the processor has and the system grants; or what TINYLDM_SIMD names, where it is there.
    """
    chosen = os.environ.get("TINYLDM_SIMD")
    if target().name != "avx512" or chosen == "avx512":
        return WIDENED
    if chosen != DOTS and _has_tiles() and permitted():
        return TILES
    return DOTS if llvm.get_host_cpu_features().get("avx512bf16") else WIDENED


def _has_tiles() -> bool:
    features = llvm.get_host_cpu_features()
    return bool(features.get("amx-bf16") and features.get("amx-tile"))


def unit_in_words() -> str:
    """What multiplies bfloat16 values here; where the processor has a matrix unit and it is not that, why."""
    words = UNITS[unit()]
    if unit() == TILES or not _has_tiles():
        return words
    chosen = os.environ.get("TINYLDM_SIMD")
    why = f"TINYLDM_SIMD is {chosen}" if chosen and chosen != TILES else "the system does not grant it"
    return f"{words}, not {UNITS[TILES]}: {why}"


class Value:
    """A vector (or scalar) in the function being emitted, with operators."""

    def __init__(self, lanes: Lanes, raw: ir.Value) -> None:
        self.lanes, self.raw = lanes, raw

    def _wrap(self, other: Value | float) -> Value:
        return other if isinstance(other, Value) else self.lanes.constant(other)

    def __add__(self, other: Value | float) -> Value:
        return Value(self.lanes, self.lanes.builder.fadd(self.raw, self._wrap(other).raw))

    def __sub__(self, other: Value | float) -> Value:
        return Value(self.lanes, self.lanes.builder.fsub(self.raw, self._wrap(other).raw))

    def __mul__(self, other: Value | float) -> Value:
        return Value(self.lanes, self.lanes.builder.fmul(self.raw, self._wrap(other).raw))

    def __truediv__(self, other: Value | float) -> Value:
        return Value(self.lanes, self.lanes.builder.fdiv(self.raw, self._wrap(other).raw))

    def __neg__(self) -> Value:
        return Value(self.lanes, self.lanes.builder.fneg(self.raw))

    def __rsub__(self, other: float) -> Value:
        return self._wrap(other) - self

    def __rtruediv__(self, other: float) -> Value:
        return self._wrap(other) / self

    __radd__, __rmul__ = __add__, __mul__


class Lanes:
    """Emits instructions on vectors of `width` values of type `element` at the builder's position."""

    def __init__(self, builder: ir.IRBuilder, width: int, element: ir.Type = F32) -> None:
        self.builder, self.width, self.element = builder, width, element
        self.type, self.integers = ir.VectorType(element, width), ir.VectorType(I32, width)

    def constant(self, value: float) -> Value:
        """A number in every lane."""
        return Value(self, ir.Constant(self.type, [value] * self.width))

    def splat(self, scalar: ir.Value) -> Value:
        """The scalar in every lane."""
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        order = ir.Constant(ir.VectorType(I32, self.width), [0] * self.width)
        return Value(self, self.builder.shuffle_vector(first, undefined, order))

    def load(self, address: ir.Value, offset: int | ir.Value = 0) -> Value:
        """The `width` values at address + offset bytes."""
        return Value(self, self.builder.load(self._pointer(address, offset), typ=self.type, align=4))

    def load_bfloat16(self, address: ir.Value, offset: int | ir.Value = 0) -> Value:
        """The `width` bfloat16 values at address + offset bytes, as float32."""
        halves = ir.VectorType(ir.IntType(16), self.width)
        raw = self.builder.load(self._pointer(address, offset), typ=halves, align=2)
        return self.shifted_left(self.from_bits(self.builder.zext(raw, self.integers)), 16)

    def load_float16(self, address: ir.Value, offset: int | ir.Value = 0) -> Value:
        """The `width` float16 values at address + offset bytes, as float32.

        An exponent of e there is e + 112 here, all ones stay all ones; without an exponent it is a number of 2^-24.
        """
        builder, halves = self.builder, ir.VectorType(ir.IntType(16), self.width)

        def bits(value: int) -> ir.Constant:
            return ir.Constant(self.integers, [value] * self.width)

        raw = builder.zext(builder.load(self._pointer(address, offset), typ=halves, align=2), self.integers)
        exponent, magnitude = builder.and_(raw, bits(0x7C00)), builder.and_(raw, bits(0x7FFF))
        shifted = builder.add(builder.shl(magnitude, bits(13)), bits(112 << 23))
        beyond = builder.icmp_unsigned("==", exponent, bits(0x7C00))
        shifted = builder.select(beyond, builder.add(shifted, bits(112 << 23)), shifted)
        tiny = Value(self, builder.sitofp(magnitude, self.type)) * 2.0**-24
        small = builder.icmp_unsigned("==", exponent, bits(0))
        shifted = builder.select(small, builder.bitcast(tiny.raw, self.integers), shifted)
        sign = builder.shl(builder.and_(raw, bits(0x8000)), bits(16))
        return self.from_bits(builder.or_(shifted, sign))

    def broadcast(self, address: ir.Value, offset: int | ir.Value = 0) -> Value:
        """The one value at address + offset bytes, in every lane."""
        return self.splat(self.builder.load(self._pointer(address, offset), typ=self.element, align=4))

    def store(self, value: Value, address: ir.Value, offset: int | ir.Value = 0) -> None:
        """Write the lanes to address + offset bytes."""
        self.builder.store(value.raw, self._pointer(address, offset), align=4)

    def prefetch(self, address: ir.Value, offset: int | ir.Value = 0, near: int = 3) -> None:
        """Ask for the cache line at address + offset; harmless where nothing lies there.

        `near` is 3 for the level-1 cache, 2 for the level-2 cache.
        """
        function = declared(self.builder.module, "llvm.prefetch.p0", ir.VoidType(), [POINTER, I32, I32, I32])
        read, level, data = (ir.Constant(I32, value) for value in (0, near, 1))
        self.builder.call(function, [self._pointer(address, offset), read, level, data])

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once (twice where the processor has no such instruction)."""
        name = "llvm.fma" if target().fused else "llvm.fmuladd"
        return self._intrinsic(name, a, b, c)

    def dot_pairs(self, a: Value, b: Value, c: Value) -> Value:
        """c + a_0 b_0 + a_1 b_1 in each lane, where a and b hold two bfloat16 values each; needs DOTS."""
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        function = declared(self.builder.module, name, self.type, [self.type, self.integers, self.integers])
        operands = [self.builder.bitcast(x.raw, self.integers) for x in (a, b)]
        return Value(self, self.builder.call(function, [c.raw, *operands]))

    def nearest_bfloat16(self, a: Value) -> ir.Value:
        """The bits of each float32, the upper half rounded to the nearest bfloat16 and the lower half zero."""
        builder = self.builder

        def bits(value: int) -> ir.Constant:
            return ir.Constant(self.integers, [value] * self.width)

        whole = builder.bitcast(a.raw, self.integers)
        odd = builder.and_(builder.lshr(whole, bits(16)), bits(1))
        nearest = builder.add(whole, builder.add(odd, bits(0x7FFF)))
        quiet = builder.or_(whole, bits(0x400000))
        nearest = builder.select(builder.fcmp_unordered("uno", a.raw, a.raw), quiet, nearest)
        return builder.and_(nearest, bits(-0x10000))

    def narrow(self, a: Value) -> ir.Value:
        """Each float32 rounded to the nearest bfloat16, in 2 bytes.

        Where the processor multiplies pairs it has an instruction for that, which takes denormal numbers for zero as
        the products do.
        """
        builder, halves = self.builder, ir.VectorType(I16, self.width)
        if unit() != WIDENED and self.width == target().width:
            name = "llvm.x86.avx512bf16.cvtneps2bf16.512"
            return builder.call(declared(builder.module, name, halves, [self.type]), [a.raw])
        upper = builder.lshr(self.nearest_bfloat16(a), ir.Constant(self.integers, [16] * self.width))
        return builder.trunc(upper, halves)

    def pair(self, low: Value, high: Value) -> Value:
        """Both rounded to bfloat16, two in each lane."""
        order = [index for i in range(self.width) for index in (i, self.width + i)]
        mixed = self.builder.shuffle_vector(
            self.narrow(low), self.narrow(high), ir.Constant(ir.VectorType(I32, len(order)), order)
        )
        return self.from_bits(self.builder.bitcast(mixed, self.integers))

    def from_bits(self, bits: ir.Value) -> Value:
        """The float32 values of these bits."""
        return Value(self, self.builder.bitcast(bits, self.type))

    def maximum(self, a: Value, b: Value) -> Value:
        """The larger one, lane by lane."""
        return self.where(">", a, b, a, b)

    def minimum(self, a: Value, b: Value) -> Value:
        """The smaller one, lane by lane."""
        return self.where("<", a, b, a, b)

    def where(self, relation: str, a: Value, b: Value, yes: Value, no: Value) -> Value:
        """yes where `a relation b`, else no."""
        return Value(self, self.builder.select(self.builder.fcmp_ordered(relation, a.raw, b.raw), yes.raw, no.raw))

    def magnitude(self, a: Value) -> Value:
        """The absolute value."""
        return self._intrinsic("llvm.fabs", a)

    def square_root(self, a: Value) -> Value:
        """The square root, rounded as IEEE wants it."""
        return self._intrinsic("llvm.sqrt", a)

    def shifted_left(self, a: Value, bits: int) -> Value:
        """The bits of each float32, moved up as those of an integer."""
        whole = self.builder.bitcast(a.raw, self.integers)
        return self.from_bits(self.builder.shl(whole, ir.Constant(self.integers, [bits] * self.width)))

    def widen(self, a: Value, part: int, parts: int) -> Value:
        """One of `parts` equal runs of lanes of `a`, as float64."""
        count = a.lanes.width // parts
        order = ir.Constant(ir.VectorType(I32, count), [part * count + i for i in range(count)])
        run = self.builder.shuffle_vector(a.raw, ir.Constant(a.lanes.type, ir.Undefined), order)
        wide = Lanes(self.builder, count, F64)
        return Value(wide, self.builder.fpext(run, wide.type))

    def reduce(self, a: Value, combine: Callable[[Lanes, Value, Value], Value]) -> ir.Value:
        """The lanes combined into one scalar, by halves, always in the same order."""
        lanes, raw = self, a.raw
        while lanes.width > 1:
            half = lanes.width // 2
            smaller = Lanes(self.builder, half, self.element)
            pieces = []
            for start in (0, half):
                order = ir.Constant(ir.VectorType(I32, half), [start + i for i in range(half)])
                run = self.builder.shuffle_vector(raw, ir.Constant(lanes.type, ir.Undefined), order)
                pieces.append(Value(smaller, run))
            lanes, raw = smaller, combine(smaller, *pieces).raw
        return self.builder.extract_element(raw, ir.Constant(I32, 0))

    def _pointer(self, address: ir.Value, offset: int | ir.Value) -> ir.Value:
        pointer = self.builder.inttoptr(address, POINTER) if address.type == I64 else address
        if isinstance(offset, int):
            if offset == 0:
                return pointer
            offset = ir.Constant(I64, offset)
        return self.builder.gep(pointer, [offset], source_etype=BYTE)

    def _intrinsic(self, name: str, *arguments: Value) -> Value:
        suffix = f".v{self.width}f{32 if self.element == F32 else 64}"
        function = declared(self.builder.module, name + suffix, self.type, [self.type] * len(arguments))
        return Value(self, self.builder.call(function, [a.raw for a in arguments]))


def declared(module: ir.Module, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    """The function of that name, declared once a module."""
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)


def constant(value: int) -> ir.Constant:
    """A 64-bit integer."""
    return ir.Constant(I64, value)


def loop(
    builder: ir.IRBuilder,
    start: ir.Value,
    stop: ir.Value,
    step: int,
    carried: Sequence[Value],
    body: Callable[..., Sequence[Value]],
) -> list[Value]:
    """Emit `for i in range(start, stop, step): carried = body(i, *carried)`; give the last carried values."""
    entry = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("loop", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(start, entry)
    state = []
    for value in carried:
        phi = builder.phi(value.raw.type)
        phi.add_incoming(value.raw, entry)
        state.append(Value(value.lanes, phi))
    builder.cbranch(builder.icmp_signed("<", index, stop), inside, after)
    builder.position_at_end(inside)
    updated = list(body(index, *state))
    index.add_incoming(builder.add(index, constant(step)), builder.block)
    for value, new in zip(state, updated, strict=True):
        value.raw.add_incoming(new.raw, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return state


def repeat(builder: ir.IRBuilder, start: ir.Value, stop: ir.Value, step: int, body: Callable[[ir.Value], None]) -> None:
    """Emit `for i in range(start, stop, step): body(i)`."""

    def inside(index: ir.Value) -> list[Value]:
        body(index)
        return []

    loop(builder, start, stop, step, [], inside)


def for_lanes(builder: ir.IRBuilder, count: ir.Value, body: Callable[[Lanes, ir.Value], None]) -> None:
    """Emit `body(lanes, byte offset)` for `count` float32 values: whole vectors first, then one value at a time."""
    width = target().width
    whole = builder.and_(count, constant(-width))

    def run(lanes: Lanes, start: ir.Value, stop: ir.Value) -> None:
        repeat(builder, start, stop, lanes.width, lambda i: body(lanes, builder.mul(i, constant(FLOAT_BYTES))))

    run(Lanes(builder, width), constant(0), whole)
    run(Lanes(builder, 1), whole, count)


def emitted_function(module: ir.Module, emit: Callable[..., Any], arguments: int, returned: ir.Type) -> ir.Function:
    """The instructions of `emit` as a function of the module, made once: less to compile than a copy at every call."""
    name = f"tinyldm.{emit.__name__}"
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(returned, [I64] * arguments), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        function.attributes.add("nounwind")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        raw = emit(builder, *function.args)
        builder.ret_void() if raw is None else builder.ret(raw)
    return function


def emitted(arguments: int, result: Any = types.void) -> Callable[[Callable[..., Any]], Any]:
    """Make a Numba function of int64 arguments out of `emit(builder, *arguments)`, which emits its instructions."""

    def decorate(emit: Callable[..., Any]) -> Any:
        names = ", ".join(f"a{i}" for i in range(arguments))

        def typed(*_: Any) -> tuple[Any, Callable[..., Any]]:
            def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[ir.Value]) -> Any:
                returned = ir.VoidType() if result is types.void else context.get_value_type(result)
                raw = builder.call(emitted_function(builder.module, emit, arguments, returned), values)
                return context.get_dummy_value() if result is types.void else raw

            return result(*[types.int64] * arguments), generate

        # Numba reads the parameter list of the typing function, so it must have one parameter an argument.
        scope: dict[str, Any] = {"typed": typed}
        exec(f"def {emit.__name__}(context, {names}): return typed({names})", scope)
        function = scope[emit.__name__]
        function.__doc__ = emit.__doc__
        return intrinsic(function)

    return decorate


def _on_array(emit: Callable[[ir.IRBuilder, ir.Value], ir.Value]) -> Callable[[np.ndarray], int]:
    """Make a Numba function of one array out of `emit(builder, pointer to its first element)`."""

    def typed(context: Any, array: Any) -> tuple[Any, Callable[..., Any]]:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[ir.Value]) -> ir.Value:
            return emit(builder, context.make_array(signature.args[0])(context, builder, values[0]).data)

        return types.int64(array), generate

    return cast(Callable[[np.ndarray], int], intrinsic(typed))


@_on_array
def address(builder: ir.IRBuilder, data: ir.Value) -> ir.Value:
    """The byte address of an array's first element."""
    return builder.ptrtoint(data, I64)


@_on_array
def next_unit(builder: ir.IRBuilder, data: ir.Value) -> ir.Value:
    """Take the next number from a counter that several threads share, an array of one number: one atomic add."""
    return builder.atomic_rmw("add", data, constant(1), "monotonic")


def pause(builder: ir.IRBuilder) -> None:
    """Between two looks at the same place: leaves the core to its other thread, and saves power."""
    if llvm.get_process_triple().startswith("x86_64"):
        builder.call(declared(builder.module, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
