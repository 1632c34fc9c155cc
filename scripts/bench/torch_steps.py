"""The contender PyTorch, tuned: DDP over Gloo, here or on hosts, or one process with threads."""

import os
import sys
from itertools import cycle, pairwise
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from turns import take_turns

ROWS = 10_240
RANKS = 2


def make_model(sizes):
    layers = [layer for n in pairwise(sizes) for layer in (nn.Linear(*n), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def work(rank, ranks, case, folder, meeting=None):
    sizes_text, batch_text = case.split(":")
    sizes, batch_size = [int(n) for n in sizes_text.split("-")], int(batch_text)
    torch.manual_seed(0)
    model = make_model(sizes)
    if ranks > 1:
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo", init_method=meeting or f"file://{folder}/meet", rank=rank, world_size=ranks
        )
        model = DistributedDataParallel(model, gradient_as_bucket_view=True, static_graph=True)
    else:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
    loss = nn.CrossEntropyLoss()
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.integers(0, 256, (ROWS, sizes[0]), np.uint8))
    y = torch.from_numpy(random.integers(0, sizes[-1], ROWS))
    order = torch.from_numpy(np.random.default_rng(1).permutation(ROWS))
    mine = [
        order[i : i + batch_size][batch_size * rank // ranks : batch_size * (rank + 1) // ranks]
        for i in range(0, ROWS - batch_size + 1, batch_size)
    ]
    batches = cycle(mine)

    def step():
        numbers = next(batches)
        rows = x[numbers].float().mul_(1 / 255)
        optimizer.zero_grad(set_to_none=True)
        loss(model(rows), y[numbers]).backward()
        optimizer.step()

    def gather(number):
        if ranks == 1:
            return [number]
        numbers = [None] * ranks
        dist.all_gather_object(numbers, number)
        return numbers

    take_turns(Path(folder), rank == 0, step, gather)


def launched():
    """Return rank and number of the processes that mpiexec or mpirun has started."""
    for names in (("PMI_RANK", "PMI_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")):
        if names[0] in os.environ:
            return [int(os.environ[name]) for name in names]
    sys.exit("this process was not started by an MPI's launcher")


if __name__ == "__main__":
    how, case, folder = sys.argv[1:]
    # All processes are on this host, whatever its name resolves to.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if how == "ddp":
        mp.spawn(work, (RANKS, case, folder), RANKS)
    elif how.startswith("tcp:"):  # on several hosts: an MPI's launcher has started this process
        work(*launched(), case, folder, how)
    else:
        work(0, 1, case, folder)
