"""Predict how long a step takes on any number of ranks, and which numbers of ranks are worthwhile.

`measure_costs` measures on this machine what a step consists of (`StepCosts`), and
`predict_step` combines that for a number of ranks and nodes (`StepPrediction`):

    compute   shards of the busiest rank · time of backprop for a shard
    sum       parameters that a rank adds up and updates · time for each
    wait      barriers within a node, and the fixed cost of a step
    network   messages · latency + bytes that a node sends / bandwidth, less what backprop hides

With M nodes, each sends (M − 1) / M of θ for every partial sum that it has, and as much again
for its part of the complete sum (see `parallel.reduction`). Other programs on these nodes, and
differences between nodes, are not modelled.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise

import numpy as np

from distbp.errors import CheckpointError, ConfigError
from distbp.launch.checkpoint_cost import checkpoint_line, measure_checkpoint
from distbp.launch.measuring import measure_network, median_seconds
from distbp.launch.step_timing import measure_step
from distbp.network.network import DTYPES
from distbp.network.parameters import theta_size
from distbp.options import check_option, flag, option, parse_sizes
from distbp.parallel import host
from distbp.parallel.overlap import hidden_seconds
from distbp.parallel.rank_errors import collective_errors
from distbp.parallel.reduction_plan import count_slices
from distbp.parallel.shards import check_shards, default_shards, rank_shards, subtrees
from distbp.parallel.topology import Topology
from distbp.training.compiled_engine import choose_engine
from distbp.training.config import AUTO, ENGINES, Config
from distbp.training.gradient import MAX_LAYERED_SHARDS


@dataclass(frozen=True)
class PlanRequest:
    """The network, batch and cluster to predict steps for; each field is an option of `plan`.

    Attributes
    ----------
    sizes : tuple of int
        Units of each layer, input and output included.
    batch_size : int
        Rows of the global mini-batch.
    shards : int or None
        By default as many as `train` uses.
    dtype, engine : str
    up_to : int
        The largest number of ranks.
    ranks_a_node : int or None
        By default as many as this machine has cores.
    latency : float
        Of a message between nodes, in µs.
    bandwidth : float
        Of a node, in Gbit/s.

    Raises
    ------
    ConfigError
        A value is out of range.
    """

    sizes: tuple[int, ...] = option(
        MISSING, "sizes of all layers, such as 784,100,10", parse_sizes, group="network and batch",
        metavar="LIST",
    )  # fmt: skip
    batch_size: int = option(
        256, "rows in the global mini-batch", int, group="network and batch", least=1
    )
    shards: int | None = option(
        None, "shards per mini-batch", int, group="network and batch", least=1,
        default_text="as train chooses it, by batch size and network",
    )  # fmt: skip
    dtype: str = option(
        "float32", "type of parameters and activations", group="network and batch", choices=DTYPES
    )
    engine: str = option(
        AUTO, "what makes the steps", group="network and batch", choices=ENGINES,
        default_text="compiled where numba is installed on all ranks, otherwise numpy",
    )  # fmt: skip
    up_to: int = option(1000, "largest number of ranks to predict", int, group="cluster", least=1)
    ranks_a_node: int | None = option(
        None, "ranks per node", int, group="cluster", least=1, default_text="the cores of this host"
    )
    latency: float = option(
        20.0, "latency between nodes in µs, if there is one node only", float, group="cluster",
        least=1e-9,
    )  # fmt: skip
    bandwidth: float = option(
        10.0, "bandwidth of a node in Gbit/s, if there is one node only", float, group="cluster",
        least=1e-9,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ConfigError(
                f"--sizes {self.sizes!r}: expected two or more layers, as in 784,100,10."
            )
        for one in fields(self):
            check_option(flag(one.name), getattr(self, one.name), one.metadata)
        check_shards(self.shards, self.batch_size)


_MIN_GAIN_PER_RANK = 0.5  # parallel efficiency from which ranks are considered worthwhile
_BARRIER_CALLS = 2000  # in a run: a single barrier is too short to measure
_HIDDEN = 0.7  # of what computation could hide of the exchange: MPI takes time of the same core


@dataclass(frozen=True)
class StepCosts:
    """The measured parts of a step.

    Attributes
    ----------
    shard : float
        Seconds for the gradient of one shard, conversion of its rows included.
    add, update : float
        Seconds per parameter, to add one gradient to another and to apply the update.
    step : float
        Fixed seconds per step.
    barrier : float
        Seconds of a barrier within a node, per rank beyond the first.
    latency : float
        Seconds of a message between nodes.
    bandwidth : float
        Bytes per second that a node can send, and receive.
    """

    shard: float
    add: float
    update: float
    step: float
    barrier: float
    latency: float
    bandwidth: float


@dataclass(frozen=True)
class StepPrediction:
    """The predicted duration of a step on some ranks and nodes, in seconds by cause."""

    ranks: int
    nodes: int
    compute: float
    sum: float
    wait: float
    network: float

    @property
    def seconds(self) -> float:
        return self.compute + self.sum + self.wait + self.network


def plan_report(request: PlanRequest, comm: Topology) -> list[str]:
    """Return the lines that `distbp plan` prints; collective.

    Parameters
    ----------
    request : PlanRequest
    comm : Topology
        Its ranks measure, all at the same time, as they would compute at the same time.
    """
    sizes, batch_size = request.sizes, request.batch_size
    shards = request.shards or default_shards(batch_size, sizes)
    per_node = request.ranks_a_node or host.usable_cores()
    rows = -(-batch_size // shards)
    host.set_blas_threads(1)
    engine = choose_engine(Config(engine=request.engine), comm)
    costs = measure_costs(
        comm, sizes, request.dtype, rows, request.latency * 1e-6, request.bandwidth * 1e9 / 8,
        engine,
    )  # fmt: skip
    parameters, itemsize = theta_size(sizes), np.dtype(request.dtype).itemsize
    steps = [
        predict_step(costs, parameters, itemsize, shards, ranks, per_node, sizes, engine)
        for ranks in _rank_counts(request.up_to)
    ]
    source = "measured" if comm.nodes > 1 else "assumed"
    speed = _backprop_flops(sizes, rows) / costs.shard / 1e9
    return [
        f"{'-'.join(map(str, sizes))}, {parameters:,} parameters; batches of {batch_size} rows, "
        f"{shards} shards of {rows}; up to {per_node} ranks per node",
        f"measured on {comm.size} rank{'s' * (comm.size > 1)} with the {engine} engine and "
        f"{host.kernels_in_use() or 'unknown'} kernels: {costs.shard * 1e6:,.0f} µs per "
        f"shard ({speed:.0f} GFLOP/s), {costs.add * 1e9:.2f} ns to add and "
        f"{costs.update * 1e9:.2f} ns to update a parameter, {costs.barrier * 1e6:.1f} µs per "
        f"barrier",
        f"between nodes, {source}: {costs.latency * 1e6:.0f} µs, "
        f"{costs.bandwidth * 8e-9:.2g} Gbit/s",
        "",
        *_table_lines(steps),
        "",
        *_recommendations(steps, batch_size, shards),
        *(_checkpoint_lines(parameters, request.dtype) if comm.rank == 0 else []),
    ]


def _checkpoint_lines(parameters: int, dtype: str) -> Iterator[str]:
    """Yield what checkpoints cost, unless they cannot be measured here."""
    with suppress(CheckpointError, OSError):
        yield checkpoint_line(measure_checkpoint(parameters, dtype))


def _backprop_flops(sizes: Sequence[int], rows: int) -> float:
    """Return the floating-point operations of backprop's matrix products.

    For every weight and row 2 in the forward pass, 2 for BP4, and 2 for BP2, which is not
    needed for the first layer.
    """
    products = [n_in * n_out for n_in, n_out in pairwise(sizes)]
    return 2.0 * rows * (3 * sum(products) - products[0])


def predict_step(
    costs: StepCosts,
    parameters: int,
    itemsize: int,
    shards: int,
    ranks: int,
    ranks_a_node: int,
    sizes: Sequence[int] = (),
    engine: str = "numpy",
) -> StepPrediction:
    """Predict a step on `ranks` ranks, `ranks_a_node` on each node but the last.

    Parameters
    ----------
    costs : StepCosts
    parameters, itemsize : int
        The size of θ, and the bytes of one of its numbers.
    shards, ranks, ranks_a_node : int
    sizes : sequence of int
        Of the layers; without them the exchange is assumed to begin after backprop.
    engine : {'numpy', 'compiled'}
    """
    runs = [rank_shards(shards, ranks, rank) for rank in range(ranks)]
    firsts = range(0, ranks, ranks_a_node)
    busiest = max(stop - start for start, stop in runs)
    first_node = min(ranks, ranks_a_node)
    root = (0, shards)
    partials = sum(len(list(subtrees(run, root))) for run in runs[:first_node])
    lasts = [min(first + ranks_a_node, ranks) - 1 for first in firsts]
    trees = [
        len(list(subtrees((runs[first][0], runs[last][1]), root)))
        for first, last in zip(firsts, lasts, strict=True)
    ]
    # The node with the fewest ranks sets the number of slices, which is the same on all nodes.
    slices = count_slices(parameters, shards, min(first_node, lasts[-1] - firsts[-1] + 1))
    in_node = max(partials - trees[0], 0) * parameters / slices * costs.add
    own = (busiest - 1) * parameters * costs.add
    nodes = len(firsts)
    network = 0.0
    if nodes > 1:
        sent = (nodes - 1) / nodes * parameters * itemsize
        messages = (max(trees) + 1) * np.ceil(np.log2(nodes))
        between = max(sum(trees) - 1, 0) * parameters / slices / nodes * costs.add
        network = messages * costs.latency + (max(trees) + 1) * sent / costs.bandwidth + between
        # Only the compiled engine begins the next forward pass during the exchange.
        is_ahead = engine == "compiled" and busiest <= MAX_LAYERED_SHARDS
        network -= _HIDDEN * hidden_seconds(
            sizes, itemsize, busiest * costs.shard, float(network), is_ahead
        )
    return StepPrediction(
        ranks, nodes,
        compute=busiest * costs.shard,
        sum=own + in_node + parameters / slices * costs.update,
        wait=costs.step + 2 * (first_node - 1) * costs.barrier,
        network=float(network),
    )  # fmt: skip


def measure_costs(
    comm: Topology,
    sizes: Sequence[int],
    dtype: str,
    rows: int,
    latency: float,
    bandwidth: float,
    engine: str = "numpy",
) -> StepCosts:
    """Measure what a step consists of; collective, and the slowest rank counts.

    Parameters
    ----------
    comm : Topology
    sizes : sequence of int
    dtype : str
    rows : int
        Of a shard.
    latency, bandwidth : float
        In seconds and in bytes per second: used on a single node, measured on several.
    engine : {'numpy', 'compiled'}
    """
    size = theta_size(sizes)
    with collective_errors(comm):
        times = measure_step(sizes, rows, dtype, engine)
    one, other = np.zeros(size, dtype), np.ones(size, dtype)
    barrier = 1e-6  # a guess for several ranks, which a single one cannot measure
    if comm.node_size > 1:
        barrier = median_seconds(comm.node_barrier(), _BARRIER_CALLS) / (comm.node_size - 1)
    cross_node = comm.cross_node
    # One rank per node measures: several would share the bandwidth of their node.
    if cross_node is not None and cross_node.size > 1 and comm.node_rank == 0:
        latency, bandwidth = measure_network(cross_node, size, dtype)
    latency, bandwidth = comm.world.broadcast([latency, bandwidth])
    measured = {
        "shard": times.compute,
        "add": median_seconds(lambda: np.add(one, other, out=one)) / size,
        "update": times.update / size,
        "step": times.rest,
        "barrier": barrier,
        "latency": latency,
        "bandwidth": bandwidth,
    }
    all_ranks = comm.world.allgather(measured)
    slowest = {name: max(rank[name] for rank in all_ranks) for name in measured}
    return StepCosts(**slowest | {"bandwidth": min(rank["bandwidth"] for rank in all_ranks)})


def _rank_counts(most: int) -> list[int]:
    """Return 1, 2, 4, 8, … and `most`."""
    return sorted({1 << i for i in range(most.bit_length())} | {most})


def _table_lines(steps: Sequence[StepPrediction]) -> Iterator[str]:
    """Yield the lines of a table with a prediction in each."""
    yield "ranks  nodes  µs per step  compute     sum    wait  network  speedup  efficiency"
    one_rank = steps[0].seconds
    for step in steps:
        compute, total, wait, network = (
            f"{part * 1e6:,.0f}" for part in (step.compute, step.sum, step.wait, step.network)
        )
        speedup = one_rank / step.seconds
        yield (
            f"{step.ranks:5d}  {step.nodes:5d}  {step.seconds * 1e6:11,.0f}  {compute:>7}  "
            f"{total:>6}  {wait:>6}  {network:>7}  {speedup:7.2f}  {speedup / step.ranks:10.0%}"
        )


def _recommendations(
    steps: Sequence[StepPrediction], batch_size: int, shards: int
) -> Iterator[str]:
    """Yield how many ranks to use, what limits that number, and what would raise the limit."""
    one_rank = steps[0].seconds
    with_work = [s for s in steps if s.ranks <= shards]
    fastest = min(with_work, key=lambda step: step.seconds)
    worthwhile = [s for s in with_work if one_rank / s.seconds >= _MIN_GAIN_PER_RANK * s.ranks]
    yield (
        f"Up to {worthwhile[-1].ranks} ranks are worthwhile (efficiency of at least "
        f"{_MIN_GAIN_PER_RANK:.0%}). {fastest.ranks} ranks are fastest: "
        f"{one_rank / fastest.seconds:.1f} times as fast as one."
    )
    beyond = next((s for s in steps if s.ranks > worthwhile[-1].ranks), None)
    if beyond is None:
        return
    yield from (
        _shard_limit(batch_size, shards, beyond.ranks)
        if beyond.ranks > shards
        else _bottleneck(beyond)
    )


def _shard_limit(batch_size: int, shards: int, ranks: int) -> Iterator[str]:
    """Yield why `ranks` ranks are too many for the shards, and what would change that."""
    yield (
        f"Further ranks have nothing to compute: a batch of {batch_size} rows has only "
        f"{shards} shards of {batch_size // shards} rows."
    )
    larger = f"A batch of {batch_size * ranks // shards} rows"
    busy = f"would keep {ranks} ranks busy"
    if ranks > batch_size:  # a shard has a row
        yield f"{larger} {busy}; it changes the result."
        return
    yield (
        f"{larger}, or --shards {ranks} with {batch_size // ranks} rows each, {busy}; both change "
        f"the result."
    )


def _bottleneck(step: StepPrediction) -> Iterator[str]:
    """Yield what makes a step inefficient, and what would change that."""
    causes = {"the network": step.network, "waiting": step.wait, "the sum": step.sum}
    cause = max(causes, key=lambda name: causes[name])
    ratio = causes[cause] / step.compute
    yield f"With {step.ranks} ranks, {cause} takes {ratio:.1f} times as long as backprop."
    factor = max(2, round(ratio + 0.5))
    yield f"A batch {factor} times as large would change that; it also changes the result."
