"""Matrix products of kernels: by a CBLAS function at an address.

Rows are examples, as in `distbp.network`; all arrays are parts of vectors, row by row.
"""

from functools import cache
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from distbp.compiled.blas import AS_IS, ROW_MAJOR, TRANSPOSED
from distbp.compiled.dot_products import make_multiply_rows
from distbp.compiled.intrinsics import address_of, kernel, part
from distbp.compiled.product_choice import AS_DOT_PRODUCTS
from distbp.compiled.vector_math import Real, Scalar


@intrinsic
def gemm(typingctx, function, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc):
    """C ← op(A) op(B) + β C, row by row: C is (m, n), and `function` an address.

    a, b and c are addresses; β has the type of the numbers.
    """
    integers = [types.int64] * 6
    signature = types.void(*integers, *[types.int64] * 4, beta, types.int64, types.int64)

    def generate(context, builder, signature, args):
        real, enum, wide = context.get_value_type(beta), ir.IntType(32), ir.IntType(64)
        pointer = ir.IntType(8).as_pointer()
        # On x86-64 and AArch64 each integer has 64 bits in registers and on the stack, of which
        # a library with 32-bit integers ignores the upper half: one signature serves both.
        kind = ir.FunctionType(
            ir.VoidType(),
            [enum, enum, enum, wide, wide, wide, real, pointer, wide, pointer, wide, real,
             pointer, wide],
        )  # fmt: skip
        (address, trans_a, trans_b, m, n, k, a, lda, b, ldb, factor, c, ldc) = args

        def at(number: Any) -> Any:
            return builder.inttoptr(number, pointer)

        builder.call(
            builder.inttoptr(address, kind.as_pointer()),
            [enum(ROW_MAJOR), builder.trunc(trans_a, enum), builder.trunc(trans_b, enum), m, n, k,
             real(1.0), at(a), lda, at(b), ldb, factor, at(c), ldc],
        )  # fmt: skip
        return context.get_dummy_value()

    return signature, generate


class Products(NamedTuple):
    """The three products of a layer, for a gemm at an address.

    Attributes
    ----------
    weighted_input : kernel of (gemm, a, w, b, z, m, n_in, n_out, run)
        z (m, n_out) = a wᵀ + b, by runs of `run` rows, or as dot products: see `product_choice`.
    weight_gradient : kernel of (gemm, delta, a, nabla_w, m, n_in, n_out, adds)
        ∂C/∂w (n_out, n_in) = δᵀ a (BP4), or what is added to it, if `adds`.
    propagate : kernel of (gemm, delta, w, out, m, n_in, n_out)
        (m, n_in) = δ w, the product of BP2.
    """

    weighted_input: Scalar
    weight_gradient: Scalar
    propagate: Scalar


@cache
def make_products(real: Real, lane_bytes: int) -> Products:
    """Return the products for a type of number; see `product_choice.lane_bytes`."""
    itemsize, zero, one = real(0).itemsize, real(0), real(1)
    multiply_rows = make_multiply_rows(real, lane_bytes)

    @kernel
    def weighted_input(function, a, w, b, z, m, n_in, n_out, run):
        if run == AS_DOT_PRODUCTS:
            multiply_rows(a, w, z, m, n_out, n_in)
            for i in range(m):
                row = part(z, i * n_out, n_out)
                for j in range(n_out):
                    row[j] += b[j]
            return
        for i in range(m):
            row = part(z, i * n_out, n_out)
            for j in range(n_out):
                row[j] = b[j]
        i = 0
        while i < m:  # a range with a step that is no constant could raise
            gemm(
                function, AS_IS, TRANSPOSED, min(run, m - i), n_out, n_in,
                address_of(a) + i * n_in * itemsize, n_in, address_of(w), n_in,
                one, address_of(z) + i * n_out * itemsize, n_out,
            )  # fmt: skip
            i += run

    @kernel
    def weight_gradient(function, delta, a, nabla_w, m, n_in, n_out, adds):
        gemm(
            function, TRANSPOSED, AS_IS, n_out, n_in, m,
            address_of(delta), n_out, address_of(a), n_in, one if adds else zero,
            address_of(nabla_w), n_in,
        )  # fmt: skip

    @kernel
    def propagate(function, delta, w, out, m, n_in, n_out):
        gemm(
            function, AS_IS, AS_IS, m, n_in, n_out,
            address_of(delta), n_out, address_of(w), n_in, zero, address_of(out), n_in,
        )  # fmt: skip

    return Products(weighted_input, weight_gradient, propagate)
