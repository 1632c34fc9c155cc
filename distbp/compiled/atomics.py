"""Between processes: numbers in shared memory that one writes and others wait for; and the clock.

Functions of the C library are external symbols, which are looked up when the machine code is
loaded.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from distbp.compiled.intrinsics import kernel, vector_at
from distbp.parallel.barrier import COUNTER_STRIDE

_YIELDS = 200  # calls of sched_yield, before a rank that waits returns to Python and sleeps
_STRIDE = 8 * COUNTER_STRIDE  # bytes between two ranks' counters

_sched_yield = types.ExternalFunction("sched_yield", types.int32())
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.int64))
_CLOCK_MONOTONIC = np.int32(1)


@intrinsic
def _load_acquire(typingctx, address):
    """Return the int64 at an address; what was written before it is visible from now on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(
            builder.inttoptr(args[0], ir.IntType(64).as_pointer()), "acquire", 8
        )

    return types.int64(types.int64), generate


@intrinsic
def store_release(typingctx, address, value):
    """Write an int64 to an address, behind all that was written before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        builder.store_atomic(args[1], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@kernel
def arrive(counters, rank):
    """Count a call of the barrier in this rank's counter: see `parallel.barrier`."""
    own = counters + rank * _STRIDE
    store_release(own, _load_acquire(own) + 1)


@kernel
def have_arrived(counters, rank, ranks, spins):
    """Return whether all ranks have come as far as this one: spin, then yield, then give up."""
    count, yields = _load_acquire(counters + rank * _STRIDE), _YIELDS
    for other in range(ranks):
        while _load_acquire(counters + other * _STRIDE) < count:
            if spins > 0:
                spins -= 1
            elif yields > 0:
                yields -= 1
                _sched_yield()
            else:
                return False
    return True


@kernel
def clock_ns(timespec):
    """Return the monotonic clock in ns; `timespec` is the address of two int64 to use."""
    _clock_gettime(_CLOCK_MONOTONIC, timespec)
    parts = vector_at(timespec, 2, np.int64)
    return parts[0] * 1_000_000_000 + parts[1]
