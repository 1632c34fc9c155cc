"""Sums over ranks that are threads: the bits are those of one rank, for any number of them.

`Threads` simulates messages, nodes and their shared memory; tests/mpi and tests/system use
real ones.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier, Lock
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.network.network import Network
from distbp.network.optimizers import OPTIMIZERS
from distbp.network.parameters import THETA_BLOCK
from distbp.network.update import UPDATE_CHUNK, Update
from distbp.parallel.reduction_factory import REDUCTIONS, make_reduction
from distbp.parallel.reduction_plan import _slice_cuts
from distbp.parallel.shards import middle
from distbp.parallel.shared_array import SharedArray
from distbp.parallel.step_totals import CORRECT, COST, STATS_WIDTH
from distbp.parallel.topology import Topology
from distbp.training.config import EXACT_REDUCTIONS, REDUCTION_NAMES

SIZE = 2 * THETA_BLOCK + 37
STEPS = 3
DONE = SimpleNamespace(Wait=lambda: None, Test=lambda: True)


@pytest.fixture(scope="module", autouse=True)
def threads_share_memory():
    """Let ranks that are threads share arrays without a file."""

    def shared_array(comm, *arguments):
        share = comm.shared_array if isinstance(comm, Threads) else partial(SharedArray, comm)
        return share(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distbp.parallel.reduction_factory.SharedArray", shared_array)
        yield


class Threads:
    """One of several ranks in this process, spread over nodes as `layout` says.

    It stands for both the `Topology` and the `Group` of all ranks.
    """

    def __init__(self, place, shared):
        self.world, self.shared = self, shared
        self.rank, self.size, self.node_sizes = place, sum(shared["layout"]), shared["layout"]
        nodes = [node for node, size in enumerate(self.node_sizes) for _ in range(size)]
        self.node_index = nodes[place]
        self.node_rank = place - nodes.index(self.node_index)
        self.calls = 0

    def _exchange(self, value, group=None):
        """Return the values of a group of ranks, which are valid until the next barrier."""
        self.shared["slots"][self.rank] = value
        self.barrier()
        return [self.shared["slots"][rank] for rank in group or range(self.size)]

    def barrier(self):
        self.shared["barrier"].wait()

    def allgather(self, value):
        values = list(self._exchange(value))
        self.barrier()
        return values

    @property
    def cross_node(self):
        if self.node_rank >= min(self.node_sizes):
            return None
        firsts = np.cumsum([0, *self.node_sizes[:-1]])
        return Peers(self, [int(first) + self.node_rank for first in firsts])

    @property
    def cross_node_results(self):
        return self.cross_node

    def allows_threads(self):
        return True

    def shared_array(self, shape, dtype, rows=None):
        self.calls += 1
        key = self.node_index, self.calls
        with self.shared["lock"]:
            array = self.shared["memory"].setdefault(key, np.zeros(shape, dtype))
        return SimpleNamespace(
            array=array, is_shared=self.shared["is_shared"], reason=self.shared["reason"]
        )

    def node_barrier(self):
        return self.shared["node barriers"][self.node_index].wait

    def allreduce(self, array):
        total = sum(self._exchange(array.copy())[::-1])  # an order of its own
        self.barrier()
        array[...] = total

    def start_alltoallv(self, *message):
        return Peers(self, range(self.size)).start_alltoallv(*message)


class Peers:
    """A group of ranks, with a barrier of their own."""

    def __init__(self, comm, ranks):
        self.comm, self.ranks = comm, list(ranks)
        self.rank, self.size = self.ranks.index(comm.rank), len(self.ranks)
        with comm.shared["lock"]:
            self.own_barrier = comm.shared["peer barriers"].setdefault(
                tuple(self.ranks), Barrier(self.size)
            )

    def exchange(self, value):
        self.comm.shared["slots"][self.comm.rank] = value
        self.own_barrier.wait()
        values = [self.comm.shared["slots"][rank] for rank in self.ranks]
        self.own_barrier.wait()
        return values

    def start_alltoallv(self, send, send_counts, receive, receive_counts):
        (counts, starts), flat = send_counts, send.reshape(-1)
        parts = [flat[s : s + n].copy() for n, s in zip(counts, starts, strict=True)]
        received = [of_rank[self.rank] for of_rank in self.exchange(parts)]
        into = receive.reshape(-1)
        for part, count, start in zip(received, *receive_counts, strict=True):
            assert len(part) == count
            into[start : start + count] = part
        return DONE


def run(layout, name, shards, gradients, is_shared=True, optimizer="sgd", **options):
    """Return θ and the totals on every rank, step by step.

    θ starts at 0, the learning rate and the number of rows are 1: so θ is minus the sum.
    """
    ranks, size = sum(layout), gradients.shape[1] - STATS_WIDTH
    shared = {
        "layout": layout, "slots": [None] * ranks, "barrier": Barrier(ranks), "lock": Lock(),
        "memory": {}, "node barriers": [Barrier(size) for size in layout], "peer barriers": {},
        "is_shared": is_shared, "reason": "" if is_shared else "no room",
    }  # fmt: skip

    def of_rank(rank):
        try:
            comm = Topology() if ranks == 1 else Threads(rank, shared)
            sizes, theta = (size - 1, 1), np.zeros(size, gradients.dtype)
            network = Network(sizes, dtype=theta.dtype.name, theta=theta)
            update = Update(network, OPTIMIZERS[optimizer](), **options)
            reduction, warning = make_reduction(name, comm, shards, update)
            assert (warning is None) == is_shared
            found = []
            for step in range(STEPS):
                for i, (shard, slot) in enumerate(reduction.schedule):
                    reduction.slots[slot] = gradients[shard] * (step + 1)
                    reduction.accumulate(i)
                totals = reduction.reduce_and_update(1, 1.0)
                found.append((network.theta.copy(), totals))
            return found
        except BaseException:
            for barrier in (
                shared["barrier"],
                *shared["node barriers"],
                *shared["peer barriers"].values(),
            ):
                barrier.abort()
            raise

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(of_rank, range(ranks)))


def make_gradients(shards, dtype=np.float32, size=SIZE):
    """Return vectors whose sum depends on the order in its last bits; 1 correct answer each."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(shards, size + STATS_WIDTH)) * 10.0 ** rng.integers(
        -3, 3, (shards, 1)
    )
    vectors[:, CORRECT - STATS_WIDTH] = 1
    return vectors.astype(dtype)


