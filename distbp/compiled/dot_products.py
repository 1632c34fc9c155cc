"""Matrix products as dot products of rows: a bᵀ where a BLAS would spend its time on packing.

Both operands are read as they are. A block is `BLOCK` rows of one operand with a few of the other;
each of its sums has a given number of lanes, whatever vectors the CPU has: on that alone the bits
depend. Loops that numba vectorizes may not reorder additions, hence the instructions
written out. `product_choice` knows where all this is faster.
"""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from distbp.compiled.intrinsics import address_of, kernel
from distbp.compiled.product_choice import BLOCK
from distbp.compiled.vector_math import Real, Scalar

# Rows of a block: their sums with `BLOCK` others, and operands, fit in 16 registers, or in the 32
# that there are where a register has 64 bytes.
_FEW, _MORE = 3, 4


@cache
def make_multiply_rows(real: Real, lane_bytes: int) -> Scalar:
    """Return the kernel multiply_rows(a, b, c, m, n, k): c (m, n) = a (m, k) bᵀ (k, n).

    n is `BLOCK` at least, or m is. `lane_bytes`, a power of two, is the width of a sum.
    """
    itemsize, most = real(0).itemsize, _MORE if lane_bytes == 64 else _FEW
    blocks = [_make_block(real, min(rows, most), lane_bytes) for rows in range(1, _MORE + 1)]
    one, two, three, four = blocks

    @kernel
    def multiply_block(few, many, c, rows, count, k, few_step, many_step):
        # The last block overlaps the one before it: both write the same numbers.
        for j in range(0, count, BLOCK):
            first = min(j, count - BLOCK)
            other, to, i = many + first * k * itemsize, c + first * many_step, 0
            while i < rows:
                rest = rows - i
                taken = most - 1 if rest == most + 1 else min(most, rest)  # no single one is left
                start, at = few + i * k * itemsize, to + i * few_step
                if taken == 4:
                    four(start, other, at, k, few_step, many_step)
                elif taken == 3:
                    three(start, other, at, k, few_step, many_step)
                elif taken == 2:
                    two(start, other, at, k, few_step, many_step)
                else:
                    one(start, other, at, k, few_step, many_step)
                i += taken

    @kernel
    def multiply_rows(a, b, c, m, n, k):
        first, second, out = address_of(a), address_of(b), address_of(c)
        if n >= BLOCK:
            multiply_block(first, second, out, m, n, k, n * itemsize, itemsize)
        else:
            multiply_block(second, first, out, n, m, k, itemsize, n * itemsize)

    return multiply_rows


def _make_block(real: Real, rows: int, lane_bytes: int) -> Scalar:
    """Return an intrinsic for the dot products of `rows` rows of k numbers with `BLOCK` others.

    Its arguments: addresses of both and of the result, k, and the result's steps in bytes.
    """
    lanes = lane_bytes // real(0).itemsize
    number = types.float32 if real is np.float32 else types.float64
    pairs = [(r, u) for r in range(rows) for u in range(BLOCK)]

    @intrinsic
    def block(typingctx, few, many, out, k, few_step, many_step):
        signature = types.void(*[types.int64] * 6)

        def generate(context, builder, signature, args):
            few, many, out, k, few_step, many_step = args
            scalar, i64 = context.get_value_type(number), ir.IntType(64)
            vector = ir.VectorType(scalar, lanes)

            def row_starts(base: Any, count: int) -> list[Any]:
                size = builder.mul(k, i64(real(0).itemsize))
                starts = [builder.add(base, builder.mul(size, i64(r))) for r in range(count)]
                return [builder.inttoptr(start, scalar.as_pointer()) for start in starts]

            few_rows, many_rows = row_starts(few, rows), row_starts(many, BLOCK)
            sums = _accumulate(builder, vector, k, few_rows, many_rows)
            totals = [_add_lanes(builder, one, lanes) for one in sums]
            for (r, u), total in zip(pairs, totals, strict=True):
                offset = builder.add(builder.mul(few_step, i64(r)), builder.mul(many_step, i64(u)))
                at = builder.inttoptr(builder.add(out, offset), scalar.as_pointer())
                builder.store(total, at)
            return context.get_dummy_value()

        return signature, generate

    return block


