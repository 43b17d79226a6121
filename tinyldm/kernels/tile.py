"""The matrix product's innermost piece: a tile of C that stays in registers while K runs.

    C[0:R, 0:V*W]  (+)=  sum_k A[0:R, k] * B[k, 0:V*W]

A tile of R rows by V vectors of W values is held in R*V vector registers. For each k it takes V loads of B, R
broadcasts of A and R*V fused multiply-adds: with 6x2 vectors (AVX2) or 14x2 (AVX-512) the multiply-adds are the
bottleneck, and no value of C goes to memory before the sum is done. B comes packed: the V*W columns of one tile lie
together, k after k, so that they stream through the level-1 cache. A is read where it lies, through a table of row
addresses; so the same tile serves a linear layer (rows = tokens), a convolution (rows = pixels under one tap of the
filter, with a row of zeros where the filter hangs over the border) and Winograd's element-wise products (rows =
tiles).

Each sum runs over k in order in one chain of fused multiply-adds, so its error is at most K * 2^-24 * sum |a b|, and it
does not depend on where the tile lies or which thread works on it.

Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication"; the row table: Dukhan 2019, "The
indirect convolution algorithm", arXiv 1907.02129.
"""

from __future__ import annotations

from llvmlite import ir

from tinyldm.kernels.simd import FLOAT_BYTES, I64, POINTER, Lanes, Value, constant, emitted, loop, target

UNROLL = 4
PREFETCHED_LINES = 2
CACHE_LINE = 64


@emitted(7)
def multiply_tile(
    builder: ir.IRBuilder,
    rows: ir.Value,
    a_offset: ir.Value,
    b: ir.Value,
    c: ir.Value,
    c_stride: ir.Value,
    depth: ir.Value,
    accumulate: ir.Value,
) -> None:
    """C tile (+)= A rows @ packed B, for `depth` steps of k.

    rows: address of a table of addresses, one a row of A (one tile more of them is read, and may hold anything);
    a_offset: bytes added to each of them; b: address of the packed columns; c: address of the tile; c_stride: bytes
    from row to row of C; accumulate: 0 to overwrite C, 1 to add to it.
    """
    shape = target()
    lanes = Lanes(builder, shape.width)
    table = builder.inttoptr(rows, POINTER)

    def row_of_a(r: int) -> ir.Value:
        start = builder.load(builder.gep(table, [constant(r)], source_etype=I64), typ=I64, align=8)
        return builder.inttoptr(builder.add(start, a_offset), POINTER)

    a = [row_of_a(r) for r in range(shape.tile_rows)]
    # Rows of the next tile and of C are too far apart for the processor to foresee them.
    for r in range(shape.tile_rows):
        for line in range(PREFETCHED_LINES):
            lanes.prefetch(row_of_a(shape.tile_rows + r), line * CACHE_LINE)
        lanes.prefetch(c, builder.mul(c_stride, constant(r)))
    packed = builder.inttoptr(b, POINTER)
    vector_bytes = shape.width * FLOAT_BYTES
    step_bytes = shape.tile_vectors * vector_bytes

    def steps(count: int):  # type: ignore[no-untyped-def]
        def body(k: ir.Value, *sums: Value) -> list[Value]:
            b_at = builder.gep(packed, [builder.mul(k, constant(step_bytes))], source_etype=ir.IntType(8))
            k_bytes = builder.mul(k, constant(FLOAT_BYTES))
            a_at = [builder.gep(row, [k_bytes], source_etype=ir.IntType(8)) for row in a]
            sums = list(sums)
            for u in range(count):
                columns = [lanes.load(b_at, u * step_bytes + v * vector_bytes) for v in range(shape.tile_vectors)]
                for r in range(shape.tile_rows):
                    value = lanes.broadcast(a_at[r], u * FLOAT_BYTES)
                    for v, column in enumerate(columns):
                        sums[r * shape.tile_vectors + v] = lanes.fma(value, column, sums[r * shape.tile_vectors + v])
            return sums

        return body

    sums = [lanes.constant(0.0)] * (shape.tile_rows * shape.tile_vectors)
    whole = builder.and_(depth, constant(-UNROLL))
    sums = loop(builder, constant(0), whole, UNROLL, sums, steps(UNROLL))
    sums = loop(builder, whole, depth, 1, sums, steps(1))

    def write(add: bool) -> None:
        row = builder.inttoptr(c, POINTER)
        for r in range(shape.tile_rows):
            for v in range(shape.tile_vectors):
                value = sums[r * shape.tile_vectors + v]
                if add:
                    value = lanes.load(row, v * vector_bytes) + value
                lanes.store(value, row, v * vector_bytes)
            row = builder.gep(row, [c_stride], source_etype=ir.IntType(8))

    with builder.if_else(builder.icmp_signed("!=", accumulate, constant(0))) as (then, otherwise):
        with then:
            write(add=True)
        with otherwise:
            write(add=False)
