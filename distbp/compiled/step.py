"""Whole steps in one call: rows to numbers, BP1–BP4, the sum over all ranks, and the update.

`make_step` puts the kernels of a run together, `DataParallelStep.run` in one function. What it
does is what `training.gradient`, `parallel.reduction.OrderedReduction` and `network.update` do:

    compute   the gradients of this rank's shards, into slots; subtrees are added up as they are
              complete
    sum       the additions on the owned slice, which complete the tree; with clipping, the norm
    update    θ and the state, from the current version to the other one
    commit    the statistics of all ranks: unless a number is not finite, the other version is the
              current one from now on

with a barrier before each of the last three (before `update` only for the norm). A rank that
waits for long returns to Python in between, where it can sleep and look for failures.
"""

from typing import Any

import numpy as np
from numba import cfunc, from_dtype, types
from numba.extending import intrinsic

from distbp.compiled.arrays import Table, Work
from distbp.compiled.atomics import arrive, clock_ns, have_arrived, store_release
from distbp.compiled.backprop import make_passes
from distbp.compiled.choice import Choice
from distbp.compiled.descriptor import (
    BACKPROP,
    COMMIT,
    COMPUTE,
    DESCRIPTOR,
    DONE,
    FORWARD,
    LATE,
    ROWS,
    SUM,
    UPDATE,
    UPDATE_SPAN,
    WAIT,
)
from distbp.compiled.dropout import make_draw
from distbp.compiled.intrinsics import inlined, kernel, part, vector_at
from distbp.compiled.rows import make_load_rows, wide_type
from distbp.compiled.step_constants import COUNT
from distbp.compiled.update import clip_scale, make_add, make_squares, make_update
from distbp.compiled.vector_math import Scalar
from distbp.network.parameters import THETA_BLOCK
from distbp.parallel.step_totals import CORRECT, COST, SAVE_REQUESTS, STATS_WIDTH, STOP_REQUESTS

# Numbers of θ that are summed and updated in one go: with all arrays they stay in the L2 cache.
_CHUNK = THETA_BLOCK

_DESCRIPTOR = from_dtype(DESCRIPTOR)


