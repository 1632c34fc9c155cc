"""How long a step would take on how many ranks, and which numbers of ranks pay.

`measure` times on this machine what a step is made of; `predict` puts it together for
any number of ranks and nodes:

    compute   shards of the busiest rank · backprop of one of them
    sum       numbers of θ that a rank adds up and updates · time for each
    wait      barriers of a node, and what a step costs beside
    network   messages · latency + bytes that a node sends / bandwidth

Between M nodes each sends (M − 1) / M of θ for every partial sum that it has, and the
same for its part of the finished sum (see `combine`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median

import numpy as np

from distbp.errors import ConfigError
from distbp.network.network import Network
from distbp.network.optimizers import OPTIMIZERS
from distbp.network.parameters import layer_views, theta_size
from distbp.network.update import Update
from distbp.parallel import host
from distbp.parallel.comm import Comm, Group
from distbp.parallel.internode import make_exchanges, run_exchanges
from distbp.parallel.reduction import make_reduction
from distbp.parallel.reduction_plan import count_slices, plan_exchanges
from distbp.parallel.shards import default_shards, rank_shards, subtrees
from distbp.training.config import check_shards
from distbp.training.options import flag


@dataclass(frozen=True)
class Question:
    """What is asked: a network, a batch, and ranks; None for the default.

    Raises
    ------
    ConfigError
        A number makes no sense.
    """

    sizes: tuple[int, ...]
    batch_size: int = 256
    shards: int | None = None
    dtype: str = "float32"
    up_to: int = 1000
    ranks_a_node: int | None = None
    latency: float = 20.0  # µs
    bandwidth: float = 10.0  # Gbit/s

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ConfigError(
                f"--sizes {self.sizes!r}: expected two or more layers, as in 784,100,10."
            )
        for name in ("batch_size", "shards", "up_to", "ranks_a_node", "latency", "bandwidth"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{flag(name)} {value!r}: expected more than 0.")
        check_shards(self.shards, self.batch_size)


PAYS = 0.5  # a rank has to be worth at least half a rank
SECONDS = 0.2  # that a measurement takes


@dataclass(frozen=True)
class Costs:
    """What a step is made of, in seconds.

    Attributes
    ----------
    shard : of one shard, from its rows to its gradient
    add, update : of a number of θ, to add another gradient's and to update it
    step : of what each step costs beside
    barrier : of a node's ranks, for each rank beyond the first
    latency : of a message between nodes
    bandwidth : bytes a second that a node sends and receives
    """

    shard: float
    add: float
    update: float
    step: float
    barrier: float
    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Step:
    """A predicted step: the ranks and nodes that make it, and its seconds by cause."""

    ranks: int
    nodes: int
    compute: float
    sum: float
    wait: float
    network: float

    @property
    def seconds(self) -> float:
        return self.compute + self.sum + self.wait + self.network


def answer(question: Question, comm: Comm) -> list[str]:
    """Return what is to be said to a question; collective."""
    sizes, batch_size = question.sizes, question.batch_size
    shards = question.shards or default_shards(batch_size, sizes)
    per_node = question.ranks_a_node or len(host.cores())
    rows = -(-batch_size // shards)
    host.use_threads(1)
    costs = measure(
        comm, sizes, question.dtype, rows, question.latency * 1e-6, question.bandwidth * 1e9 / 8
    )
    parameters, itemsize = theta_size(sizes), np.dtype(question.dtype).itemsize
    steps = [
        predict(costs, parameters, itemsize, shards, ranks, per_node)
        for ranks in numbers_of_ranks(question.up_to)
    ]
    source = "measured" if comm.nodes > 1 else "given"
    speed = flops(sizes, rows) / costs.shard / 1e9
    return [
        f"{'-'.join(map(str, sizes))}, {parameters:,} parameters; batches of {batch_size} rows, "
        f"{shards} shards of {rows}; up to {per_node} ranks a node",
        f"measured with {comm.size} here: a shard {costs.shard * 1e6:,.0f} µs "
        f"({speed:.0f} GFLOP/s), adding {costs.add * 1e9:.2f} and updating "
        f"{costs.update * 1e9:.2f} ns a parameter, a barrier {costs.barrier * 1e6:.1f} µs",
        f"between nodes, {source}: {costs.latency * 1e6:.0f} µs, "
        f"{costs.bandwidth * 8e-9:.2g} Gbit/s",
        "",
        *table(steps),
        "",
        *advice(steps, batch_size, shards),
    ]


def flops(sizes: Sequence[int], rows: int) -> float:
    """Return the operations of backprop's matrix products: 2 forward, 2 for BP4, 2 for BP2."""
    products = [n_in * n_out for n_in, n_out in pairwise(sizes)]
    return 2.0 * rows * (3 * sum(products) - products[0])


