"""The gradients of this rank's shards of a batch: what `training.gradient.BatchGradient` does.

`_make_shards` puts the passes of `backprop` together for one shard; `make_batch_gradient` takes
shard by shard, the last ones layer by layer where the exchange of a layer can begin before the
layers below are computed, and `make_forward_ahead` is their forward pass in the next step, layer
by layer as θ is updated (`parallel.overlap`). Subtrees of the sum are added up as they are
complete.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from distbp.compiled.atomics import clock_ns, store_release
from distbp.compiled.backprop import make_passes
from distbp.compiled.choice import Choice
from distbp.compiled.descriptor import BACKPROP, FORWARD, ROWS
from distbp.compiled.dropout import make_draw
from distbp.compiled.intrinsics import add, inlined, kernel, part, vector_at
from distbp.compiled.rows import make_load_rows
from distbp.compiled.spans import add_span
from distbp.compiled.vector_math import Scalar
from distbp.compiled.views import Views, make_views, runs_address, theta_address
from distbp.parallel.step_totals import CORRECT, COST, SAVE_REQUESTS, STOP_REQUESTS


class _Shards(NamedTuple):
    """The kernels of one shard of m rows, those of the call from its row `start` on.

    Attributes
    ----------
    load : kernel of (d, sizes, shard, start, m, k)
        Loads the rows into the k-th buffers, and draws for dropout.
    layer_forward : kernel of (d, sizes, l, m, k)
        Computes the activations of layer l.
    forward : kernel of (d, sizes, shard, start, m, k)
        Does all of that, and returns the time when the rows had been loaded, in ns.
    output_layer : kernel of (d, sizes, m, slot, k)
        Computes δ^L, and writes cost and correct answers to the slot.
    gradient : kernel of (d, sizes, shard, start, m, slot, total, adds)
        Writes gradient and scores to the slot, or adds the gradient to the total.
    layer : kernel of (d, sizes, l, m, slot, total, adds, k)
        After `output_layer`, does so with the gradient of layer l, those above it being computed.
    """

    load: Scalar
    layer_forward: Scalar
    forward: Scalar
    output_layer: Scalar
    gradient: Scalar
    layer: Scalar


def _make_load(choice: Choice) -> Scalar:
    real, has_dropout = choice.real, choice.has_dropout
    table_of, work_of, _ = make_views(choice)
    draw = make_draw(real)
    load_rows = make_load_rows(
        real, np.dtype(choice.x_dtype), np.dtype(choice.y_dtype), choice.targets,
        choice.is_shifted, choice.is_scaled, choice.has_weights,
    )  # fmt: skip

    @kernel
    def load(d, sizes, shard, start, m, k):
        work = work_of(d, sizes, k)
        numbers = vector_at(d.numbers + 8 * start, m, np.int64)
        file_numbers = vector_at(d.file_numbers + 8 * start, m, np.int64)
        load_rows(table_of(d, sizes), numbers, file_numbers, m, sizes, work)
        if has_dropout:
            draw(work.keep, m * (work.keep.size // d.rows), d.keep_threshold, d.keep_scale, d.seed,
                 d.epoch, d.first_step + d.step, shard)  # fmt: skip

    return load


@cache
def _make_shards(choice: Choice) -> _Shards:
    real, load, work_of = choice.real, _make_load(choice), make_views(choice).work
    forward, output_layer, backward, layer_forward, layer_gradient, propagate = make_passes(
        real, choice.activation, choice.output, choice.cost, choice.task, choice.has_units,
        choice.has_weights, choice.has_dropout, choice.lane_bytes,
    )  # fmt: skip

    @kernel
    def shard_layer_forward(d, sizes, l, m, k):
        theta = vector_at(theta_address(d), d.n_theta, real)
        runs = vector_at(runs_address(d, m), d.layers, np.int64)
        layer_forward(d.gemm, l, sizes, runs, theta, work_of(d, sizes, k), m)

    @kernel
    def shard_forward(d, sizes, shard, start, m, k):
        began = clock_ns(d.timespec) if d.spans != 0 else 0
        load(d, sizes, shard, start, m, k)
        loaded = clock_ns(d.timespec) if d.spans != 0 else 0
        theta = vector_at(theta_address(d), d.n_theta, real)
        runs = vector_at(runs_address(d, m), d.layers, np.int64)
        forward(d.gemm, sizes, runs, theta, work_of(d, sizes, k), m)
        add_span(d, ROWS, began, loaded)
        add_span(d, FORWARD, loaded, clock_ns(d.timespec) if d.spans != 0 else 0)
        return loaded

    @kernel
    def shard_output_layer(d, sizes, m, slot, k):
        units = vector_at(d.units, 1, np.float64)
        cost, correct = output_layer(sizes, units, work_of(d, sizes, k), m)
        slot[d.n_theta + COST], slot[d.n_theta + CORRECT] = cost, correct

    @kernel
    def shard_gradient(d, sizes, shard, start, m, slot, total, adds):
        loaded = shard_forward(d, sizes, shard, start, m, 0)
        shard_output_layer(d, sizes, m, slot, 0)
        work, theta = work_of(d, sizes, 0), vector_at(theta_address(d), d.n_theta, real)
        for l in range(d.layers, 0, -1):
            backward(d.gemm, l, sizes, theta, slot, total, adds, work, m)
        add_span(d, BACKPROP, loaded, clock_ns(d.timespec) if d.spans != 0 else 0)

    @kernel
    def shard_layer(d, sizes, l, m, slot, total, adds, k):
        work = work_of(d, sizes, k)
        if l < d.layers:
            theta = vector_at(theta_address(d), d.n_theta, real)
            propagate(d.gemm, l + 1, sizes, theta, work, m)
        layer_gradient(d.gemm, l, sizes, slot, total, adds, work, m)

    return _Shards(
        load, shard_layer_forward, shard_forward, shard_output_layer, shard_gradient, shard_layer
    )


@inlined
def _task(d, i, rows):
    """Return the i-th task in a batch of so many rows: shard, place, additions, first row, m."""
    schedule = vector_at(d.schedule, 3 * d.tasks, np.int64)
    shard = schedule[3 * i]
    start, stop = rows * shard // d.shards, rows * (shard + 1) // d.shards
    return shard, schedule[3 * i + 1], schedule[3 * i + 2], start, stop - start


@inlined
def _adds(d, count, m):
    """Return 1 if a shard's gradient is added to that of the slot below as it is computed, else 0.

    A product that BLAS adds to another saves writing it and reading both.
    """
    return 1 if d.adds_products != 0 and count > 0 and m > 0 else 0


@kernel
def _write_requests(d, i, slot):
    # They are sums over ranks: each rank counts once, with its first shard and step.
    is_first = i == 0 and d.step == 0
    slot[d.n_theta + STOP_REQUESTS] = d.wants_stop if is_first else 0
    slot[d.n_theta + SAVE_REQUESTS] = d.wants_save if is_first else 0


def _make_accumulate(choice: Choice, views: Views) -> Scalar:
    """Return the kernel that adds up n numbers from `at` on of what a shard completes."""
    slot_address, real = views.slot_address, choice.real

    @kernel
    def accumulate(d, place, count, at, n):
        for top in range(place, place - count, -1):
            below = part(vector_at(slot_address(d, top - 1), d.width, real), at, n)
            add(below, part(vector_at(slot_address(d, top), d.width, real), at, n), below, n)

    return accumulate


def make_batch_gradient(choice: Choice) -> Scalar:
    """Return the kernel that writes the gradients of this rank's shards of a batch."""
    views = make_views(choice)
    shards, accumulate = _make_shards(choice), _make_accumulate(choice, views)
    has_layers = choice.has_messages
    compute_layers = _make_layers(choice, views, shards, accumulate) if has_layers else None
    shard_gradient, slot_address = shards.gradient, views.slot_address
    real, zero = choice.real, choice.real(0)

    @kernel
    def compute(d):
        sizes, first = vector_at(d.sizes, d.layers + 1, np.int64), d.step * d.batch_size
        rows = min(d.batch_size, d.n_numbers - first)
        for i in range(d.tasks - d.layered):
            shard, place, count, start, m = _task(d, i, rows)
            slot, adds = vector_at(slot_address(d, place), d.width, real), _adds(d, count, m)
            if m == 0:  # a short last batch may leave shards empty
                for j in range(d.width):
                    slot[j] = zero
            else:
                total = vector_at(slot_address(d, place - adds), d.width, real)
                shard_gradient(d, sizes, shard, first + start, m, slot, total, adds)
            _write_requests(d, i, slot)
            accumulate(d, place - adds, count - adds, 0, d.n_theta)
            accumulate(d, place, count, d.n_theta, d.width - d.n_theta)
        if has_layers and d.progress != 0:
            compute_layers(d, sizes, first, rows)

    return compute


