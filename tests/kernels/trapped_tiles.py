"""The matrix unit for a processor that has none: its instructions trap, and the trap does what they say.

A processor that meets an instruction it does not know stops the process by the signal SIGILL. The handler here reads
the instruction's bytes and the registers, does what the unit would do, and lets the process go on behind it. So the
machine code that LLVM makes for the real unit runs as it is: which registers it names, where and how far apart it reads
and writes, when the unit is configured and released. What is wrong there (a register used before the configuration,
tiles of another shape, an instruction of another kind) ends the process, as it would where there is a unit.

Linux on x86-64. A processor that has the unit, and a system that does not grant it, trap only some of its instructions.

Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: how the instructions are encoded.
"""

from __future__ import annotations

import ctypes

import emulated_tiles
import numpy as np
from llvmlite import ir

SIGILL = 4
BEFORE = 5  # words of 8 bytes of a signal's context in front of the registers, which lie there in an order of their own
PLACES = tuple(BEFORE + place for place in (13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7))
RIP = BEFORE + 16
UNITS, WORDS = 64, 8 + 8 * 128  # threads that may have one; what it is in words: its thread, its state, eight tiles


def install():
    """Have the kernels take this for the unit, before anything of them is imported.

    Gives what must be kept: the handler, and the threads' units, `(UNITS, WORDS)`; the second word is 1 while one is
    configured.
    """
    import llvmlite.binding as llvm
    from numba.core import config

    config.CPU_FEATURES = llvm.get_host_cpu_features().flatten() + ",+amx-tile,+amx-bf16"
    emulated_tiles.pretend()
    units = np.zeros((UNITS, WORDS), np.int64)
    handler = _handler(units.ctypes.data)
    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    library.signal(SIGILL, handler.address)
    return handler, units


def _emitted():
    """Instructions that Python has no words for: memory by addresses, the thread, the product of three tiles."""
    from numba import types

    from tinyldm.kernels.simd import BYTE, I64, POINTER, Lanes, declared, emitted

    class Registers(emulated_tiles.EmulatedUnit):
        """The emulated arithmetic on tiles that are named by their addresses."""

        def __init__(self, builder):
            self.builder, self.lanes = builder, Lanes(builder, 16)

        def _row(self, tile, row):
            row = row if isinstance(row, ir.Value) else ir.Constant(I64, row)
            return self.builder.add(tile, self.builder.mul(row, ir.Constant(I64, 64)))

    @emitted(3)
    def multiply(builder, c, a, b):
        Registers(builder).multiply(c, a, b)

    @emitted(2)
    def copy_line(builder, source, destination):
        lanes = Lanes(builder, 16)
        lanes.store(lanes.load(source), destination)

    @emitted(1, types.int64)
    def byte(builder, place):
        return builder.zext(builder.load(builder.inttoptr(place, POINTER), typ=BYTE), I64)

    @emitted(1, types.int64)
    def is_mine(builder, place):
        """Whether the place holds this thread's address; it is taken where nobody's is there."""
        pointer = builder.inttoptr(place, POINTER)
        thread = builder.call(declared(builder.module, "llvm.thread.pointer.p0", POINTER, []), [])
        myself = builder.ptrtoint(thread, I64)
        before = builder.extract_value(builder.cmpxchg(pointer, ir.Constant(I64, 0), myself, "seq_cst"), 0)
        mine = builder.or_(*(builder.icmp_signed("==", before, who) for who in (ir.Constant(I64, 0), myself)))
        return builder.zext(mine, I64)

    return multiply, copy_line, byte, is_mine