def _accumulate(builder: Any, vector: Any, k: Any, few: list[Any], many: list[Any]) -> list[Any]:
    """Return the sums of the products of each of `few` rows with each of `many`, as vectors."""
    i64, lanes, loads = ir.IntType(64), vector.count, _Loads(builder, vector)
    whole = builder.and_(k, i64(-lanes))
    before, names = builder.block, ("test", "body", "rest", "after")
    test, body, rest, after = (builder.append_basic_block(name) for name in names)
    builder.branch(test)
    builder.position_at_end(test)
    i, sums = builder.phi(i64), [builder.phi(vector) for _ in few for _ in many]
    for phi, first in zip([i, *sums], [i64(0), *[vector(None)] * len(sums)], strict=True):
        phi.add_incoming(first, before)
    builder.cbranch(builder.icmp_signed("<", i, whole), body, rest)
    builder.position_at_end(body)
    more = loads.add_products([loads.whole(row, i) for row in few],
                              [loads.whole(row, i) for row in many], sums)  # fmt: skip
    for phi, value in zip([i, *sums], [builder.add(i, i64(lanes)), *more], strict=True):
        phi.add_incoming(value, body)
    builder.branch(test)
    builder.position_at_end(rest)
    # The last numbers of the rows, with zeros for those that are not there.
    last = builder.append_basic_block("last")
    builder.cbranch(builder.icmp_signed("<", whole, k), last, after)
    builder.position_at_end(last)
    mask = loads.mask(builder.sub(k, whole))
    more = loads.add_products([loads.masked(row, whole, mask) for row in few],
                              [loads.masked(row, whole, mask) for row in many], sums)  # fmt: skip
    builder.branch(after)
    builder.position_at_end(after)
    results = [builder.phi(vector) for _ in sums]
    for phi, without, with_last in zip(results, sums, more, strict=True):
        phi.add_incoming(without, rest)
        phi.add_incoming(with_last, last)
    return results


class _Loads:
    """Instructions on vectors of numbers of a row."""

    def __init__(self, builder: Any, vector: Any) -> None:
        self._builder, self._vector = builder, vector
        self._itemsize = 4 if vector.element == ir.FloatType() else 8
        self._name = f"v{vector.count}f{8 * self._itemsize}"

    def _call(self, name: str, arguments: list[Any]) -> Any:
        kind = ir.FunctionType(self._vector, [one.type for one in arguments])
        function = cgutils.get_or_insert_function(self._builder.module, kind, name)
        return self._builder.call(function, arguments)

    def _address(self, row: Any, i: Any) -> Any:
        return self._builder.bitcast(self._builder.gep(row, [i]), self._vector.as_pointer())

    def whole(self, row: Any, i: Any) -> Any:
        """Return the numbers from i on."""
        return self._builder.load(self._address(row, i), align=self._itemsize)

    def mask(self, count: Any) -> Any:
        """Return which of the lanes are below `count`."""
        lanes, kind = self._vector.count, ir.VectorType(ir.IntType(64), self._vector.count)
        numbers = ir.Constant(kind, list(range(lanes)))
        first = self._builder.insert_element(kind(None), count, ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        counts = self._builder.shuffle_vector(first, first, zeros)
        return self._builder.icmp_signed("<", numbers, counts)

    def masked(self, row: Any, i: Any, mask: Any) -> Any:
        """Return the numbers from i on where `mask` is set, and zeros."""
        align = ir.IntType(32)(self._itemsize)
        arguments = [self._address(row, i), align, mask, self._vector(None)]
        return self._call(f"llvm.masked.load.{self._name}.p0", arguments)

    def add_products(self, few: list[Any], many: list[Any], sums: list[Any]) -> list[Any]:
        """Return the sums with the products of all pairs added, each rounded once."""
        pairs = [(p, q) for p in few for q in many]
        name = f"llvm.fma.{self._name}"
        return [self._call(name, [*pair, one]) for pair, one in zip(pairs, sums, strict=True)]


def _add_lanes(builder: Any, vector: Any, lanes: int) -> Any:
    """Return the sum of a vector's lanes: of its halves, of their halves, and so on."""
    while lanes > 1:
        lanes //= 2
        low, high = (
            ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(start, start + lanes)))
            for start in (0, lanes)
        )
        vector = builder.fadd(
            builder.shuffle_vector(vector, vector, low),
            builder.shuffle_vector(vector, vector, high),
        )
    return builder.extract_element(vector, ir.IntType(32)(0))