@intrinsic
def _descriptor_at(typingctx, address):
    """Return the descriptor at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(_DESCRIPTOR))

    return _DESCRIPTOR(types.int64), generate


def make_step(choice: Choice) -> Any:
    """Return the function run(address of a `DESCRIPTOR`), a numba cfunc, for a choice of kernels.

    It returns DONE or LATE. With `is_phase_only` it makes one phase of a step, and no barrier.
    """
    compute, total, update = _make_compute(choice), _make_sum(choice), _make_update(choice)
    commit, has_clip = _make_commit(choice), choice.has_clip

    @kernel
    def has_waited(d):
        """Return whether all ranks are there; time passes from `mark_ns` on."""
        if d.ranks > 1 and not have_arrived(d.counters, d.rank, d.ranks, d.spins):
            return False
        now = clock_ns(d.timespec)
        _add_span(d, WAIT, d.mark_ns, now)
        d.wait_ns += now - d.mark_ns
        d.mark_ns = now
        return True

    @kernel
    def call_barrier(d, phase):
        now = clock_ns(d.timespec)
        if d.phase == COMPUTE:
            d.compute_ns += now - d.mark_ns
        else:
            _add_span(d, UPDATE_SPAN, d.mark_ns, now)
            d.update_ns += now - d.mark_ns
        d.mark_ns, d.phase = now, phase
        if d.ranks > 1:
            arrive(d.counters, d.rank)

    @kernel
    def call_phase(d):
        if d.phase == COMPUTE:
            compute(d)
        elif d.phase == UPDATE:
            update(d)
        elif has_clip:
            total(d)

    @cfunc(types.int64(types.int64), error_model="numpy")
    def run(address):
        d = _descriptor_at(address)
        if d.is_phase_only != 0:
            call_phase(d)
            return DONE
        if d.phase == COMPUTE:
            d.mark_ns = clock_ns(d.timespec)
        while d.step < d.steps:
            if d.phase == COMPUTE:
                compute(d)
                call_barrier(d, SUM)
            if d.phase == SUM:
                if not has_waited(d):
                    return LATE
                if has_clip:
                    total(d)
                    call_barrier(d, UPDATE)
                else:
                    d.phase = UPDATE
            if d.phase == UPDATE:
                if has_clip and not has_waited(d):
                    return LATE
                update(d)
                call_barrier(d, COMMIT)
            if not has_waited(d):
                return LATE
            d.phase = COMPUTE
            if commit(d):
                return DONE
        return DONE

    return run


@kernel
def _add_span(d, name, began, ended):
    """Add a span to the profile, if there is one."""
    if d.spans != 0:
        numbers = vector_at(d.spans, d.spans_size, np.int64)
        place = d.spans_place
        numbers[place], numbers[place + 1], numbers[place + 2] = name, began, ended
        d.spans_place = place + 3
        if d.spans_place == d.spans_size:
            d.spans_place = 0
            d.spans_rounds += 1


def _make_compute(choice: Choice) -> Scalar:
    """Return the kernel that writes the gradients of this rank's shards of a batch."""
    real, x_dtype = choice.real, np.dtype(choice.x_dtype)
    wide, has_dropout = wide_type(x_dtype, real).type, choice.has_dropout
    load_rows = make_load_rows(
        real, x_dtype, np.dtype(choice.y_dtype), choice.targets, choice.is_shifted,
        choice.is_scaled, choice.has_weights,
    )  # fmt: skip
    forward, output_layer, backward, layer_gradient, propagate = make_passes(
        real, choice.activation, choice.output, choice.cost, choice.task, choice.has_units,
        choice.has_weights, has_dropout, choice.lane_bytes,
    )  # fmt: skip
    draw, add, zero, itemsize = make_draw(real), make_add(real), real(0), real(0).itemsize

    @inlined
    def table_of(d, sizes):
        n_in, n_out = sizes[0], sizes[sizes.size - 1]
        return Table(
            vector_at(d.x, d.x_bytes, np.uint8),
            vector_at(d.y, d.y_bytes, np.uint8),
            vector_at(d.shift, n_in, wide),
            vector_at(d.scale, n_in, wide),
            vector_at(d.one_hot, n_out * n_out, real),
            vector_at(d.y_shift, n_out, np.float64),
            vector_at(d.y_scale, n_out, np.float64),
            vector_at(d.weights, 1, np.float64),
        )

    @inlined
    def work_of(d, sizes, k):
        """Return the k-th buffers of a shard."""
        rows, units = d.rows, 0
        for l in range(1, sizes.size):
            units += sizes[l]
        n_out = sizes[sizes.size - 1]
        skipped = k * rows * itemsize
        return Work(
            vector_at(d.work_x + skipped * sizes[0], rows * sizes[0], real),
            vector_at(d.work_y + skipped * n_out, rows * n_out, real),
            vector_at(d.work_labels + 8 * k * rows, rows, np.int64),
            vector_at(d.work_weights + skipped, rows, real),
            vector_at(d.work_z + skipped * units, rows * units, real),
            vector_at(d.work_a + skipped * units, rows * units, real),
            vector_at(d.work_delta + skipped * units, rows * units, real),
            vector_at(d.work_fed + skipped * (units - n_out), rows * (units - n_out), real),
            vector_at(d.work_keep + skipped * (units - n_out), rows * (units - n_out), real),
        )

    @inlined
    def theta_at(d):
        """Return the address of the current θ."""
        return vector_at(d.versions, 2 * d.arrays, np.int64)[d.version * d.arrays]

    @kernel
    def runs_at(d, m):
        """Return the address of the runs of rows of a shard of m rows."""
        width = d.layers + 1
        table, at = vector_at(d.runs, d.shard_sizes * width, np.int64), 0
        while table[at] != m:
            at += width
        return d.runs + 8 * (at + 1)

    @kernel
    def shard_forward(d, sizes, shard, start, m, slot, k):
        """Compute a shard's activations, δ^L and scores in the k-th buffers; return the time."""
        table, work = table_of(d, sizes), work_of(d, sizes, k)
        theta = vector_at(theta_at(d), d.n_theta, real)
        numbers = vector_at(d.numbers + 8 * start, m, np.int64)
        began = clock_ns(d.timespec) if d.spans != 0 else 0
        load_rows(table, numbers, vector_at(d.file_numbers + 8 * start, m, np.int64), m, sizes,
                  work)  # fmt: skip
        loaded = clock_ns(d.timespec) if d.spans != 0 else 0
        if has_dropout:
            count = m * (work.keep.size // d.rows)
            draw(work.keep, count, d.keep_threshold, d.keep_scale, d.seed, d.epoch,
                 d.first_step + d.step, shard)  # fmt: skip
        runs = vector_at(runs_at(d, m), d.layers, np.int64)
        forward(d.gemm, sizes, runs, theta, work, m)
        fed = clock_ns(d.timespec) if d.spans != 0 else 0
        cost, correct = output_layer(sizes, vector_at(d.units, 1, np.float64), work, m)
        slot[d.n_theta + COST], slot[d.n_theta + CORRECT] = cost, correct
        _add_span(d, ROWS, began, loaded)
        _add_span(d, FORWARD, loaded, fed)
        return loaded

    @kernel
    def shard_gradient(d, sizes, shard, start, m, slot):
        loaded = shard_forward(d, sizes, shard, start, m, slot, 0)
        work, theta = work_of(d, sizes, 0), vector_at(theta_at(d), d.n_theta, real)
        for l in range(d.layers, 0, -1):
            backward(d.gemm, l, sizes, theta, slot, work, m)
        _add_span(d, BACKPROP, loaded, clock_ns(d.timespec) if d.spans != 0 else 0)

    @kernel
    def write_requests(d, i, slot):
        # They are sums over ranks: each rank counts once, with its first shard and step.
        is_first = i == 0 and d.step == 0
        slot[d.n_theta + STOP_REQUESTS] = d.wants_stop if is_first else 0
        slot[d.n_theta + SAVE_REQUESTS] = d.wants_save if is_first else 0

    @kernel
    def accumulate(d, slots, place, count, at, n):
        """Add up n numbers from `at` on of what a shard completes."""
        for top in range(place, place - count, -1):
            below = part(slots, (top - 1) * d.stride + at, n)
            add(below, part(slots, top * d.stride + at, n), below, n)

    @kernel
    def compute_layers(d, sizes, schedule, slots, first, rows):
        """Compute the last `layered` shards: forward all of them, then layer by layer."""
        theta, alone = vector_at(theta_at(d), d.n_theta, real), d.tasks - d.layered
        at = d.n_theta
        began = clock_ns(d.timespec) if d.spans != 0 else 0
        for i in range(alone, d.tasks):
            shard, place, count = schedule[3 * i], schedule[3 * i + 1], schedule[3 * i + 2]
            start, stop = rows * shard // d.shards, rows * (shard + 1) // d.shards
            slot = part(slots, place * d.stride, d.width)
            slot[d.n_theta + COST], slot[d.n_theta + CORRECT] = zero, zero
            if start < stop:
                shard_forward(d, sizes, shard, first + start, stop - start, slot, i - alone)
            write_requests(d, i, slot)
            accumulate(d, slots, place, count, at, d.width - at)
        for l in range(d.layers, 0, -1):
            n = sizes[l] * (sizes[l - 1] + 1)
            at -= n
            for i in range(alone, d.tasks):
                shard, place, count = schedule[3 * i], schedule[3 * i + 1], schedule[3 * i + 2]
                m = rows * (shard + 1) // d.shards - rows * shard // d.shards
                slot = part(slots, place * d.stride, d.width)
                if m == 0:
                    for j in range(at, at + n):
                        slot[j] = zero
                else:
                    work = work_of(d, sizes, i - alone)
                    if l < d.layers:
                        propagate(d.gemm, l + 1, sizes, theta, work, m)
                    layer_gradient(d.gemm, l, sizes, slot, work, m)
                accumulate(d, slots, place, count, at, n)
            store_release(d.progress, d.layers - l + 1)
        _add_span(d, BACKPROP, began, clock_ns(d.timespec) if d.spans != 0 else 0)

    @kernel
    def compute(d):
        sizes = vector_at(d.sizes, d.layers + 1, np.int64)
        schedule = vector_at(d.schedule, 3 * d.tasks, np.int64)
        slots = vector_at(d.slots, d.stride << 20, real)
        first = d.step * d.batch_size
        rows = min(d.batch_size, d.n_numbers - first)
        for i in range(d.tasks - d.layered):
            shard, place, count = schedule[3 * i], schedule[3 * i + 1], schedule[3 * i + 2]
            start, stop = rows * shard // d.shards, rows * (shard + 1) // d.shards
            slot = part(slots, place * d.stride, d.width)
            if start == stop:  # a short last batch may leave shards empty
                for j in range(d.width):
                    slot[j] = zero
            else:
                shard_gradient(d, sizes, shard, first + start, stop - start, slot)
            write_requests(d, i, slot)
            accumulate(d, slots, place, count, 0, d.width)
        if d.progress != 0:
            compute_layers(d, sizes, schedule, slots, first, rows)

    return compute


def _make_add_all(choice: Choice) -> Scalar:
    """Return the kernel that makes the additions of a chunk, n numbers from `offset` on."""
    real, add, itemsize = choice.real, make_add(choice.real), choice.real(0).itemsize

    @kernel
    def add_all(d, offset, n):
        """Return the address of the chunk's sum."""
        additions = vector_at(d.additions, 5 * d.n_additions, np.int64)
        for i in range(d.n_additions):
            one, moves, other, other_moves, result = (
                additions[5 * i], additions[5 * i + 1], additions[5 * i + 2],
                additions[5 * i + 3], additions[5 * i + 4],
            )  # fmt: skip
            one += moves * offset * itemsize
            other += other_moves * offset * itemsize
            # In place, where the result moves as well.
            result += d.gradient_moves * offset * itemsize
            add(vector_at(one, n, real), vector_at(other, n, real), vector_at(result, n, real), n)
        return d.gradient + d.gradient_moves * offset * itemsize

    return add_all


def _make_sum(choice: Choice) -> Scalar:
    """Return the kernel that completes the sum of the owned slice, and measures its norm."""
    real, add_all, measure = choice.real, _make_add_all(choice), make_squares(choice.real)

    @kernel
    def total(d):
        for at in range(d.own_start, d.own_stop, _CHUNK):
            n = min(_CHUNK, d.own_stop - at)
            gradient = vector_at(add_all(d, at - d.own_start, n), n, real)
            blocks = (d.n_theta + THETA_BLOCK - 1) // THETA_BLOCK
            measure(gradient, vector_at(d.squares, blocks, np.float64), at // THETA_BLOCK)

    return total


def _make_arrays(real: Any, count: int) -> Scalar:
    """Return the function that returns the arrays at `count` addresses as a tuple."""

    @inlined
    def one(addresses, at, n):
        return (vector_at(addresses[at], n, real),)

    @inlined
    def two(addresses, at, n):
        return (vector_at(addresses[at], n, real), vector_at(addresses[at + 1], n, real))

    @inlined
    def three(addresses, at, n):
        return (
            vector_at(addresses[at], n, real),
            vector_at(addresses[at + 1], n, real),
            vector_at(addresses[at + 2], n, real),
        )

    @inlined
    def four(addresses, at, n):
        return (
            vector_at(addresses[at], n, real),
            vector_at(addresses[at + 1], n, real),
            vector_at(addresses[at + 2], n, real),
            vector_at(addresses[at + 3], n, real),
        )

    return (one, two, three, four)[count - 1]


def _make_update(choice: Choice) -> Scalar:
    """Return the kernel that updates the owned slice, and sets this rank's flags."""
    real, add_all, has_clip = choice.real, _make_add_all(choice), choice.has_clip
    add, arrays_at = make_add(real), _make_arrays(real, choice.n_arrays)
    itemsize = real(0).itemsize
    update_slice = make_update(
        real, choice.optimizer, choice.has_l1, choice.has_l2, choice.has_decay, choice.has_average
    )

    @kernel
    def sum_statistics(d, flags):
        additions = vector_at(d.stats_additions, 2 * d.n_stats_additions, np.int64)
        for i in range(d.n_stats_additions):
            into = vector_at(additions[2 * i], STATS_WIDTH, real)
            add(into, vector_at(additions[2 * i + 1], STATS_WIDTH, real), into, STATS_WIDTH)
        stats = vector_at(d.stats, STATS_WIDTH, real)
        for i in range(STATS_WIDTH):
            flags[i] = stats[i]

    @kernel
    def update(d):
        sizes = vector_at(d.sizes, d.layers + 1, np.int64)
        addresses = vector_at(d.versions, 2 * d.arrays, np.int64)
        old = arrays_at(addresses, d.version * d.arrays, d.n_theta)
        new = arrays_at(addresses, (1 - d.version) * d.arrays, d.n_theta)
        constants = vector_at(d.constants + 8 * COUNT * d.step, COUNT, np.float64)
        scale = 1.0 / min(d.batch_size, d.n_numbers - d.step * d.batch_size)
        if has_clip:
            blocks = (d.n_theta + THETA_BLOCK - 1) // THETA_BLOCK
            scale = clip_scale(vector_at(d.squares, blocks, np.float64), scale, d.clip_norm)
        is_bad = 0
        for at in range(d.own_start, d.own_stop, _CHUNK):
            n, offset = min(_CHUNK, d.own_stop - at), at - d.own_start
            gradient = d.gradient + offset * itemsize if has_clip else add_all(d, offset, n)
            is_bad |= update_slice(old, new, vector_at(gradient, n, real), at, at, at + n, sizes,
                                   constants, scale)  # fmt: skip
        flags = vector_at(d.flags, STATS_WIDTH + d.ranks, real)
        flags[STATS_WIDTH + d.rank] = is_bad
        if d.owns_stats != 0:
            sum_statistics(d, flags)

    return update


def _make_commit(choice: Choice) -> Scalar:
    """Return the kernel that ends a step; it returns whether the call ends with it."""
    real = choice.real

    @kernel
    def commit(d):
        # No rank can write its next flags before all have read these: there is a barrier first.
        flags = vector_at(d.flags, STATS_WIDTH + d.ranks, real)
        d.applied = 1 if np.isfinite(flags[COST]) else 0
        for rank in range(d.ranks):
            if flags[STATS_WIDTH + rank] != 0:
                d.applied = 0
        vector_at(d.costs, d.steps, np.float64)[d.step] = flags[COST]
        vector_at(d.correct, d.steps, np.float64)[d.step] = flags[CORRECT]
        d.stop, d.save = np.int64(flags[STOP_REQUESTS]), np.int64(flags[SAVE_REQUESTS])
        d.step += 1
        if d.applied != 0:
            d.version = 1 - d.version
        return d.applied == 0 or d.stop != 0 or d.save != 0

    return commit