def _handler(units):
    """The signal's handler, compiled, for units at that address."""
    import numba
    from numba import types

    from tinyldm.kernels.rows import get_address, put_address
    from tinyldm.kernels.tiles import CONFIGURATION

    multiply, copy_line, byte, is_mine = _emitted()
    wanted = tuple(np.frombuffer(CONFIGURATION, np.int64).tolist())

    @numba.njit
    def own_unit():
        for i in range(UNITS):
            if is_mine(units + i * WORDS * 8):
                return units + i * WORDS * 8
        return 0

    @numba.njit
    def memory(registers, at, modrm, prefix):
        """The address that an operand names without its index, its index, and how long it is said."""
        mode, base, index, length = modrm >> 6, modrm & 7, 0, 0
        if base == 4:
            sib, length = byte(at), 1
            base, number = sib & 7, (sib >> 3 & 7) + 8 * (~prefix >> 6 & 1)
            index = registers[PLACES[number]] << (sib >> 6) if number != 4 else 0
        shown = 1 if mode == 1 else 4 if mode == 2 or base == 5 else 0
        displacement = 0
        for i in range(shown):
            displacement += byte(at + length + i) << (8 * i)
        if shown and displacement >> (8 * shown - 1):
            displacement -= 1 << (8 * shown)
        address = displacement + (registers[PLACES[base + 8 * (~prefix >> 5 & 1)]] if mode or base != 5 else 0)
        if mode == 0 and base == 5 and modrm & 7 == 5:
            address += at + shown  # from the next instruction on
        return address, index, length + shown

    @numba.njit
    def done(unit, registers):
        """Do what the instruction says; how long it is, or 0 where the unit would not do it."""
        at = registers[RIP]
        prefix, more, code, modrm = byte(at + 1), byte(at + 2), byte(at + 3), byte(at + 4)
        if byte(at) != 0xC4 or prefix & 31 != 2 or more & 0x84:  # three bytes of VEX, the map 0F38, W 0, L 0
            return 0
        kind, third, tile, second = more & 3, ~more >> 3 & 15, modrm >> 3 & 7, modrm & 7
        state, tiles = unit + 8, unit + 64
        if code == 0x49 and kind == 0 and modrm < 0xC0:  # ldtilecfg
            place, index, length = memory(registers, at + 5, modrm, prefix)
            for i in range(8):
                if get_address(place + index + 8 * i) != wanted[i]:
                    return 0
            put_address(state, 1)
            return 5 + length
        if get_address(state) == 0:
            return 5 if code == 0x49 and modrm == 0xC0 and kind == 0 else 0
        if code == 0x49 and kind == 0 and modrm == 0xC0:  # tilerelease
            put_address(state, 0)
            return 5
        if code == 0x49 and kind == 3 and modrm & 0xC7 == 0xC0:  # tilezero
            for i in range(128):
                put_address(tiles + tile * 1024 + 8 * i, 0)
            return 5
        if code == 0x4B and kind >= 2 and modrm < 0xC0 and second == 4:  # tileloadd, tilestored
            place, pitch, length = memory(registers, at + 5, modrm, prefix)
            for row in range(16):
                inside, outside = tiles + tile * 1024 + row * 64, place + row * pitch
                if kind == 3:
                    copy_line(outside, inside)
                else:
                    copy_line(inside, outside)
            return 5 + length
        apart = third < 8 and tile != second and tile != third and second != third
        if code == 0x5C and kind == 2 and modrm >= 0xC0 and apart:  # tdpbf16ps
            multiply(tiles + tile * 1024, tiles + second * 1024, tiles + third * 1024)
            return 5
        return 0

    quit_by = ctypes.CDLL(None).signal
    quit_by.argtypes, quit_by.restype = [ctypes.c_int, ctypes.c_size_t], ctypes.c_size_t

    @numba.cfunc(types.void(types.int32, types.intp, types.CPointer(types.int64)))
    def handler(number, info, context):
        registers = numba.carray(context, BEFORE + 23)
        unit = own_unit()
        length = done(unit, registers) if unit else 0
        registers[RIP] += length
        if length == 0:
            quit_by(SIGILL, 0)  # the same instruction again, and nobody to handle it

    return handler
