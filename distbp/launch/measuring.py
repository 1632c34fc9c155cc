"""How long something takes on this machine, and what the network between its hosts can do.

What is measured is up to the caller: `planner` predicts steps from it, `distbp doctor` shows it.
"""

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np

from distbp.parallel.comm import Group
from distbp.parallel.internode import ExchangeQueue, Peers, make_exchanges
from distbp.parallel.reduction_plan import plan_reduction

_MEASUREMENT_S = 0.2  # duration of a measurement
_MEASUREMENT_RUNS = 7  # of which the median counts
_EXCHANGE_CALLS = 5
_FIRST_CALLS = 3  # of a collective function, to find out how many to measure


def measure_network(comm: Group, size: int, dtype: str) -> tuple[float, float]:
    """Measure latency in seconds and bandwidth in bytes per second between nodes; collective.

    They follow from two reductions, one of `size` numbers and one of hardly any: the pieces of
    a large one overlap, so that the latency of a single message would be too pessimistic.

    Parameters
    ----------
    comm : Group
        Of one rank on each of at least two nodes.
    size : int
    dtype : str
    """
    nodes, seconds = comm.size, []
    for count in (nodes, size):
        own, total = np.zeros(count, dtype), np.zeros(count, dtype)
        plan = plan_reduction(count, 0, nodes, [1] * nodes, comm.rank, total.itemsize)
        queue = ExchangeQueue(make_exchanges(plan, Peers(comm, comm), [own], total))
        seconds.append(median_seconds(partial(queue.finish, lambda _: None), _EXCHANGE_CALLS))
    sent = 2 * (nodes - 1) / nodes * total.nbytes
    latency = seconds[0] / (2 * np.ceil(np.log2(nodes)))
    return float(latency), float(sent / max(seconds[1] - seconds[0], 1e-9))


def median_seconds(function: Callable[[], object], calls: int = 0) -> float:
    """Return the seconds of one call: the median of several runs of `calls` calls.

    Without `calls` they are chosen so that all runs take `_MEASUREMENT_S` together. A collective
    function needs `calls`, because all ranks have to call it equally often.
    """
    function()  # not measured: the first call may allocate
    if not calls:
        began = time.perf_counter()
        function()
        seconds = max(time.perf_counter() - began, 1e-7)
        calls = max(1, int(_MEASUREMENT_S / _MEASUREMENT_RUNS / seconds))
    runs = []
    for _ in range(_MEASUREMENT_RUNS):
        began = time.perf_counter()
        for _ in range(calls):
            function()
        runs.append((time.perf_counter() - began) / calls)
    return median(runs)


def collective_seconds(function: Callable[[], object], group: Group) -> float:
    """Return the seconds of one call of a collective function on the slowest rank; collective.

    By `median_seconds`; the first calls of rank 0 determine how many there are.
    """
    began = time.perf_counter()
    for _ in range(_FIRST_CALLS):
        function()
    seconds = max((time.perf_counter() - began) / _FIRST_CALLS, 1e-7)
    calls = max(1, int(_MEASUREMENT_S / _MEASUREMENT_RUNS / seconds))
    return max(group.allgather(median_seconds(function, group.broadcast(calls))))
