"""Train with PyTorch; print (seconds, test accuracy) of each epoch as JSON."""

import json
import os
import sys
import tempfile
import time

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def work(rank, ranks, arrays, epochs, hidden, batch_size, rate, momentum, meet):
    torch.manual_seed(0)
    data = np.load(arrays)
    x, y, x_test, y_test = (
        torch.from_numpy(data[name]) for name in ("x_train", "y_train", "x_test", "y_test")
    )
    x, x_test = x.reshape(len(x), -1), x_test.reshape(len(x_test), -1).float().mul_(1 / 255)
    y, y_test = y.long(), y_test.long()
    model = nn.Sequential(nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, 10))
    if ranks > 1:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=ranks)
        model = DistributedDataParallel(model, gradient_as_bucket_view=True, static_graph=True)
    else:
        torch.set_num_threads(os.cpu_count() or 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum, fused=True)
    loss = nn.CrossEntropyLoss()
    records = []
    for epoch in range(epochs):
        began = time.perf_counter()
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(len(x)))
        for start in range(0, len(x), batch_size):
            batch = order[start : start + batch_size]
            mine = batch[len(batch) * rank // ranks : len(batch) * (rank + 1) // ranks]
            optimizer.zero_grad(set_to_none=True)
            loss(model(x[mine].float().mul_(1 / 255)), y[mine]).backward()
            optimizer.step()
        seconds = time.perf_counter() - began
        with torch.no_grad():
            right = (model(x_test).argmax(dim=1) == y_test).float().mean().item()
        records.append((seconds, right))
    if ranks > 1:
        # A process that exits closes its connections, which another may still be reading from.
        dist.barrier()
        dist.destroy_process_group()
    if rank == 0:
        print(json.dumps(records), flush=True)


if __name__ == "__main__":
    count = int(sys.argv[1])
    # Both processes are on this host, whatever its name resolves to.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        arguments = (count, sys.argv[2], *map(int, sys.argv[3:6]), *map(float, sys.argv[6:8]),
                     f"{folder}/meet")  # fmt: skip
        if count > 1:
            mp.spawn(work, arguments, count)
        else:
            work(0, *arguments)
