"""The owned slice of θ: additions that complete its gradient, the update, and the end of a step.

What they do is what `parallel.reduction.OrderedReduction` and `network.update` do. Additions and
update of a chunk follow each other, so that its numbers stay in the L2 cache; only with clipping is
the whole slice summed first, as the norm is needed.
"""

from typing import Any

import numpy as np

from distbp.compiled.choice import Choice
from distbp.compiled.intrinsics import add, inlined, kernel, vector_at
from distbp.compiled.step_constants import COUNT
from distbp.compiled.update import clip_scale, make_squares, make_update
from distbp.compiled.vector_math import Scalar
from distbp.network.parameters import THETA_BLOCK
from distbp.parallel.step_totals import CORRECT, COST, SAVE_REQUESTS, STATS_WIDTH, STOP_REQUESTS

# Numbers of θ that are summed and updated in one go: with all arrays they stay in the L2 cache.
_CHUNK = THETA_BLOCK


def _make_add_all(choice: Choice) -> Scalar:
    """Return the kernel that makes the additions of a chunk, n numbers from `offset` on."""
    real, itemsize = choice.real, choice.real(0).itemsize

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


def make_slice_sum(choice: Choice) -> Scalar:
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


def make_slice_update(choice: Choice) -> Scalar:
    """Return the kernel that updates the owned slice, and sets this rank's flags."""
    real, add_all, has_clip = choice.real, _make_add_all(choice), choice.has_clip
    arrays_at = _make_arrays(real, choice.n_arrays)
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


def make_commit(choice: Choice) -> Scalar:
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