def predict(
    costs: Costs, parameters: int, itemsize: int, shards: int, ranks: int, ranks_a_node: int
) -> Step:
    """Return the step of `ranks` ranks, `ranks_a_node` on each node but the last."""
    runs = [rank_shards(shards, ranks, rank) for rank in range(ranks)]
    firsts = range(0, ranks, ranks_a_node)
    busiest = max(stop - start for start, stop in runs)
    here = min(ranks, ranks_a_node)
    root = (0, shards)
    partials = sum(len(list(subtrees(run, root))) for run in runs[:here])
    last = [min(first + ranks_a_node, ranks) - 1 for first in firsts]
    trees = [
        len(list(subtrees((runs[first][0], runs[end][1]), root)))
        for first, end in zip(firsts, last, strict=True)
    ]
    lanes = count_slices(parameters, shards, min(here, last[-1] - firsts[-1] + 1))
    in_node = max(partials - trees[0], 0) * parameters / lanes * costs.add
    own = (busiest - 1) * parameters * costs.add
    nodes = len(firsts)
    network = 0.0
    if nodes > 1:
        sent = (nodes - 1) / nodes * parameters * itemsize
        messages = (max(trees) + 1) * np.ceil(np.log2(nodes))
        between = max(sum(trees) - 1, 0) * parameters / lanes / nodes * costs.add
        network = messages * costs.latency + (max(trees) + 1) * sent / costs.bandwidth + between
    return Step(
        ranks, nodes,
        compute=busiest * costs.shard,
        sum=own + in_node + parameters / lanes * costs.update,
        wait=costs.step + 2 * (here - 1) * costs.barrier,
        network=float(network),
    )  # fmt: skip


def measure(
    comm: Comm, sizes: Sequence[int], dtype: str, rows: int, latency: float, bandwidth: float
) -> Costs:
    """Return what a step is made of here; all ranks measure at once, the slowest counts.

    Parameters
    ----------
    comm : Comm
    sizes, dtype : of the network
    rows : int
        Of a shard.
    latency, bandwidth : float
        What to assume if there is only one node; several are measured.
    """
    network = Network(sizes, dtype=dtype)
    size = network.theta.size
    random = np.random.default_rng(0)
    raw = random.integers(0, 256, (rows, sizes[0]), np.uint8)
    x, y = np.empty(raw.shape, dtype), np.eye(sizes[-1], dtype=dtype)[np.arange(rows) % sizes[-1]]
    out, work = layer_views(np.empty(size, dtype), sizes), network.workspace(rows)

    def shard() -> None:
        np.copyto(x, raw)
        np.multiply(x, 1 / 255, out=x)
        network.backprop(x, y, out, work)
        network.cost.fn(work.z[-1], work.a[-1], y, work.spare[-1])

    one, other = np.zeros(size, dtype), np.ones(size, dtype)
    reduction, _ = make_reduction("node", Comm(), 1, Update(network, OPTIMIZERS["sgd"]()))
    small_network = Network((1, 1), dtype=dtype)
    small, _ = make_reduction("node", Comm(), 1, Update(small_network, OPTIMIZERS["sgd"]()))
    per_step = timed(lambda: small.reduce_and_update(1, 0.0))
    barrier = 1e-6
    if comm.node_size > 1:
        barrier = timed(comm.node_barrier(), 2000) / (comm.node_size - 1)
    lane = comm.cross_node_comm()
    if lane is not None and lane.size > 1 and comm.node_rank == 0:  # the others share the cable
        latency, bandwidth = measure_network(lane, size, dtype)
    latency, bandwidth = comm.broadcast([latency, bandwidth])
    found = {
        "shard": timed(shard),
        "add": timed(lambda: np.add(one, other, out=one)) / size,
        "update": max(timed(lambda: reduction.reduce_and_update(1, 0.0)) - per_step, 0.0) / size,
        "step": per_step,
        "barrier": barrier,
        "latency": latency,
        "bandwidth": bandwidth,
    }
    everywhere = comm.allgather(found)
    slowest = {name: max(rank[name] for rank in everywhere) for name in found}
    return Costs(**slowest | {"bandwidth": min(rank["bandwidth"] for rank in everywhere)})


