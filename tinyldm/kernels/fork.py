"""One kernel on several threads at once, without Python in between.

A helper is a thread that waits, in machine code, for a job: a function and the arguments that the caller has. The two
meet in a few numbers in memory, the crew's **board**:

    board[STATE]      how many jobs there have been, and how many places of the last one are open
    board[FUNCTION]   what a helper calls: function(arguments, number of the place)
    board[ARGUMENTS]  where the arguments lie: on the board itself
    board[JOINED]     how many helpers took part, when the caller has done its own
    board[FINISHED]   how many helpers have come back

The caller writes function and arguments, then the state with open places; does its part of the job; closes the places
that nobody took; and waits for those that were taken. A helper takes a place by one atomic compare-and-exchange of the
state, so it can never enter a job that is closed already.

Why: through Python, two threads would want the interpreter's lock at once at the start of each job, and again at its
end; the one that must be woken for it comes as late as a small product takes.
"""

from __future__ import annotations

import os
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyldm.kernels.simd import BYTE, I32, I64, POINTER, constant, emitted, emitted_function, pause

STATE, FUNCTION, ARGUMENTS, JOINED, FINISHED = 0, 8, 9, 10, 16  # in 8 bytes each, on cache lines of their own
FIRST_ARGUMENT = 24
BOARD = 512  # numbers of 8 bytes
PATIENCE = 4096  # looks at a place before the caller lets others run
PART = ir.FunctionType(ir.VoidType(), [I64, I64])  # address of the arguments, number of the place
OPEN = 255  # the bits of the state that count open places; the others count jobs


def _place(builder: ir.IRBuilder, board: ir.Value, index: int) -> ir.Value:
    return builder.inttoptr(builder.add(board, constant(8 * index)), POINTER)


def _wait(builder: ir.IRBuilder, place: ir.Value, wanted: ir.Value) -> None:
    """Look at `place` until it holds `wanted`; now and then, let other threads of this processor run."""
    entry = builder.block
    names = ("look", "again", "pause", "yield", "seen")
    head, again, shortly, longer, after = (builder.append_basic_block(name) for name in names)
    builder.branch(head)
    builder.position_at_end(head)
    looks = builder.phi(I64)
    looks.add_incoming(constant(0), entry)
    there = builder.icmp_signed("==", builder.load_atomic(place, "acquire", 8, typ=I64), wanted)
    builder.cbranch(there, after, again)
    builder.position_at_end(again)
    more = builder.add(looks, constant(1))
    builder.cbranch(builder.icmp_signed("<", more, constant(PATIENCE)), shortly, longer)
    builder.position_at_end(shortly)
    pause(builder)
    looks.add_incoming(more, shortly)
    builder.branch(head)
    builder.position_at_end(longer)
    if os.name == "posix":
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, []), "sched_yield")
        builder.call(function, [])
    looks.add_incoming(constant(0), longer)
    builder.branch(head)
    builder.position_at_end(after)


def share(builder: ir.IRBuilder, board: ir.Value, function: ir.Value, helpers: ir.Value) -> None:
    """Offer the job to so many helpers, do the caller's part, and wait for theirs.

    The wait ends when they have finished and not before, whatever signals come: they work on the caller's arrays.
    """
    state = _place(builder, board, STATE)
    arguments = builder.add(board, constant(8 * FIRST_ARGUMENT))
    builder.store(function, _place(builder, board, FUNCTION))
    builder.store(arguments, _place(builder, board, ARGUMENTS))
    builder.store(constant(0), _place(builder, board, FINISHED))
    jobs = builder.add(builder.or_(builder.load(state, typ=I64), constant(OPEN)), constant(1))
    builder.atomic_rmw("xchg", state, builder.or_(jobs, helpers), "release")

    builder.call(builder.inttoptr(function, PART.as_pointer()), [arguments, constant(0)])

    before = builder.atomic_rmw("and", state, constant(~OPEN), "acq_rel")
    joined = builder.sub(helpers, builder.and_(before, constant(OPEN)))
    builder.store(joined, _place(builder, board, JOINED))
    _wait(builder, _place(builder, board, FINISHED), joined)


