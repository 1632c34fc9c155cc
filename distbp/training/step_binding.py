"""Binds the arrays of a run to the descriptor of the compiled step (`compiled.descriptor`).

`make_choice` says which code a run needs; `bind_step` and `bind_sum` fill in what does not change
from step to step: rows of the data set, buffers, this rank's shards, and its part in the sum and
the update, which is that of its `ReductionPlan`.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from distbp.compiled.arrays import allocate_work
from distbp.compiled.blas import adds_exactly
from distbp.compiled.choice import Choice
from distbp.compiled.descriptor import Binding, address
from distbp.compiled.product_choice import lane_bytes, run_lengths
from distbp.data.dataset import DataSet
from distbp.network.costs import RegressionCost
from distbp.network.dropout import keep_scale, keep_threshold
from distbp.network.parameters import THETA_BLOCK
from distbp.network.update import Update
from distbp.parallel import host
from distbp.parallel.barrier import COUNTER_STRIDE, Barrier
from distbp.parallel.reduction import OrderedReduction
from distbp.parallel.shards import shard_rows
from distbp.training.config import Config
from distbp.training.gradient import BatchGradient

# Compiled code reads a counter about so many times as often as Python, in the same time.
_SPINS_FACTOR = 20

_NOTHING = np.zeros(1)


class StepParts(NamedTuple):
    """The parts of a run that its steps consist of."""

    config: Config
    data: DataSet
    gradient: BatchGradient
    update: Update


def make_choice(parts: StepParts, has_messages: bool) -> Choice:
    """Return what the code of a run's step depends on."""
    config, data, gradient, update = parts
    network, loader, split = gradient.network, gradient.loader, gradient.loader.split
    return Choice(
        dtype=network.dtype.name,
        activation=network.activation,
        output=network.output,
        cost=network.cost_name,
        task=data.task,
        x_dtype=split.x_dtype.str,
        y_dtype=split.y_dtype.str,
        targets=(
            "labels" if loader.one_hot is not None
            else "scaled" if loader.has_scaled_targets else "plain"
        ),
        is_shifted=loader.is_shifted,
        is_scaled=loader.is_scaled,
        has_weights=loader.weights is not None,
        has_units=_unit_weights(parts) is not None,
        has_dropout=config.dropout > 0,
        optimizer=config.optimizer,
        has_l1=update.l1 > 0,
        has_l2=update.l2 > 0,
        has_decay=update.decay > 0,
        has_average=update.ema > 0,
        has_clip=update.clip_norm is not None,
        n_arrays=len(update.store.versions[0]),
        lane_bytes=lane_bytes(),
        has_messages=has_messages,
    )  # fmt: skip


def _unit_weights(parts: StepParts) -> np.ndarray | None:
    cost = parts.gradient.network.cost
    return cost.unit_weights if isinstance(cost, RegressionCost) else None


def bind_step(binding: Binding, parts: StepParts) -> None:
    """Bind what every step needs: the rows, the network, and this rank's shards."""
    _bind_rows(binding, parts)
    _bind_shards(binding, parts)
    config, _, gradient, update = parts
    fields, sizes = binding.fields, gradient.network.sizes
    fields.layers, fields.n_theta = len(sizes) - 1, gradient.network.theta.size
    units, versions = _unit_weights(parts), update.store.versions
    binding.put(
        sizes=np.array(sizes, np.int64),
        units=_NOTHING if units is None else units,
        versions=np.array([[address(one) for one in version] for version in versions]),
        squares=update.squares,
    )
    fields.clip_norm = math.inf if update.clip_norm is None else update.clip_norm
    fields.arrays = len(versions[0])
    fields.seed, fields.batch_size = config.seed, config.batch_size
    fields.keep_threshold = keep_threshold(config.dropout)
    fields.keep_scale = keep_scale(config.dropout)


def _bind_rows(binding: Binding, parts: StepParts) -> None:
    """Bind the rows of the data set, and how they become numbers."""
    loader, scaling, target = parts.gradient.loader, parts.data.scaling, parts.data.target
    split, dtype = loader.split, parts.gradient.network.dtype
    wide = np.result_type(split.x_dtype, dtype)
    binding.put(
        x=split.x,
        y=split.y,
        shift=np.broadcast_to(scaling.shift.astype(wide), split.n_in).copy(),
        scale=np.broadcast_to(scaling.scale.astype(wide), split.n_in).copy(),
        one_hot=_NOTHING if loader.one_hot is None else loader.one_hot,
        y_shift=_NOTHING if target is None else target.shift,
        y_scale=_NOTHING if target is None else target.scale,
        weights=_NOTHING if loader.weights is None else loader.weights,
    )
    binding.fields.x_bytes, binding.fields.y_bytes = split.x.nbytes, split.y.nbytes


