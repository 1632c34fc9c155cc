"""What all kernels have in common: their machine code stands alone."""

import re

import numba
import numpy as np
from numba import types

from distbp.compiled import product_choice
from distbp.compiled.arrays import Table, Work
from distbp.compiled.backprop import make_passes
from distbp.compiled.dropout import make_draw
from distbp.compiled.rows import LABELS, make_load_rows
from distbp.compiled.update import clip_scale, make_squares, make_update

SINGLE, DOUBLE, INTEGERS = types.float32[::1], types.float64[::1], types.int64[::1]
BYTES = types.uint8[::1]
WORK = types.NamedTuple([SINGLE] * 2 + [INTEGERS] + [SINGLE] * 6, Work)
TABLE = types.NamedTuple([BYTES] * 2 + [SINGLE] * 3 + [DOUBLE] * 3, Table)


def compile_step():
    """Return the assembly and the intermediate code of a whole step, of many options."""
    byte = np.dtype(np.uint8)
    load = make_load_rows(np.float32, byte, byte, LABELS, True, True, True)
    forward, output_layer, backward, *_ = make_passes(
        np.float32, "gelu", "softmax", "log-likelihood", "classification", False, True, True,
        product_choice.lane_bytes(),
    )  # fmt: skip
    draw, squares_of = make_draw(np.float32), make_squares(np.float32)
    update = make_update(np.float32, "adamw", True, True, True, True)

    @numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy", _nrt=False)
    def step(gemm, table, numbers, m, sizes, runs, units, work, gradient, old, new, constants):
        load(table, numbers, numbers, m, sizes, work)
        draw(work.keep, m, 3, 1.5, 1, 2, 3, 4)
        forward(gemm, sizes, runs, old[0], work, m)
        cost, correct = output_layer(sizes, units, work, m)
        for l in range(sizes.size - 1, 0, -1):
            backward(gemm, l, sizes, old[0], gradient, gradient, 0, work, m)
        squares_of(gradient, constants, 0)
        scale = clip_scale(constants, 1.0, 1.0)
        return cost, correct, update(old, new, gradient, 0, 0, m, sizes, constants, scale)

    integer, arrays = types.int64, types.UniTuple(SINGLE, 4)
    step.compile((integer, TABLE, INTEGERS, integer, INTEGERS, INTEGERS, DOUBLE, WORK, SINGLE,
                  arrays, arrays, DOUBLE))  # fmt: skip
    (signature,) = step.signatures
    return step.inspect_asm(signature), step.inspect_llvm(signature)


def test_a_step_needs_nothing_of_numba_and_raises_nothing():
    """No reference counts, no exceptions, no functions of the C library but memset and memcpy."""
    assembly, code = compile_step()
    assert "NRT_" not in code
    assert "pickledata" not in code
    names = re.findall(r"^declare [^@]*@([\w.]+)\(", code, re.MULTILINE)
    assert [name for name in names if not name.startswith(("llvm.", "memset", "memcpy"))] == []
    assert "vfmadd" not in assembly or "llvm.fma" in code  # only where it is asked for
