r"""Winograd's convolution F(4×4, 3×3): 36 products for 16 outputs of a 3×3 filter, where the direct sum takes 144.

A 1-D convolution of 6 values with 3 taps is a product of polynomials; evaluated at 5 points and at infinity, it takes 6
products instead of 12 for its 4 outputs (Toom and Cook). Nested in both directions, for every channel,

$$y = A^{\mathsf T} \Big[ \sum_c (G\, g_c\, G^{\mathsf T}) \odot (B^{\mathsf T} d_c\, B) \Big] A,$$

with $d$ a 6×6 piece of the image, $g$ the filter, $y$ 4×4 outputs. The sums over channels, one for each of the 36
places, are matrix products (tiles × channels) · (channels × filters) and run through the register tile of `tile.py`.

Why it is fast: a quarter of the multiply-adds, and no large array between the steps. A thread takes a region of tiles
through all of them: the region's pixels are gathered into a patch with its border of zeros (normalised, put through
SiLU, or enlarged on the way: what comes before the convolution costs no pass of its own), transformed, multiplied,
transformed back, and finished with bias, time shift and residual.

**Points.** The textbook's 0, ±1, ±2 lose two digits. With 0, ±11/16, ±3/2, ∞ the intermediate values keep nearly
equal sizes; the matrices are built here from exact fractions, and those of the image and of the output are exact in
float32. `tests/kernels/test_accuracy.py` measures the RMS error against float64: about twice that of our direct sum,
and three times that of the direct sums of other libraries at their best.

Error: the transforms mix the values of a piece and of a filter, so any of them may bring the error of the largest: at
most (192 + K / 192 + 34) * 2^-24 * K * max |x| max |w|, K = 9 C_in, which `tests/kernels/test_properties.py` checks.

**Memory.** Transformed filters are four times as large as the filters, so none are kept: each panel of them is
transformed just before it is used, a few percent of arithmetic for three quarters of the memory and its traffic.

Lavin and Gray 2015, arXiv 1509.09308; Barabasz et al. 2018, "Error analysis and improving the accuracy of Winograd
convolution", arXiv 1803.10986.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from llvmlite import ir

from tinyldm.kernels.buffers import empty
from tinyldm.kernels.compile import Kernel, Numbers, Panels, Row, Rows, Stage, stage
from tinyldm.kernels.matmul import NO_RESIDUAL, TILE_ROWS, ceil_div, even_blocks
from tinyldm.kernels.packing import FLOAT32, HALVES, ROW_BYTES, TILE_COLUMNS, PackedWeight
from tinyldm.kernels.pool import run, threads
from tinyldm.kernels.rounding import round_row
from tinyldm.kernels.rows import NONE, SILU, WITH_RESIDUAL, affine_row, copy_row, finish_row, put_address, zero_row
from tinyldm.kernels.simd import FLOAT_BYTES, Lanes, Value, address, constant, emitted, next_unit, repeat, target
from tinyldm.kernels.tile import multiply_rows, tile_rows_of

Matrix = tuple[tuple[Fraction, ...], ...]

OUTPUTS, TAPS = 4, 3  # F(4, 3), in each direction
SIDE = OUTPUTS + TAPS - 1  # of a piece of the image
PLACES = SIDE * SIDE
POINTS = (Fraction(0), Fraction(11, 16), Fraction(-11, 16), Fraction(3, 2), Fraction(-3, 2))


def toom_cook(points: Sequence[Fraction], outputs: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """A^T, G and B^T of F(outputs, taps) for `outputs + taps - 2` points and infinity, exactly.

    Rows of B^T are the coefficients of the polynomials that vanish at all points but one; G evaluates the filter at
    a point and divides by what that polynomial is there; A^T collects the powers.
    """

    def product(roots: Sequence[Fraction]) -> list[Fraction]:  # coefficients of prod (x - root), lowest first
        total = [Fraction(1)]
        for root in roots:
            total = [high - root * low for high, low in zip([Fraction(0), *total], [*total, Fraction(0)], strict=True)]
        return total

    side = outputs + taps - 1
    a_t = [[p**i for p in points] + [Fraction(int(i == outputs - 1))] for i in range(outputs)]
    g, b_t = [], []
    for j, p in enumerate(points):
        others = [q for k, q in enumerate(points) if k != j]
        value = math.prod((p - q for q in others), start=Fraction(1))
        g.append([p**i / value for i in range(taps)])
        b_t.append([*product(others), Fraction(0)])
    g.append([Fraction(int(i == taps - 1)) for i in range(taps)])
    b_t.append(product(points))
    assert len(b_t) == side
    return tuple(map(tuple, a_t)), tuple(map(tuple, g)), tuple(map(tuple, b_t))


A_T, G, B_T = toom_cook(POINTS, OUTPUTS, TAPS)


# The transforms, on vectors of channels ----------------------------------------------------------------------------


def weighted_sum(lanes: Lanes, coefficients: Sequence[Fraction], values: Sequence[Value]) -> Value:
    """Sum of coefficient * value, without the zeros."""
    total: Value | None = None
    for c, value in sorted(zip(coefficients, values, strict=True), key=lambda pair: abs(pair[0]) != 1):
        if c == 0:
            continue
        if total is None:
            total = value if c == 1 else -value if c == -1 else value * float(c)
        elif abs(c) == 1:
            total = total + value if c == 1 else total - value
        else:
            total = lanes.fma(value, lanes.constant(float(c)), total)
    assert total is not None, "a sum of zeros alone"
    return total


def transform_rows(lanes: Lanes, matrix: Matrix, values: Sequence[Value]) -> list[Value]:
    """matrix @ values. The rows of p and -p differ in the sign of odd powers only: two half sums make both."""
    results: dict[int, Value] = {}
    for j, row in enumerate(matrix):
        if j in results:
            continue
        mirror = tuple(-c if i % 2 else c for i, c in enumerate(row))
        if mirror != row and mirror in matrix[j + 1 :]:
            even = weighted_sum(lanes, row[0::2], values[0::2])
            odd = weighted_sum(lanes, row[1::2], values[1::2])
            results[j], results[matrix.index(mirror)] = even + odd, even - odd
        else:
            results[j] = weighted_sum(lanes, row, values)
    return [results[j] for j in range(len(matrix))]


def transform_columns(lanes: Lanes, matrix: Matrix, values: Sequence[Value]) -> list[Value]:
    """matrix @ values. Here the columns of p and -p mirror: even rows see their sum, odd rows their difference."""
    columns = list(zip(*matrix, strict=True))
    even: list[tuple[Value, tuple[Fraction, ...]]] = []
    odd: list[tuple[Value, tuple[Fraction, ...]]] = []
    done: set[int] = set()
    for j, column in enumerate(columns):
        if j in done:
            continue
        mirror = tuple(-c if i % 2 else c for i, c in enumerate(column))
        if mirror != column and mirror in columns[j + 1 :]:
            k = columns.index(mirror)
            done.add(k)
            even.append((values[j] + values[k], column))
            odd.append((values[j] - values[k], column))
        else:
            even.append((values[j], column))
            odd.append((values[j], column))
    return [
        weighted_sum(lanes, [column[i] for _, column in terms], [value for value, _ in terms])
        for i, terms in enumerate([even, odd] * (len(matrix) // 2))
    ]


Transform = Callable[[Lanes, Matrix, Sequence[Value]], list[Value]]


def _nested(lanes: Lanes, transform: Transform, matrix: Matrix, grid: Sequence[Sequence[Value]]) -> list[list[Value]]:
    """matrix @ grid @ matrix^T."""
    first = [transform(lanes, matrix, column) for column in zip(*grid, strict=True)]
    return [transform(lanes, matrix, row) for row in zip(*first, strict=True)]


def _transformed(
    builder: ir.IRBuilder,
    count: ir.Value,
    transform: Transform,
    matrix: Matrix,
    side: int,
    read: Callable[[Lanes, ir.Value, int, int], Value],
    write: Callable[[Lanes, Value, ir.Value, int, int], None],
) -> None:
    """Emit matrix @ grid @ matrix^T for `count` channels, a multiple of the width; grids have `side` rows and columns.

    `read(lanes, byte offset, row, column)` gives a value of the grid, `write(lanes, value, byte offset, row, column)`
    takes one of the result.
    """
    lanes = Lanes(builder, target().width)

    def body(index: ir.Value) -> None:
        at = builder.mul(index, constant(FLOAT_BYTES))
        grid = [[read(lanes, at, r, c) for c in range(side)] for r in range(side)]
        for r, values in enumerate(_nested(lanes, transform, matrix, grid)):
            for c, value in enumerate(values):
                write(lanes, value, at, r, c)

    repeat(builder, constant(0), count, lanes.width, body)


@emitted(6)
def transform_input(
    builder: ir.IRBuilder,
    patch: ir.Value,
    row_stride: ir.Value,
    pixel_stride: ir.Value,
    v: ir.Value,
    place_stride: ir.Value,
    count: ir.Value,
) -> None:
    """V = B^T d B for `count` channels of one tile; strides in bytes."""

    def read(lanes: Lanes, at: ir.Value, r: int, c: int) -> Value:
        row = builder.add(builder.add(patch, at), builder.mul(row_stride, constant(r)))
        return lanes.load(row, builder.mul(pixel_stride, constant(c)))

    def write(lanes: Lanes, value: Value, at: ir.Value, r: int, c: int) -> None:
        lanes.store(value, builder.add(v, at), builder.mul(place_stride, constant(r * SIDE + c)))

    _transformed(builder, count, transform_rows, B_T, SIDE, read, write)


@emitted(5)
def transform_output(
    builder: ir.IRBuilder,
    m: ir.Value,
    place_stride: ir.Value,
    y: ir.Value,
    pixel_stride: ir.Value,
    count: ir.Value,
) -> None:
    """y = A^T M A for `count` channels of one tile: 16 pixels, one after the other."""

    def read(lanes: Lanes, at: ir.Value, r: int, c: int) -> Value:
        return lanes.load(builder.add(m, at), builder.mul(place_stride, constant(r * SIDE + c)))

    def write(lanes: Lanes, value: Value, at: ir.Value, r: int, c: int) -> None:
        lanes.store(value, builder.add(y, at), builder.mul(pixel_stride, constant(r * OUTPUTS + c)))

    _transformed(builder, count, transform_columns, A_T, SIDE, read, write)


@emitted(5)
def transform_filters(builder: ir.IRBuilder, *arguments: ir.Value) -> None:
    """U = G g G^T of packed filters (channels in × a panel's filters).

    The arguments: the address of the filters, the bytes from tap to tap, the address of U, the bytes from place to
    place of it, and how many neighbouring values of the filters.
    """
    _transform_filters(builder, False, *arguments)


@emitted(5)
def transform_halves(builder: ir.IRBuilder, *arguments: ir.Value) -> None:
    """The same of filters in bfloat16."""
    _transform_filters(builder, True, *arguments)


def _transform_filters(
    builder: ir.IRBuilder,
    halves: bool,
    filters: ir.Value,
    tap_stride: ir.Value,
    u: ir.Value,
    place_stride: ir.Value,
    count: ir.Value,
) -> None:
    def read(lanes: Lanes, at: ir.Value, r: int, c: int) -> Value:
        tap = builder.mul(tap_stride, constant(r * TAPS + c))
        if halves:
            return lanes.load_bfloat16(builder.add(filters, builder.lshr(at, constant(1))), tap)
        return lanes.load(builder.add(filters, at), tap)

    def write(lanes: Lanes, value: Value, at: ir.Value, r: int, c: int) -> None:
        lanes.store(value, builder.add(u, at), builder.mul(place_stride, constant(r * SIDE + c)))

    _transformed(builder, count, transform_rows, G, TAPS, read, write)


# The kernel ----------------------------------------------------------------------------------------------------------

VECTOR = target().width


class View(NamedTuple):
    """How the image is read: as if it were height × width pixels large (nearest neighbours)."""

    height: int
    width: int
    top: int  # rows of zeros around it
    left: int


class Region(NamedTuple):
    """What a thread takes through all steps: so many tiles, channels at a time, and columns of the result."""

    samples: int
    tiles_h: int
    tiles_w: int
    depth: int
    columns: int


class Memory(NamedTuple):
    """A thread's own memory, by addresses; then bytes from place to place of the 36, and from pixel to pixel.

    The slabs of a tile begin at addresses that fall into different sets of the cache.
    """

    patch: int
    v: int  # the transformed pieces
    m: int  # the sums
    u: int  # the transformed filters of a panel
    out: int  # the 16 pixels of a tile
    table: int  # the addresses of the tiles in `v`
    v_place: int
    m_place: int
    u_place: int
    pixel: int
    patch_row: int


@stage
def _memory(scratch: np.ndarray, region: Region) -> Memory:
    most = (region.samples * region.tiles_h * region.tiles_w + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    pixel = region.depth * 4
    patch_row = (region.tiles_w * OUTPUTS + 2) * pixel
    v_place = (most * pixel // 64 | 1) * 64 + 128
    m_place = (most * ROW_BYTES // 64 | 1) * 64
    u_place = (region.depth * ROW_BYTES // 64 | 1) * 64
    patch = address(scratch)
    v = patch + region.samples * (region.tiles_h * OUTPUTS + 2) * patch_row
    m = v + PLACES * v_place
    u = m + region.columns // TILE_COLUMNS * PLACES * m_place
    out = u + PLACES * u_place
    table = out + OUTPUTS * OUTPUTS * region.columns * 4
    for i in range(most):
        put_address(table + i * 8, v + i * pixel)
    return Memory(patch, v, m, u, out, table, v_place, m_place, u_place, pixel, patch_row)


def gathering(form: int) -> Stage:
    """The stage that gathers pixels, for filters of that form: where they are bfloat16, so are the pixels rounded."""

    @stage
    def gather(
        x: np.ndarray, gain: np.ndarray, shift: np.ndarray, view: View, part: Region, memory: Memory, sample0: int,
        y0: int, x0: int, k0: int,
    ) -> None:  # fmt: skip
        """The patch: pixels with their border, `part.depth` channels of each, ready for the transform.

        Where there are a gain and a shift, a pixel is multiplied, shifted and put through SiLU on the way.
        """
        _, height, width, c_in = x.shape
        padded = (part.depth + VECTOR - 1) // VECTOR * VECTOR
        patch_h = part.tiles_h * OUTPUTS + 2
        for line in range(part.samples * patch_h):
            sample, vy = sample0 + line // patch_h, y0 + line % patch_h - view.top
            to = memory.patch + line * memory.patch_row
            for vx in range(x0 - view.left, x0 - view.left + part.tiles_w * OUTPUTS + 2):
                filled = 0
                if 0 <= vy < view.height and 0 <= vx < view.width:
                    iy, ix = vy, vx
                    if view.height != height or view.width != width:
                        iy, ix = vy * height // view.height, vx * width // view.width
                    source = address(x) + (((sample * height + iy) * width + ix) * c_in + k0) * 4
                    filled = part.depth
                    if gain.shape[0] == 0:
                        copy_row(source, to, filled)
                    else:
                        at = (sample * c_in + k0) * 4
                        affine_row(source, to, address(gain) + at, address(shift) + at, filled, SILU)
                    if form == HALVES:
                        round_row(to, to, filled)
                zero_row(to + filled * 4, padded - filled)
                to += memory.pixel

    return gather


def multiplying(form: int) -> Stage:
    """The stage that transforms and multiplies."""

    @stage
    def multiply(filters: np.ndarray, part: Region, memory: Memory, panel0: int, panels: int, k0: int) -> None:
        """Transform the patch's tiles and each panel's filters, and add their products to the sums of 36 places."""
        c_in = filters.shape[2]
        padded = (part.depth + VECTOR - 1) // VECTOR * VECTOR
        tiles = part.samples * part.tiles_h * part.tiles_w
        for t in range(tiles):
            line, j = t // part.tiles_w, t % part.tiles_w
            corner = memory.patch + (line * OUTPUTS + 2 * (line // part.tiles_h)) * memory.patch_row
            corner += j * OUTPUTS * memory.pixel
            transform_input(corner, memory.patch_row, memory.pixel, memory.v + t * memory.pixel, memory.v_place, padded)
        for p in range(panels):
            row_bytes = filters.shape[3] * 4
            start = address(filters) + ((panel0 + p) * TAPS * TAPS * c_in + k0) * row_bytes
            size = part.depth * TILE_COLUMNS
            if form == FLOAT32:
                transform_filters(start, c_in * row_bytes, memory.u, memory.u_place, size)
            else:
                transform_halves(start, c_in * row_bytes, memory.u, memory.u_place, size)
            for place in range(PLACES):
                multiply_rows(
                    memory.table,
                    place * memory.v_place,
                    memory.u + place * memory.u_place,
                    memory.m + (p * PLACES + place) * memory.m_place,
                    ROW_BYTES,
                    part.depth,
                    k0,
                    tiles,
                    memory.u + min(place + 1, PLACES - 1) * memory.u_place,
                )

    return multiply


@stage
def _finish(
    y: np.ndarray, bias_row: int, residual: np.ndarray, memory: Memory, row_bytes: int, panels: int, tile: int,
    sample: int, y0: int, x0: int, column: int, ending: int,
) -> None:  # fmt: skip
    """Transform a tile's sums back and write those of its 16 pixels that the result has."""
    _, out_h, out_w, c_out = y.shape
    count = min(panels * TILE_COLUMNS, c_out - column)
    for p in range(panels):
        sums = memory.m + p * PLACES * memory.m_place + tile * ROW_BYTES
        transform_output(sums, memory.m_place, memory.out + p * ROW_BYTES, row_bytes, TILE_COLUMNS)
    for r in range(min(OUTPUTS, out_h - y0)):
        for c in range(min(OUTPUTS, out_w - x0)):
            at = (((sample * out_h + y0 + r) * out_w + x0 + c) * c_out + column) * 4
            row = memory.out + (r * OUTPUTS + c) * row_bytes
            finish_row(row, address(y) + at, bias_row, address(residual) + at, count, ending)


def winograd_kernel(form: int) -> Kernel:
    """The kernel for filters of that form: each is compiled when it is first used."""
    gather, multiply = gathering(form), multiplying(form)

    def kernel(
        counter: Numbers, units: int, scratch: Row, x: Panels, gain: Rows, shift: Rows, filters: Panels, bias: Rows,
        residual: Row, y: Panels, view: View, region: Region, ending: int,
    ) -> None:  # fmt: skip
        """Units: blocks of columns (slowest) by regions of tiles."""
        n, _, _, c_in = x.shape
        all_h, all_w = (y.shape[1] + OUTPUTS - 1) // OUTPUTS, (y.shape[2] + OUTPUTS - 1) // OUTPUTS
        regions_h = (all_h + region.tiles_h - 1) // region.tiles_h
        regions_w = (all_w + region.tiles_w - 1) // region.tiles_w
        regions = (n + region.samples - 1) // region.samples * regions_h * regions_w
        most_panels = region.columns // TILE_COLUMNS
        memory = _memory(scratch, region)
        unit = next_unit(counter)
        while unit < units:
            place, panel0 = unit % regions, unit // regions * most_panels
            panels = min(filters.shape[0], panel0 + most_panels) - panel0
            sample0 = place // (regions_h * regions_w) * region.samples
            tile_y, tile_x = place // regions_w % regions_h * region.tiles_h, place % regions_w * region.tiles_w
            samples, tiles_h = min(region.samples, n - sample0), min(region.tiles_h, all_h - tile_y)
            tiles_w = min(region.tiles_w, all_w - tile_x)
            for k0 in range(0, c_in, region.depth):
                some = Region(samples, tiles_h, tiles_w, min(region.depth, c_in - k0), region.columns)
                gather(x, gain, shift, view, some, memory, sample0, tile_y * OUTPUTS, tile_x * OUTPUTS, k0)
                multiply(filters, some, memory, panel0, panels, k0)
            for tile in range(samples * tiles_h * tiles_w):
                sample = sample0 + tile // (tiles_h * tiles_w)
                i, j = tile_y + tile // tiles_w % tiles_h, tile_x + tile % tiles_w
                column = panel0 * TILE_COLUMNS
                bias_row = address(bias) + ((sample if bias.shape[0] > 1 else 0) * bias.shape[1] + column) * 4
                _finish(
                    y, bias_row, residual, memory, region.columns * 4, panels, tile, sample, i * OUTPUTS, j * OUTPUTS,
                    column, ending,
                )  # fmt: skip
            unit = next_unit(counter)

    return Kernel(kernel, f"winograd_kernel_{form}")


KERNELS = [winograd_kernel(form) for form in (FLOAT32, HALVES)]
MOST_TILES = 112  # of a region: its transformed pieces and sums stay in the level-2 and level-3 caches
DEPTH = 64  # channels at a time, as two sums of 32: shorter ones err less, and longer ones are hardly faster
COLUMNS = 320


@lru_cache(maxsize=256)
def choose_region(n: int, tiles_h: int, tiles_w: int, most: int) -> tuple[int, int, int]:
    """Samples, rows and columns of tiles of a region: the fewest wasted rows of register tiles and border pixels."""
    if tiles_h * tiles_w <= most:
        best = (1.0, 1)
        for samples in range(1, max(1, min(n, most // (tiles_h * tiles_w))) + 1):
            regions, tiles = ceil_div(n, samples), samples * tiles_h * tiles_w
            waste = regions * tile_rows_of(tiles) / (n * tiles_h * tiles_w)
            best = min(best, (waste, -samples)) if samples > 1 else (waste, -samples)
        return -best[1], tiles_h, tiles_w

    def cost(h: int, w: int) -> float:
        def along(total: int, size: int) -> list[tuple[int, int]]:  # (how many regions, their size)
            full, rest = divmod(total, size)
            return [(full, size), (int(rest > 0), rest)]

        total = 0.0
        for many_h, size_h in along(tiles_h, h):
            for many_w, size_w in along(tiles_w, w):
                rows = tile_rows_of(size_h * size_w)
                border = (size_h * OUTPUTS + 2) * (size_w * OUTPUTS + 2) / OUTPUTS**2 - size_h * size_w
                small = 2 * TILE_ROWS  # filters are read again for every region
                total += many_h * many_w * (rows + 0.05 * border + small)
        return total

    sizes = [(h, w) for h in range(1, tiles_h + 1) for w in range(1, tiles_w + 1) if most // 2 <= h * w <= most]
    h, w = min(sizes, key=lambda size: cost(*size))
    return 1, h, w


def _plan(n: int, out_size: tuple[int, int], c_out: int) -> tuple[tuple[int, int, int], int, int]:
    """The region, how many regions there are, and how many columns a thread finishes at a time."""
    tiles_h, tiles_w = ceil_div(out_size[0], OUTPUTS), ceil_div(out_size[1], OUTPUTS)
    samples, region_h, region_w = choose_region(n, tiles_h, tiles_w, MOST_TILES)
    regions = ceil_div(n, samples) * ceil_div(tiles_h, region_h) * ceil_div(tiles_w, region_w)
    columns = ceil_div(c_out, TILE_COLUMNS) * TILE_COLUMNS
    wanted = ceil_div(3 * threads(), regions)
    widest = min(COLUMNS, max(4 * TILE_COLUMNS, columns // wanted))
    return (samples, region_h, region_w), regions, even_blocks(columns, widest, TILE_COLUMNS)


def column_blocks(n: int, out_size: tuple[int, int], c_out: int) -> int:
    """How many times `winograd` gathers and transforms each piece of the image."""
    return ceil_div(c_out, _plan(n, out_size, c_out)[2])


def winograd(
    x: np.ndarray,
    weight: PackedWeight,
    bias: np.ndarray,
    out_size: tuple[int, int],
    *,
    virtual_size: tuple[int, int] | None = None,
    top: int = 1,
    left: int = 1,
    gain_shift: tuple[np.ndarray, np.ndarray] | None = None,
    residual: np.ndarray | None = None,
    ending: int = NONE,
) -> np.ndarray:
    """A 3×3 convolution of stride 1: `(N, H, W, C_in) -> (N, *out_size, C_out)`.

    `bias` comes from `pad_bias`. The image is first enlarged to `virtual_size` by nearest neighbours, then multiplied
    and shifted by `gain_shift` (N, C_in), if there is one, and put through SiLU.
    """
    n, height, width, c_in = x.shape
    c_out = weight.shape[0]
    y = empty((n, *out_size, c_out))
    if y.size == 0:
        return y
    (samples, region_h, region_w), regions, block_columns = _plan(n, out_size, c_out)
    depth = even_blocks(c_in, DEPTH, VECTOR)

    most = ceil_div(samples * region_h * region_w, TILE_ROWS) * TILE_ROWS
    patch = samples * (region_h * OUTPUTS + 2) * (region_w * OUTPUTS + 2) * depth
    panels = block_columns // TILE_COLUMNS
    slabs = most * (depth + block_columns) + depth * TILE_COLUMNS + (panels + 4) * 32
    scratch = patch + PLACES * slabs + OUTPUTS**2 * block_columns + 2 * most + 64 + 4 * TILE_ROWS
    gain, shift = gain_shift or (np.empty((0, 0), np.float32),) * 2
    height, width = virtual_size or (height, width)
    view = View(height, width, top, left)
    region = Region(samples, region_h, region_w, depth, block_columns)
    work = y.size * c_in * PLACES / OUTPUTS**2
    added = NO_RESIDUAL
    if residual is not None:
        added, ending = residual.reshape(-1), WITH_RESIDUAL[ending]
    units = regions * column_blocks(n, out_size, c_out)
    run(KERNELS[weight.form], units, work, scratch, x, gain, shift, weight.panels, bias, added, y, view, region, ending)
    return y
