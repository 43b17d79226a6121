r"""The halves of a Brownian path's intervals, with the bits of `tinyldm.diffusion.brownian`.

An interval takes as many normals as a latent has numbers, PyTorch's of a seed, and a step of a sampler some twenty
intervals: that is more than the rest of its arithmetic together.

Why it is fast: NumPy takes some sixty passes over the numbers, half of them in float64, for logarithm, sine and cosine,
and Python a call for each seed. Here a block of 16 words becomes 16 normals in registers, eight pairs at once, and the
seeds are shared out over the threads.

Error: none. The bits are those of PyTorch and torchsde (`tests/kernels/test_brownian.py`); where the processor has no
fused multiply-add, a product and a sum in float64 stand for one, as in NumPy, which for these numbers is the same.

Matsumoto and Nishimura 1998, doi:10.1145/272991.272995; Box and Muller 1958; Moshier 1989 for the polynomials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from llvmlite import ir

from tinyldm.kernels.buffers import empty
from tinyldm.kernels.compile import Images, Kernel, Native, Numbers, Row, Rows, Words, stage
from tinyldm.kernels.pool import run
from tinyldm.kernels.simd import F64, Lanes, Value, address, constant, emitted, loop, next_unit, target

BLOCK = 16  # normals that are made together
PAIRS = BLOCK // 2  # in a block: element j and element j + 8
BLOCK_BYTES = BLOCK * 4
STATE = 624  # words of the twister's state
WORK = 60_000, 50  # about as long as so many multiply-adds: to seed a stream, one of its normals

SQRT_HALF_BITS = int(np.float32(math.sqrt(0.5)).view(np.int32))
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
LOG_POLYNOMIAL = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
FOUR_OVER_PI = 1.27323954473516
PI_4 = sum(float(np.float32(part)) for part in (0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8))
SIN_POLYNOMIAL = -1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1
COS_POLYNOMIAL = 2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2


def _add(lanes: Lanes, a: Value, b: Value, c: Value) -> Value:
    """a * b + c, rounded once."""
    if target().fused:
        return lanes.fma(a, b, c)
    wide = [lanes.builder.fpext(x.raw, ir.VectorType(F64, lanes.width)) for x in (a, b, c)]
    total = lanes.builder.fadd(lanes.builder.fmul(*wide[:2]), wide[2])
    return Value(lanes, lanes.builder.fptrunc(total, lanes.type))


def _polynomial(lanes: Lanes, x: Value, coefficients: Sequence[float]) -> Value:
    """Horner's rule; coefficients highest first."""
    total = lanes.constant(coefficients[0])
    for c in coefficients[1:]:
        total = _add(lanes, total, x, lanes.constant(c))
    return total


def _integers(lanes: Lanes, value: int) -> ir.Constant:
    return ir.Constant(lanes.integers, [value] * lanes.width)


def _uniform(lanes: Lanes, words: ir.Value) -> Value:
    """The low 24 bits of the words at an address, over 2^24."""
    raw = lanes.builder.bitcast(lanes.load(words).raw, lanes.integers)
    low = lanes.builder.and_(raw, _integers(lanes, 2**24 - 1))
    return Value(lanes, lanes.builder.sitofp(low, lanes.type)) * 2.0**-24


def _log(lanes: Lanes, x: Value) -> Value:
    """`log_f32` of `tinyldm.diffusion.random`."""
    b = lanes.builder
    bits = b.bitcast(x.raw, lanes.integers)
    exponent = b.ashr(b.sub(bits, _integers(lanes, SQRT_HALF_BITS)), _integers(lanes, 23))
    f = lanes.from_bits(b.sub(bits, b.shl(exponent, _integers(lanes, 23)))) - 1.0
    e, square = Value(lanes, b.sitofp(exponent, lanes.type)), f * f
    y = _add(lanes, _polynomial(lanes, f, LOG_POLYNOMIAL) * f, square, e * LN2_LOW)
    return e * LN2_HIGH + (f + (y - square * 0.5))


def _sincos(lanes: Lanes, x: Value) -> tuple[Value, Value]:
    """`sincos_f32` of `tinyldm.diffusion.random`."""
    b, wide = lanes.builder, ir.VectorType(F64, lanes.width)
    j = b.fptosi((x * FOUR_OVER_PI).raw, lanes.integers)
    j = b.and_(b.add(j, _integers(lanes, 1)), _integers(lanes, ~1))
    turned = b.fmul(b.sitofp(j, wide), ir.Constant(wide, [PI_4] * lanes.width))
    r = Value(lanes, b.fptrunc(b.fsub(b.fpext(x.raw, wide), turned), lanes.type))
    square = r * r
    cos_r = _add(lanes, _polynomial(lanes, square, COS_POLYNOMIAL) * square, square, -(square * 0.5)) + 1.0
    sin_r = _add(lanes, _polynomial(lanes, square, SIN_POLYNOMIAL) * square, r, r)
    exchanged = b.icmp_signed("!=", b.and_(j, _integers(lanes, 2)), _integers(lanes, 0))
    found = []
    for one, other, quarter in ((sin_r, cos_r, j), (cos_r, sin_r, b.add(j, _integers(lanes, 2)))):
        sign = b.shl(b.and_(quarter, _integers(lanes, 4)), _integers(lanes, 29))
        found.append(lanes.from_bits(b.xor(b.bitcast(b.select(exchanged, other.raw, one.raw), lanes.integers), sign)))
    return found[0], found[1]