@emitted(3, types.int64)
def serve(builder: ir.IRBuilder, board: ir.Value, seen: ir.Value, looks: ir.Value) -> ir.Value:
    """Take part in one job after the other; return the state when none came for `looks` looks."""
    state = _place(builder, board, STATE)
    entry = builder.block
    names = ("head", "idle", "rest", "changed", "enter", "job", "passed", "done")
    head, idle, rest, changed, enter, job, passed, done = (builder.append_basic_block(name) for name in names)
    builder.branch(head)

    builder.position_at_end(head)
    known, looked = builder.phi(I64), builder.phi(I64)
    known.add_incoming(seen, entry)
    looked.add_incoming(constant(0), entry)
    now = builder.load_atomic(state, "acquire", 8, typ=I64)
    builder.cbranch(builder.icmp_signed("==", now, known), idle, changed)

    builder.position_at_end(idle)
    builder.cbranch(builder.icmp_signed(">=", looked, looks), done, rest)
    builder.position_at_end(rest)
    pause(builder)
    known.add_incoming(known, rest)
    looked.add_incoming(builder.add(looked, constant(1)), rest)
    builder.branch(head)

    builder.position_at_end(changed)
    number = builder.and_(now, constant(OPEN))  # of the place to take: no other helper of this job has the same
    builder.cbranch(builder.icmp_signed("!=", number, constant(0)), enter, passed)
    builder.position_at_end(enter)
    exchange = builder.cmpxchg(state, now, builder.sub(now, constant(1)), "acq_rel", "acquire")
    builder.cbranch(builder.extract_value(exchange, 1), job, head)
    known.add_incoming(known, enter)
    looked.add_incoming(constant(0), enter)

    builder.position_at_end(job)
    function = builder.inttoptr(builder.load(_place(builder, board, FUNCTION), typ=I64), PART.as_pointer())
    builder.call(function, [builder.load(_place(builder, board, ARGUMENTS), typ=I64), number])
    builder.atomic_rmw("add", _place(builder, board, FINISHED), constant(1), "acq_rel")
    known.add_incoming(builder.sub(now, constant(1)), builder.block)
    looked.add_incoming(constant(0), builder.block)
    builder.branch(head)

    builder.position_at_end(passed)
    builder.branch(head)
    known.add_incoming(now, passed)
    looked.add_incoming(constant(0), passed)

    builder.position_at_end(done)
    return known


@intrinsic
def fork(context, kernel, board, helpers, arguments):  # type: ignore[no-untyped-def]
    """Call `kernel(*arguments)` here and on up to so many helpers; argument 2, the scratch memory, is each one's own.

    The scratch array is the first thread's; the others' follow it. Without helpers, a plain call.
    """

    def generate(target: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        _, board, helpers, packed = values
        kinds = tuple(signature.args[3])
        dispatcher = signature.args[0].dispatcher
        dispatcher.compile(kinds)
        compiled = dispatcher.overloads[kinds]
        target.active_code_library.add_linking_library(compiled.library)

        part = ir.Function(builder.module, PART, "tinyldm.part")
        part.linkage = "internal"
        inside = ir.IRBuilder(part.append_basic_block("entry"))
        place, number = part.args
        unpacked = cgutils.unpack_tuple(
            inside, inside.load(inside.inttoptr(place, POINTER), typ=packed.type, align=8), len(kinds)
        )
        scratch = target.make_array(kinds[2])(target, inside, unpacked[2])
        offset = inside.mul(inside.mul(number, scratch.nitems), scratch.itemsize)
        scratch.data = inside.gep(scratch.data, [offset], source_etype=BYTE)
        unpacked[2] = scratch._getvalue()
        target.call_internal_no_propagate(inside, compiled.fndesc, compiled.signature, unpacked)
        inside.ret_void()

        builder.store(packed, builder.inttoptr(builder.add(board, constant(8 * FIRST_ARGUMENT)), POINTER), align=8)
        size = target.get_abi_sizeof(packed.type)
        assert size <= 8 * (BOARD - FIRST_ARGUMENT), f"{dispatcher}: arguments of {size} bytes"
        function = emitted_function(builder.module, share, 3, ir.VoidType())
        builder.call(function, [board, builder.ptrtoint(part, I64), helpers])
        return target.get_dummy_value()

    return types.void(kernel, types.int64, types.int64, arguments), generate
