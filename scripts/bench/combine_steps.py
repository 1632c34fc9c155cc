"""The contender: sum gradients of some size and update θ, without any backprop."""

import sys
from pathlib import Path

import numpy as np
from turns import take_turns

from distbp.network.network import Network
from distbp.network.optimizers import OPTIMIZERS
from distbp.network.update import Update
from distbp.parallel.reduction_factory import make_reduction
from distbp.parallel.topology import Topology, connect

REDUCTION = {"write": "node", "local": "node"}


def main():
    how, megabytes, folder = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    ranks = connect()
    comm = Topology() if how == "local" else ranks  # local: a rank on its own
    size = int(megabytes * 1e6 / 4)
    network = Network((size - 1, 1), theta=np.zeros(size, np.float32))
    update = Update(network, OPTIMIZERS["sgd"]())
    reduction, warning = make_reduction(REDUCTION.get(how, how), comm, comm.size, update)
    if warning:
        sys.exit(warning)
    gradient = np.random.default_rng(ranks.rank).normal(size=size).astype(np.float32)

    def step():
        # As backprop does: the rank that computes a gradient has it in its cache.
        np.copyto(reduction.slots[0][:size], gradient)
        if how == "write":
            ranks.world.barrier()
        else:
            reduction.reduce_and_update(64, 0.01)

    take_turns(folder, ranks.rank == 0, step, ranks.world.allgather)


main()