def tree_sum(gradients):
    if len(gradients) == 1:
        return gradients[0]
    half = middle((0, len(gradients)))
    return tree_sum(gradients[:half]) + tree_sum(gradients[half:])


def assert_exact(found, gradients):
    """Every rank has the bits of the tree, step after step."""
    for steps in found:
        theta = np.zeros(gradients.shape[1] - STATS_WIDTH, gradients.dtype)
        for step, (found_theta, totals) in enumerate(steps, 1):
            total = tree_sum(gradients * gradients.dtype.type(step))
            theta -= total[:-STATS_WIDTH]
            np.testing.assert_array_equal(found_theta, theta)
            assert totals.applied
            assert list(totals[:STATS_WIDTH]) == total[-STATS_WIDTH:].tolist()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("shards", [1, 2, 3, 4, 6, 7, 8, 13])
@pytest.mark.parametrize("name", ["node", "tree"])
def test_every_rank_has_the_same_bits(name, shards, ranks):
    gradients = make_gradients(shards)
    assert_exact(run([ranks], name, shards, gradients), gradients)


LAYOUTS = [[1, 1], [2, 2], [3, 2], [1, 3], [2, 1, 2], [1, 1, 1, 1], [4, 1], [3, 3, 2]]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("shards", [1, 2, 5, 8, 13])
def test_nodes_may_have_different_numbers_of_ranks(layout, shards):
    """Over several nodes, each a full replica, the bits are the tree's as well."""
    gradients = make_gradients(shards)
    assert_exact(run(layout, "node", shards, gradients), gradients)


@pytest.mark.parametrize("layout", [[1], [3], [2, 2], [3, 2]], ids=str)
@pytest.mark.parametrize(
    "size", [2, 5, THETA_BLOCK - STATS_WIDTH, THETA_BLOCK, THETA_BLOCK + 1, 20 * UPDATE_CHUNK + 7]
)
def test_any_size(layout, size):
    """Fewer blocks than ranks, several chunks, statistics in a block of their own."""
    gradients = make_gradients(5, np.float64, size)
    assert_exact(run(layout, "node", 5, gradients), gradients)