def measure_network(lane: Group, size: int, dtype: str) -> tuple[float, float]:
    """Return latency in seconds and bandwidth in bytes a second between some nodes.

    They are those of a sum of `size` numbers, of which each node has a part, and of one
    that is next to nothing: pieces of a large sum overlap.
    """
    nodes = lane.size
    trees, seconds = [[(node, node + 1)] for node in range(nodes)], []
    for count in (nodes, size):
        mine, total = np.zeros(count, dtype), np.zeros(count, dtype)
        plans = plan_exchanges(trees, (0, nodes), count, total.itemsize, lane.rank)
        exchanges = make_exchanges(plans, lane, [mine], total)
        seconds.append(timed(partial(run_exchanges, exchanges), 5))
    sent = 2 * (nodes - 1) / nodes * total.nbytes
    latency = seconds[0] / (2 * np.ceil(np.log2(nodes)))
    return float(latency), float(sent / max(seconds[1] - seconds[0], 1e-9))


def timed(function: Callable[[], object], calls: int = 0) -> float:
    """Return the seconds that a call takes: the median of several runs of `calls` calls.

    Where all ranks have to call it equally often, `calls` is given.
    """
    function()
    if not calls:
        began = time.perf_counter()
        function()
        calls = max(1, int(SECONDS / 7 / max(time.perf_counter() - began, 1e-7)))
    runs = []
    for _ in range(7):
        began = time.perf_counter()
        for _ in range(calls):
            function()
        runs.append((time.perf_counter() - began) / calls)
    return median(runs)


def numbers_of_ranks(most: int) -> list[int]:
    """Return 1, 2, 4, 8, … and `most`."""
    return sorted({1 << i for i in range(most.bit_length())} | {most})


def table(steps: Sequence[Step]) -> Iterator[str]:
    """Yield the lines of a table: a step each."""
    yield "ranks  nodes   µs a step  compute     sum    wait  network  speedup  efficiency"
    first = steps[0].seconds
    for s in steps:
        compute, total, wait, network = (
            f"{part * 1e6:,.0f}" for part in (s.compute, s.sum, s.wait, s.network)
        )
        speedup = first / s.seconds
        yield (
            f"{s.ranks:5d}  {s.nodes:5d}  {s.seconds * 1e6:10,.0f}  {compute:>7}  {total:>6}  "
            f"{wait:>6}  {network:>7}  {speedup:7.2f}  {speedup / s.ranks:10.0%}"
        )


def advice(steps: Sequence[Step], batch_size: int, shards: int) -> Iterator[str]:
    """Yield what the table means: which ranks pay, why no more do, and what would change it."""
    first = steps[0].seconds
    employed = [s for s in steps if s.ranks <= shards]
    fastest = min(employed, key=lambda step: step.seconds)
    paying = [s for s in employed if first / s.seconds >= PAYS * s.ranks]
    yield (
        f"{paying[-1].ranks} ranks pay: each is worth at least {PAYS:.0%} of one alone. "
        f"{fastest.ranks} are fastest: {first / fastest.seconds:.1f} times one."
    )
    beyond = next((s for s in steps if s.ranks > paying[-1].ranks), None)
    if beyond is None:
        return
    rows = batch_size // shards
    if beyond.ranks > shards:
        yield (
            f"Beyond, ranks have nothing to compute: a batch of {batch_size} rows is cut into "
            f"{shards} shards of {rows}."
        )
        larger, fewer = batch_size * beyond.ranks // shards, max(batch_size // beyond.ranks, 1)
        yield (
            f"A batch of {larger} rows, or --shards {beyond.ranks} with {fewer} rows each, would "
            f"employ {beyond.ranks} ranks; both change the result."
        )
        return
    causes = {"the network": beyond.network, "waiting": beyond.wait, "the sum": beyond.sum}
    cause = max(causes, key=lambda name: causes[name])
    factor = max(2, round(causes[cause] / beyond.compute + 0.5))
    yield f"Beyond, {cause} takes {causes[cause] / beyond.compute:.1f} times as long as backprop."
    yield f"A batch {factor} times as large would change that; it changes the result too."
