"""The contender distbp: real training steps of a real run, under MPI or alone."""

import os
import sys
from itertools import count as count_from
from itertools import cycle
from pathlib import Path

from distbp import kernels

# As the command line does, before NumPy is loaded.
kernels.select(kernels.NATIVE, [kernels.Cpu.detect(os.environ)], os.environ)

import numpy as np  # noqa: E402
from turns import WARM_UP_CALLS, put, take_turns  # noqa: E402

from distbp.data import dataset  # noqa: E402
from distbp.errors import DataError  # noqa: E402
from distbp.network.parameters import layer_views  # noqa: E402
from distbp.parallel.shards import default_shards  # noqa: E402
from distbp.parallel.step_totals import STATS_WIDTH, StepTotals  # noqa: E402
from distbp.parallel.topology import Topology, connect  # noqa: E402
from distbp.storage import hdf5_file, scaling  # noqa: E402
from distbp.training.config import Config  # noqa: E402
from distbp.training.loop import Run  # noqa: E402
from distbp.training.profiling import profiled  # noqa: E402
from distbp.training.setup import assemble  # noqa: E402

ROWS = 10_240


def write_data(path, n_in, n_out):
    """Write random bytes with random labels."""
    random = np.random.default_rng(0)
    about = {
        "task": "classification",
        "classes": [str(label) for label in range(n_out)],
        "shape": [n_in],
        "scaling": "bytes",
        "source": {"files": ["random bytes"], "sha256": ""},
        "split": "no test set",
        "digest": "",
    }
    with hdf5_file.create_file(path, dataset.DATA_FORMAT, dataset.DATA_VERSION, DataError) as file:
        hdf5_file.write_json(file, "about", about)
        scaling.Scaling(np.zeros(1), np.full(1, 1 / 255)).write(file)
        hdf5_file.write_array(file, "train/x", random.integers(0, 256, (ROWS, n_in), np.uint8))
        hdf5_file.write_array(file, "train/y", random.integers(0, n_out, ROWS))


def iallreduce_each(parts):
    """Sum as ShallowSpeed does: one Iallreduce for each array of weights and of biases."""
    from mpi4py import MPI

    reduction, update = parts.reduction, parts.update
    total = reduction.slots[0]
    views = [
        view for layers in layer_views(total[:-STATS_WIDTH], parts.network.sizes) for view in layers
    ]
    views.append(total[-STATS_WIDTH:])
    partials = reduction.slots[: len(reduction.plan.partials)]

    def reduce_and_update(rows, learning_rate, forward_ahead=None):
        for other in partials[1:]:
            np.add(total, other, out=total)
        MPI.Request.Waitall([MPI.COMM_WORLD.Iallreduce(MPI.IN_PLACE, view) for view in views])
        update.apply(total[:-STATS_WIDTH], rows, learning_rate, reduction.chunk_update)
        return StepTotals(*total[-STATS_WIDTH:].tolist(), applied=True)

    reduction.reduce_and_update = reduce_and_update


def main():
    how, case, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    sizes, batch_size = case.split(":")
    n_in, *hidden, n_out = (int(n) for n in sizes.split("-"))
    comm = connect()
    path = folder / "data.h5"
    if comm.rank == 0:
        write_data(path, n_in, n_out)
    comm.world.barrier()
    how, _, value = how.partition("=")
    batch_size, shards = int(batch_size), int(value) if how == "shards" else None
    if how == "silent":
        # Each rank steps by its own rows only, half of the batch of two, and updates all of θ.
        shards = max(default_shards(batch_size, (n_in, *hidden, n_out)) // comm.size, 1)
        batch_size = max(batch_size // comm.size, 1)
    config = Config(
        data=str(path),
        out="" if how == "silent" else str(folder / "run"),
        hidden=tuple(hidden),
        batch_size=batch_size,
        learning_rate=0.01,
        combine={"tree": "tree", "allreduce": "allreduce", "iallreduce": "allreduce"}.get(
            how, "node"
        ),
        shards=shards,
        engine="numpy" if how == "numpy" else "auto",
        profile=str(folder / "trace.json") if how == "profile" else None,
        quiet=True,
    )
    parts = assemble(config, Topology() if how == "silent" else comm)
    if how == "no-overlap" and parts.reduction.overlap is not None:
        parts.reduction.overlap.disable()
    if how == "iallreduce":
        iallreduce_each(parts)
    run, count = Run(parts), min(parts.engine.max_steps, ROWS // batch_size)
    order = np.random.default_rng(1).permutation(ROWS)
    size = batch_size * count
    batches = cycle([order[i : i + size] for i in range(0, ROWS - size + 1, size)])
    ahead, calls = [next(batches)], count_from(1)
    overlap = parts.reduction.overlap

    def step():
        ahead.append(next(batches))
        following = ahead[1][:batch_size] if parts.engine.looks_ahead else ahead[1][:0]
        run.step(ahead.pop(0), following)

    def steps():
        step()
        # In the first turn, when no other contender runs: a training finds the fastest mode.
        while overlap is not None and next(calls) > WARM_UP_CALLS and not overlap.is_settled:
            step()

    with profiled(parts):
        take_turns(folder, comm.rank == 0, steps, comm.world.allgather, count)
    if overlap is not None and comm.rank == 0:
        put(folder / "note", f"{overlap.mode}, {overlap.hidden or 0.0:.0%} hidden")


if __name__ == "__main__":
    main()