def _bind_shards(binding: Binding, parts: StepParts) -> None:
    """Bind the buffers of a shard, and this rank's schedule with its slots."""
    config, gradient, fields = parts.config, parts.gradient, binding.fields
    network, plan, slots = gradient.network, gradient.reduction.plan, gradient.reduction.slots
    rows, shards = len(gradient.loader.split), config.shards or 1
    # A last, short batch has shards of other sizes.
    batches = {min(config.batch_size, rows), rows % config.batch_size}
    runs = [shard_rows(batch, shards, task.shard) for batch in batches for task in plan.schedule]
    counts = sorted({stop - start for start, stop in runs} - {0}) or [1]
    # As many as are computed layer by layer.
    rows_of_all = counts[-1] * len(gradient.loaders)
    work = allocate_work(network.sizes, rows_of_all, network.dtype, config.dropout > 0)
    binding.put(**{f"work_{name}": array for name, array in work._asdict().items()})
    products = [
        [m, *run_lengths(network.sizes, m, network.dtype, config.blas is None)] for m in counts
    ]
    schedule = [tuple(task) for task in plan.schedule] or [(0, 0, 0)]
    binding.put(
        runs=np.array(products, np.int64), schedule=np.array(schedule, np.int64), slots=slots
    )
    fields.rows, fields.shard_sizes, fields.shards = counts[-1], len(counts), shards
    fields.tasks, fields.width = len(plan.schedule), plan.width
    fields.adds_products = (
        any(task.additions for task in plan.schedule)
        and config.blas is None
        and host.loaded_kernels() != ""  # other libraries may depend on where an array begins
        and all(
            adds_exactly(fields.gemm, network.dtype, m, n_in, n_out)
            for m in counts
            for n_in, n_out in set(pairwise(network.sizes))
        )
    )
    fields.stride = slots.strides[0] // slots.itemsize


def bind_sum(binding: Binding, reduction: OrderedReduction, update: Update) -> None:
    """Bind this rank's part in the sum over the ranks of a node, and in the update."""
    fields, plan, buffers = binding.fields, reduction.plan, reduction.buffers
    start, stop = plan.owned_theta
    partials = [buffers.slots[slot] for slot in plan.node_partials]
    # The address of each sum's first number, and whether it moves on with the chunk: sums that are
    # needed at once stay where they are, as those of the chunk before are not needed any more.
    sums = [(address(one) + start * one.itemsize, 1) for one in partials]
    scratch = np.zeros((max(plan.scratch, default=-1) + 1, THETA_BLOCK), buffers.slots.dtype)
    additions = []
    for (into, other), buffer in zip(plan.node_additions, plan.scratch, strict=True):
        result = sums[into] if update.clip_norm is not None else (address(scratch[buffer]), 0)
        additions.append((*sums[into], *sums[other], result[0]))
        sums[into] = result
    fields.gradient, fields.gradient_moves = sums[plan.node_sums[0]]
    stats = [address(one[plan.size :]) for one in partials]
    stats_additions = [(stats[into], stats[other]) for into, other in plan.node_additions]
    binding.put(
        additions=np.array(additions or [(0, 0, 0, 0, 0)], np.int64),
        stats_additions=np.array(stats_additions or [(0, 0)], np.int64),
        flags=buffers.flags,
    )
    binding.keep("scratch", scratch)
    binding.keep("partials", buffers.slots)
    fields.n_additions = fields.n_stats_additions = len(additions)
    fields.own_start, fields.own_stop = start, stop
    fields.owns_stats, fields.stats = plan.owns_statistics, stats[plan.node_sums[0]]
    fields.rank, fields.ranks = plan.node_rank, plan.node_size


def bind_barrier(binding: Binding, barrier: Barrier | None) -> None:
    """Bind the barrier of the node's ranks; None for one rank alone."""
    counters = np.zeros(COUNTER_STRIDE, np.int64) if barrier is None else barrier.counters
    binding.put(counters=counters)
    binding.fields.spins = 0 if barrier is None else barrier.spins * _SPINS_FACTOR