@pytest.mark.parametrize("name", ["node", "tree"])
def test_clipping_is_the_same_for_all(name):
    """The norm is of the whole gradient, however it is sliced."""
    gradients = make_gradients(8)
    found = {
        run(layout, name, 8, gradients, clip_norm=3.0)[rank][-1][0].tobytes()
        for layout in ([1], [2], [5], [2, 2], [3, 2])
        for rank in (0, -1)
    }
    assert len(found) == 1


def test_without_shared_memory_there_are_messages():
    """`node` falls back to `tree`, which has the same bits, and warns."""
    gradients = make_gradients(5)
    assert_exact(run([3], "node", 5, gradients, is_shared=False), gradients)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("layout", [[1], [3], [2, 1]], ids=str)
@pytest.mark.parametrize(("place", "value"), [(COST - STATS_WIDTH, np.nan), (7, np.inf)])
def test_a_number_that_is_not_finite_changes_nothing(name, layout, place, value):
    """A cost or a gradient: the step is not applied, on any rank."""
    gradients = make_gradients(4)
    gradients[2, place] = value
    for steps in run(layout, name, 4, gradients):
        for theta, totals in steps:
            assert not theta.any()
            assert not totals.applied
            assert np.isnan(totals.cost) == np.isnan(value)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("layout", [[1], [3], [2, 1]], ids=str)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_step_that_would_overflow_changes_nothing(name, layout):
    """The gradient is finite, and its square is not."""
    gradients = make_gradients(4)
    gradients[2, 7] = 1e20
    for steps in run(layout, name, 4, gradients, optimizer="adam"):
        for theta, totals in steps:
            assert not theta.any()
            assert not totals.applied


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("shards", [1, 3, 4, 8])
def test_allreduce_is_close(shards, ranks):
    """The textbook's sum is correct up to rounding, also with a rank without shards."""
    gradients = make_gradients(shards, np.float64)
    for steps in run([ranks], "allreduce", shards, gradients):
        theta = 0
        for step, (found_theta, totals) in enumerate(steps, 1):
            theta = theta - step * gradients[:, :-STATS_WIDTH].sum(axis=0)
            np.testing.assert_allclose(found_theta, theta, rtol=1e-9, atol=1e-12)
            assert totals.correct == step * shards


def test_the_order_of_a_sum_shows():
    """These gradients distinguish orders of addition: left to right is not the tree."""
    gradients = make_gradients(8)
    assert (np.add.reduce(list(gradients)) != tree_sum(gradients)).any()


@pytest.mark.parametrize("name", REDUCTIONS)
def test_slots_are_few(name):
    """A rank has one slot per level of the tree, not one per shard."""
    for shards in (1, 8, 64, 1000):
        update = Update(Network((9, 1)), OPTIMIZERS["sgd"]())
        reduction, _ = make_reduction(name, Topology(), shards, update)
        assert [shard for shard, _ in reduction.schedule] == list(range(shards))
        assert len(reduction.slots) <= shards.bit_length()


def test_the_configuration_lists_the_reductions():
    """`training.config` repeats names and exactness, to load no communicator."""
    found = {}
    for name in REDUCTIONS:
        update = Update(Network((9, 1)), OPTIMIZERS["sgd"]())
        found[name] = make_reduction(name, Topology(), 2, update)[0].is_exact
    assert found == {name: name in EXACT_REDUCTIONS for name in REDUCTION_NAMES}


@given(st.integers(1, 10**8), st.integers(1, 300))
def test_slices_are_runs_of_whole_blocks(size, ranks):
    """Slices cover the vector in order, are cut only at blocks, and differ by at most a block."""
    cuts = np.array(_slice_cuts(size, ranks))
    assert len(cuts) == ranks + 1
    assert cuts[0] == 0
    assert cuts[-1] == size
    assert all(cut % THETA_BLOCK == 0 or cut == size for cut in cuts)
    widths = np.diff(-(-cuts // THETA_BLOCK))
    assert widths.min() >= 0
    assert widths.max() - widths.min() <= 1
