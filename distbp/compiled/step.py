"""Whole steps in one call: rows to numbers, BP1–BP4, the sum over all ranks, and the update.

`make_step` puts the kernels of a run together in one function:

    compute   the gradients of this rank's shards, into slots; subtrees are added up as they are
              complete (`batch_gradient`)
    sum       the additions on the owned slice, which complete the tree; with clipping, the norm
              (`slice_update`, as the next two)
    update    θ and the state, from the current version to the other one
    commit    the statistics of all ranks: unless a number is not finite, the other version is the
              current one from now on

with a barrier before each of the last three (before `update` only for the norm). A rank that
waits for long returns to Python in between, where it can sleep and look for failures. Where a
reduction in Python makes the sums, a call makes one phase: `compute`, with clipping `sum`, which
then only measures the norm, `update` for each chunk of θ, and, while θ of other layers is still
being summed, a layer of the next step's forward pass.
"""

from collections.abc import Callable
from typing import Any

from numba import cfunc, from_dtype, types
from numba.extending import intrinsic

from distbp.compiled.atomics import arrive, clock_ns, have_arrived
from distbp.compiled.batch_gradient import make_batch_gradient, make_forward_ahead
from distbp.compiled.choice import Choice
from distbp.compiled.descriptor import (
    COMMIT,
    COMPUTE,
    DESCRIPTOR,
    DONE,
    FORWARD_AHEAD,
    LATE,
    SUM,
    UPDATE,
    UPDATE_SPAN,
    WAIT,
)
from distbp.compiled.intrinsics import kernel
from distbp.compiled.slice_update import make_commit, make_slice_sum, make_slice_update
from distbp.compiled.spans import add_span

_DESCRIPTOR = from_dtype(DESCRIPTOR)


@intrinsic
def _descriptor_at(typingctx, address):
    """Return the descriptor at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(_DESCRIPTOR))

    return _DESCRIPTOR(types.int64), generate


def make_step(choice: Choice) -> Any:
    """Return the function run(address of a `DESCRIPTOR`), a numba cfunc, for a choice of kernels.

    It returns DONE or LATE.
    """
    run = _make_one_phase(choice) if choice.has_messages else _make_steps(choice)
    return cfunc(types.int64(types.int64), error_model="numpy")(run)


def _make_one_phase(choice: Choice) -> Callable[[int], int]:
    """Return the function that makes one phase of a step, or one layer of FORWARD_AHEAD."""
    compute, forward_ahead = make_batch_gradient(choice), make_forward_ahead(choice)
    update, total, has_clip = make_slice_update(choice), make_slice_sum(choice), choice.has_clip

    def run(address):
        d = _descriptor_at(address)
        if d.phase == COMPUTE:
            compute(d)
        elif d.phase == UPDATE:
            update(d)
        elif d.phase == FORWARD_AHEAD:
            forward_ahead(d)
        elif has_clip:
            total(d)
        return DONE

    return run


def _make_steps(choice: Choice) -> Callable[[int], int]:
    """Return the function that makes whole steps, or goes on with them after LATE."""
    compute, has_clip = make_batch_gradient(choice), choice.has_clip
    total, update, commit = make_slice_sum(choice), make_slice_update(choice), make_commit(choice)

    def run(address):
        d = _descriptor_at(address)
        if d.phase == COMPUTE:
            d.mark_ns = clock_ns(d.timespec)
        while d.step < d.steps:
            if d.phase == COMPUTE:
                compute(d)
                _call_barrier(d, SUM)
            if d.phase == SUM:
                if not _has_waited(d):
                    return LATE
                if has_clip:
                    total(d)
                    _call_barrier(d, UPDATE)
                else:
                    d.phase = UPDATE
            if d.phase == UPDATE:
                if has_clip and not _has_waited(d):
                    return LATE
                update(d)
                _call_barrier(d, COMMIT)
            if not _has_waited(d):
                return LATE
            d.phase = COMPUTE
            if commit(d):
                return DONE
        return DONE

    return run


@kernel
def _has_waited(d):
    """Return whether all ranks are there; time passes from `mark_ns` on."""
    if d.ranks > 1 and not have_arrived(d.counters, d.rank, d.ranks, d.spins):
        return False
    now = clock_ns(d.timespec)
    add_span(d, WAIT, d.mark_ns, now)
    d.wait_ns += now - d.mark_ns
    d.mark_ns = now
    return True


@kernel
def _call_barrier(d, phase):
    now = clock_ns(d.timespec)
    if d.phase == COMPUTE:
        d.compute_ns += now - d.mark_ns
    else:
        add_span(d, UPDATE_SPAN, d.mark_ns, now)
        d.update_ns += now - d.mark_ns
    d.mark_ns, d.phase = now, phase
    if d.ranks > 1:
        arrive(d.counters, d.rank)