def _make_layers(choice: Choice, views: Views, shards: _Shards, accumulate: Scalar) -> Scalar:
    """Return the kernel of the last `layered` shards: forward all of them, then by layers."""
    forward, output_layer = shards.forward, shards.output_layer
    layer_gradient, slot_address = shards.layer, views.slot_address
    real, zero = choice.real, choice.real(0)

    @kernel
    def forward_all(d, sizes, first, rows):
        alone = d.tasks - d.layered
        for i in range(alone, d.tasks):
            shard, place, count, start, m = _task(d, i, rows)
            slot = vector_at(slot_address(d, place), d.width, real)
            slot[d.n_theta + COST], slot[d.n_theta + CORRECT] = zero, zero
            if m > 0:
                if d.has_forward == 0:
                    forward(d, sizes, shard, first + start, m, i - alone)
                output_layer(d, sizes, m, slot, i - alone)
            _write_requests(d, i, slot)
            accumulate(d, place, count, d.n_theta, d.width - d.n_theta)

    @kernel
    def compute_layers(d, sizes, first, rows):
        began = clock_ns(d.timespec) if d.spans != 0 else 0
        forward_all(d, sizes, first, rows)
        at, alone = d.n_theta, d.tasks - d.layered
        for l in range(d.layers, 0, -1):
            n = sizes[l] * (sizes[l - 1] + 1)
            at -= n
            for i in range(alone, d.tasks):
                _, place, count, _, m = _task(d, i, rows)
                slot, adds = vector_at(slot_address(d, place), d.width, real), _adds(d, count, m)
                if m == 0:
                    for j in range(at, at + n):
                        slot[j] = zero
                else:
                    total = vector_at(slot_address(d, place - adds), d.width, real)
                    layer_gradient(d, sizes, l, m, slot, total, adds, i - alone)
                accumulate(d, place - adds, count - adds, at, n)
            store_release(d.progress, d.layers - l + 1)
        add_span(d, BACKPROP, began, clock_ns(d.timespec) if d.spans != 0 else 0)

    return compute_layers


def make_forward_ahead(choice: Choice) -> Scalar:
    """Return the kernel of one layer of the forward pass of all shards, which are layered."""
    shards = _make_shards(choice)
    load, layer_forward = shards.load, shards.layer_forward

    @kernel
    def forward_ahead(d):
        began = clock_ns(d.timespec) if d.spans != 0 else 0
        sizes, rows = vector_at(d.sizes, d.layers + 1, np.int64), d.n_numbers
        for i in range(d.tasks):
            shard, _, _, start, m = _task(d, i, rows)
            if m > 0:
                if d.layer == 1:
                    load(d, sizes, shard, start, m, i)
                layer_forward(d, sizes, d.layer, m, i)
        add_span(d, FORWARD, began, clock_ns(d.timespec) if d.spans != 0 else 0)

    return forward_ahead
