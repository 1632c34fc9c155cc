"""What kernels need and numba's own functions do only with its runtime, or not at all.

Parts of arrays are made without reference counts and without checks: their owner has to live as
long, and their bounds are the caller's concern. Addresses are int64.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Without exceptions and numba's runtime, and without wrappers for calls from Python: kernels call
# each other, and to compile wrappers as well takes a third longer.
_OPTIONS = {
    "nogil": True, "boundscheck": False, "error_model": "numpy", "_nrt": False,
    "no_cpython_wrapper": True, "no_cfunc_wrapper": True,
}  # fmt: skip


def kernel(function: _Function) -> _Function:
    """Compile a function when another one that calls it is compiled."""
    compiled: _Function = numba.njit(**_OPTIONS)(function)
    return compiled


def inlined(function: _Function) -> _Function:
    """Compile a function as a part of each kernel that calls it, so that loops vectorize."""
    compiled: _Function = numba.njit(**_OPTIONS, forceinline=True)(function)
    return compiled


def _make_array(context, builder, array_type, data, shape):
    """Return an array structure without an owner, C-contiguous."""
    array = context.make_array(array_type)(context, builder)
    itemsize = context.get_constant(
        types.intp, context.get_abi_sizeof(context.get_data_type(array_type.dtype))
    )
    strides = [itemsize]
    for extent in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], extent))
    size = shape[0]
    for extent in shape[1:]:
        size = builder.mul(size, extent)
    array.data = builder.bitcast(data, array.data.type)
    array.shape = cgutils.pack_array(builder, shape)
    array.strides = cgutils.pack_array(builder, strides)
    array.itemsize, array.nitems = itemsize, size
    null = cgutils.get_null_value
    array.meminfo, array.parent = null(array.meminfo.type), null(array.parent.type)
    return array._getvalue()


@intrinsic
def part(typingctx, vector, start, count):
    """Return the numbers [start, start + count) of a contiguous vector, as a view."""
    result = types.Array(vector.dtype, 1, "C", aligned=vector.aligned)

    def generate(context, builder, signature, args):
        whole = context.make_array(signature.args[0])(context, builder, args[0])
        return _make_array(context, builder, result, builder.gep(whole.data, [args[1]]), [args[2]])

    return result(vector, types.int64, types.int64), generate


@intrinsic
def numbers_at(typingctx, address, count, dtype):
    """Return the numbers of type `dtype` that stand at an address, which need not be aligned."""
    result = types.Array(dtype.dtype, 1, "C", aligned=False)

    def generate(context, builder, signature, args):
        data = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        return _make_array(context, builder, result, data, [args[1]])

    return result(types.int64, types.int64, dtype), generate


@intrinsic
def vector_at(typingctx, address, count, dtype):
    """Return the numbers of type `dtype` that stand at an address, aligned."""
    result = types.Array(dtype.dtype, 1, "C")

    def generate(context, builder, signature, args):
        data = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        return _make_array(context, builder, result, data, [args[1]])

    return result(types.int64, types.int64, dtype), generate


@intrinsic
def address_of(typingctx, vector):
    """Return the address of an array's first number."""

    def generate(context, builder, signature, args):
        whole = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.ptrtoint(whole.data, ir.IntType(64))

    return types.int64(vector), generate


@intrinsic
def bits_of(typingctx, number):
    """Return the bits of a float32 or float64 number as an integer of the same width."""
    result = types.int32 if number == types.float32 else types.int64

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(result))

    return result(number), generate


@intrinsic
def number_of(typingctx, bits):
    """Return the float32 or float64 number that has these bits, an int32 or int64."""
    result = types.float32 if bits == types.int32 else types.float64

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(result))

    return result(bits), generate


@intrinsic
def high_product(typingctx, a, b):
    """Return the upper 64 bits of the product of two uint64 numbers."""

    def generate(context, builder, signature, args):
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, wide(64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def byte_swapped(typingctx, bits):
    """Return an unsigned integer with its bytes in reverse order."""

    def generate(context, builder, signature, args):
        return builder.bswap(args[0])

    return bits(bits), generate


@intrinsic
def signed(typingctx, bits):
    """Return the signed integer with the bits of an unsigned one."""
    result = types.Integer.from_bitwidth(bits.bitwidth, signed=True)

    def generate(context, builder, signature, args):
        return args[0]

    return result(bits), generate


@intrinsic
def square_root(typingctx, number):
    """Return √number as one instruction, which vectorizes: NumPy's calls the C library."""

    def generate(context, builder, signature, args):
        kind = context.get_value_type(number)
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [kind]), args)

    return number(number), generate


@kernel
def add(a, b, out, n):
    """Add n numbers of two vectors, element by element."""
    for i in range(n):
        out[i] = a[i] + b[i]