@emitted(3)
def box_muller(builder: ir.IRBuilder, words: ir.Value, normals: ir.Value, blocks: ir.Value) -> None:
    """normals = what PyTorch makes of so many blocks of 16 words."""
    lanes = Lanes(builder, PAIRS)

    def body(index: ir.Value) -> list[Value]:
        at = builder.mul(index, constant(BLOCK_BYTES))
        source, destination = builder.add(words, at), builder.add(normals, at)
        u1, u2 = _uniform(lanes, source), _uniform(lanes, builder.add(source, constant(BLOCK_BYTES // 2)))
        radius = lanes.square_root(_log(lanes, 1.0 - u1) * -2.0)
        sin, cos = _sincos(lanes, u2 * (2 * math.pi))
        # Adding 0, as the mean is, turns -0 into 0.
        lanes.store(radius * cos + 0.0, destination)
        lanes.store(radius * sin + 0.0, destination, BLOCK_BYTES // 2)
        return []

    loop(builder, constant(0), blocks, 1, [], body)


@stage
def begin(state: np.ndarray, seed: int) -> None:
    """The twister's first state: `init_genrand` of 2002."""
    word = np.uint32(seed)
    state[0] = word
    for i in range(1, STATE):
        word = np.uint32(np.uint32(1812433253) * np.uint32(word ^ (word >> np.uint32(30))) + np.uint32(i))
        state[i] = word


@stage
def twisted(word: np.uint32, following: np.uint32, other: np.uint32) -> np.uint32:
    """A word of the next state: of this one, the one after it, and the one 397 places on."""
    y = np.uint32((word & np.uint32(0x80000000)) | (following & np.uint32(0x7FFFFFFF)))
    return np.uint32(other ^ (y >> np.uint32(1)) ^ (np.uint32(0x9908B0DF) * (y & np.uint32(1))))


@stage
def twist(state: np.ndarray) -> None:
    """The twister's next state."""
    for k in range(227):
        state[k] = twisted(state[k], state[k + 1], state[k + 397])
    for k in range(227, 623):
        state[k] = twisted(state[k], state[k + 1], state[k - 227])
    state[623] = twisted(state[623], state[0], state[396])


@stage
def temper(state: np.ndarray, words: np.ndarray) -> None:
    """The words that a state gives, as many as there is room for."""
    for i in range(words.size):
        y = state[i]
        y = np.uint32(y ^ (y >> np.uint32(11)))
        y = np.uint32(y ^ ((y << np.uint32(7)) & np.uint32(0x9D2C5680)))
        y = np.uint32(y ^ ((y << np.uint32(15)) & np.uint32(0xEFC60000)))
        words[i] = np.uint32(y ^ (y >> np.uint32(18)))


@Kernel
def normals_kernel(counter: Numbers, units: int, scratch: Row, seeds: Words, normals: Rows) -> None:
    """Units: seeds, a row of normals each. Scratch: the twister's state, then the words of a row and of a block."""
    state, words = scratch[:STATE].view(np.uint32), scratch[STATE:].view(np.uint32)
    size = normals.shape[1]
    unit = next_unit(counter)
    while unit < units:
        begin(state, seeds[unit])
        for start in range(0, words.size, STATE):
            twist(state)
            temper(state, words[start : min(words.size, start + STATE)])
        row = address(normals) + unit * size * 4
        box_muller(address(words), row, size // BLOCK)
        if size % BLOCK:  # the last block is made anew
            box_muller(address(words) + size * 4, row + (size - BLOCK) * 4, 1)
        unit = next_unit(counter)


@Native
def halve(increment: Row, normals: Rows, scales: Rows, sides: Numbers, halves: Images) -> None:
    """halves = those of intervals of which each is a half of the one before."""
    for k in range(len(sides)):
        length, reciprocal, deviation = scales[k, 0], scales[k, 1], scales[k, 2]
        for i in range(increment.size):
            left = length * increment[i] * reciprocal + deviation * normals[k, i]
            halves[k, 0, i] = left
            halves[k, 1, i] = increment[i] - left
        increment = halves[k, sides[k]]


def brownian_halves(increment: np.ndarray, seeds: np.ndarray, scales: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """`brownian_halves` of `tinyldm.diffusion.brownian`, of 16 float32 values or more."""
    count, size = len(seeds), len(increment)
    normals, halves = empty((count, size)), empty((count, 2, size))
    work = count * (WORK[0] + WORK[1] * size)
    run(normals_kernel, count, work, STATE + size + BLOCK, np.ascontiguousarray(seeds, np.uint32), normals)
    scales, places = np.ascontiguousarray(scales, np.float32), np.array(sides, np.int64)
    halve.compiled(np.ascontiguousarray(increment, np.float32), normals, scales, places, halves)
    return halves
