"""The sum over all shards: the same bits as one tree in one process."""

from itertools import product

import numpy as np
import pytest
from mpi4py import MPI

from distbp.network.network import Network
from distbp.network.optimizers import OPTIMIZERS
from distbp.network.update import Update
from distbp.parallel import reduction_plan
from distbp.parallel.reduction_factory import REDUCTIONS, make_reduction
from distbp.parallel.step_totals import STATS_WIDTH
from distbp.parallel.topology import Topology

pytestmark = pytest.mark.mpi

SHARDS = (1, 2, 3, 5, 8, 13)
SIZES = (2, 5, 4096, 10_000)
STEPS = 3


def gradient(shard: int, step: int, size: int, dtype: str) -> np.ndarray:
    """Return a shard's vector: numbers so far apart that the order of a sum shows.

    Every fourth shard is one without rows, +0.0 throughout.
    """
    if (shard + step) % 4 == 3:
        return np.zeros(size, dtype)
    random = np.random.default_rng([shard, step])
    return (random.normal(size=size) * 10.0 ** random.uniform(-6, 6, size)).astype(dtype)


def tree(vectors: list[np.ndarray]) -> np.ndarray:
    """Return the sum: the left part has the largest power of two below the whole width."""
    if len(vectors) == 1:
        return vectors[0]
    left = 1
    while left * 2 < len(vectors):
        left *= 2
    return tree(vectors[:left]) + tree(vectors[left:])


def steps(comm, name: str, shards: int, size: int, dtype: str, **options) -> list:
    """Return θ and the totals after each step; θ starts at 0."""
    network = Network((size - 1, 1), dtype=dtype, theta=np.zeros(size, dtype))
    update = Update(network, OPTIMIZERS["sgd"](), **options)
    reduction, warning = make_reduction(name, comm, shards, update)
    assert warning is None
    found = []
    for step in range(STEPS):
        for i, (shard, slot) in enumerate(reduction.schedule):
            reduction.slots[slot][:] = gradient(shard, step, size + STATS_WIDTH, dtype)
            reduction.accumulate(i)
        totals = reduction.reduce_and_update(1, 1.0)
        found.append((network.theta.copy(), tuple(totals)))
    return found


def expected(shards: int, size: int, dtype: str) -> list:
    """Return the same from one process and one tree."""
    theta, found = np.zeros(size, dtype), []
    for step in range(STEPS):
        total = tree([gradient(shard, step, size + STATS_WIDTH, dtype) for shard in range(shards)])
        theta = theta - total[:-STATS_WIDTH]
        found.append((theta, (*total[-STATS_WIDTH:].tolist(), True)))
    return found


def is_same(found: list, wanted: list) -> bool:
    return all(
        theta.dtype == right.dtype and theta.tobytes() == right.tobytes() and totals == others
        for (theta, totals), (right, others) in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize("name", ["node", "tree"])
@pytest.mark.parametrize("shards", SHARDS)
def test_the_bits_are_those_of_one_process(comm, everywhere, name, shards):
    """Step after step, on every rank."""
    for size, dtype in product(SIZES, ("float32", "float64")):
        found = steps(comm, name, shards, size, dtype)
        assert all(everywhere(is_same(found, expected(shards, size, dtype)))), (size, dtype)


@pytest.mark.parametrize("name", ["node", "tree"])
@pytest.mark.parametrize("shards", [2, 5])
def test_a_large_vector_has_the_bits_of_one_process(comm, everywhere, monkeypatch, name, shards):
    """It is exchanged in more parts than are in flight, whose messages are in one order."""
    monkeypatch.setattr(reduction_plan, "_MIN_MESSAGE_BYTES", 2000)
    found = steps(comm, name, shards, 300_000, "float32")
    assert all(everywhere(is_same(found, expected(shards, 300_000, "float32"))))


@pytest.mark.parametrize("shards", [5, 8, 13])
def test_the_order_shows_in_these_numbers(shards):
    """The test above can fail: other orders of addition give other bits."""
    vectors = [gradient(shard, 2, 4096, "float32") for shard in range(shards)]
    one_after_the_other = np.cumsum(vectors, axis=0, dtype="float32")[-1]
    turned = tree(vectors[1:] + vectors[:1])
    assert (one_after_the_other != tree(vectors)).any()
    assert (turned != tree(vectors)).any()


def test_clipping_has_the_bits_of_one_process(comm, everywhere):
    """The norm is of the whole gradient: a third barrier, and the same on any number of ranks."""
    alone = steps(Topology(), "node", 8, 10_000, "float32", clip_norm=2.0)
    for name in ("node", "tree"):
        found = steps(comm, name, 8, 10_000, "float32", clip_norm=2.0)
        assert all(everywhere(is_same(found, alone))), name


def test_a_node_has_one_copy(comm, everywhere):
    """What one rank of a node writes to θ, the others see."""
    network = Network((30, 2), theta=np.zeros(62, "float32"))
    make_reduction("node", comm, 4, Update(network, OPTIMIZERS["adam"]()))
    MPI.COMM_WORLD.Barrier()
    network.theta[comm.node_rank] = comm.rank + 1
    MPI.COMM_WORLD.Barrier()
    first = comm.rank - comm.node_rank
    wanted = [float(first + place + 1) for place in range(comm.node_size)]
    assert all(everywhere(network.weights[0][0, : comm.node_size].tolist() == wanted))


def test_every_shard_has_one_rank(comm, everywhere):
    """The schedules of all ranks together are each shard once, in order."""
    for shards in SHARDS:
        update = Update(Network((4, 1)), OPTIMIZERS["sgd"]())
        schedule = make_reduction("node", comm, shards, update)[0].schedule
        schedules = everywhere((comm.rank, [shard for shard, _ in schedule]))
        assert [shard for _, of_rank in sorted(schedules) for shard in of_rank] == list(
            range(shards)
        )


@pytest.mark.parametrize("shards", SHARDS)
def test_allreduce_is_close_but_not_exact(comm, everywhere, shards):
    """It may differ in the last bits, but not from rank to rank."""
    update = Update(Network((4, 1)), OPTIMIZERS["sgd"]())
    assert not make_reduction("allreduce", comm, shards, update)[0].is_exact
    vectors = [
        gradient(s, step, 1000 + STATS_WIDTH, "float64")
        for s in range(shards)
        for step in range(STEPS)
    ]
    size = np.abs(vectors).sum(axis=0)[:-STATS_WIDTH]
    found = steps(comm, "allreduce", shards, 1000, "float64")
    for (theta, _), (wanted, _) in zip(found, expected(shards, 1000, "float64"), strict=True):
        assert all(everywhere((np.abs(theta - wanted) <= 1e-14 * size).all()))
        assert len(set(everywhere(theta.tobytes()))) == 1


def test_every_reduction_is_tested():
    """A new one needs tests like these."""
    assert set(REDUCTIONS) == {"node", "tree", "allreduce"}
