"""The contender distbp: real training steps of a real run, under MPI or alone."""

import os
import sys
from itertools import cycle
from pathlib import Path

from distbp import kernels

# As the command line does, before NumPy is loaded.
kernels.select(kernels.NATIVE, [kernels.Cpu.detect(os.environ)], os.environ)

import numpy as np  # noqa: E402
from turns import take_turns  # noqa: E402

from distbp.data import dataset  # noqa: E402
from distbp.errors import DataError  # noqa: E402
from distbp.network.parameters import layer_views  # noqa: E402
from distbp.parallel.step_totals import STATS_WIDTH, StepTotals  # noqa: E402
from distbp.parallel.topology import connect  # noqa: E402
from distbp.storage import hdf5_file, scaling  # noqa: E402
from distbp.training.config import Config  # noqa: E402
from distbp.training.loop import Run  # noqa: E402
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


def without_communication(parts):
    """Let each rank step by its own shards only: the step without any communication.

    It adds up and updates as if it were the only rank; the result is a different one.
    """
    reduction, update = parts.reduction, parts.update
    partials = reduction.slots[: len(reduction.plan.partials)]
    theta = parts.network.theta.copy()
    update.move([[theta.copy(), *state] for state in ([], [])], (0, theta.size), np.zeros(1))

    def reduce_and_update(rows, learning_rate):
        total = reduction.slots[0]
        for other in partials[1:]:
            np.add(total, other, out=total)
        update.apply(total[:-STATS_WIDTH], rows, learning_rate)
        return StepTotals(*total[-STATS_WIDTH:].tolist(), applied=True)

    reduction.reduce_and_update = reduce_and_update


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

    def reduce_and_update(rows, learning_rate):
        for other in partials[1:]:
            np.add(total, other, out=total)
        MPI.Request.Waitall([MPI.COMM_WORLD.Iallreduce(MPI.IN_PLACE, view) for view in views])
        update.apply(total[:-STATS_WIDTH], rows, learning_rate)
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
    how, _, shards = how.partition("=")
    combine = {"silent": "node", "shards": "node", "iallreduce": "allreduce"}.get(how, how)
    config = Config(
        data=str(path),
        out=str(folder / "run"),
        hidden=tuple(hidden),
        batch_size=int(batch_size),
        learning_rate=0.01,
        combine=combine,
        shards=int(shards) if shards else None,
        quiet=True,
    )
    parts = assemble(config, comm)
    if how == "silent":
        without_communication(parts)
    if how == "iallreduce":
        iallreduce_each(parts)
    run = Run(parts)
    order = np.random.default_rng(1).permutation(ROWS)
    size = config.batch_size
    batches = cycle([order[i : i + size] for i in range(0, ROWS - size + 1, size)])

    def step():
        run.progress = parts.start
        run.step(next(batches))

    take_turns(folder, comm.rank == 0, step, comm.world.allgather)


if __name__ == "__main__":
    main()
