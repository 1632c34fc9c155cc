"""Sums over ranks that are threads: bits are those of one rank, for any number of them.

The messages are played by `Threads`, which does what MPI would; the same with MPI
itself is in tests/mpi.
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.combine import COMBINERS, EXTRA, slice_cuts
from distbp.comm import Comm
from distbp.optimizers import BLOCK
from distbp.shards import middle

SIZE = 2 * BLOCK + 37


class Threads(Comm):
    """One of several ranks in this process."""

    def __init__(self, rank, shared):
        super().__init__()
        self.rank, self.size = rank, len(shared["slots"])
        self.shared = shared

    def _exchange(self, value):
        """Return every rank's value; they have to be copied before the next barrier."""
        self.shared["slots"][self.rank] = value
        self.shared["barrier"].wait()
        return self.shared["slots"]

    def allreduce(self, array):
        total = sum(self._exchange(array.copy())[::-1])  # an order of its own
        self.shared["barrier"].wait()
        array[...] = total

    def allgatherv(self, array, counts):
        ends = np.cumsum(counts)
        mine = array[ends[self.rank] - counts[self.rank] : ends[self.rank]].copy()
        parts = list(self._exchange(mine))
        self.shared["barrier"].wait()
        array[: ends[-1]] = np.concatenate(parts)

    def alltoallv(self, send, send_counts, receive, receive_counts):
        (counts, starts), flat = send_counts, send.reshape(-1)
        parts = [flat[s : s + n].copy() for n, s in zip(counts, starts, strict=True)]
        received = [of_rank[self.rank] for of_rank in self._exchange(parts)]
        self.shared["barrier"].wait()
        into = receive.reshape(-1)
        for part, count, start in zip(received, *receive_counts, strict=True):
            assert len(part) == count
            into[start : start + count] = part


def run(ranks, name, shards, gradients, steps=2):
    """Return what `finish` gives on every rank, step by step."""
    shared = {"slots": [None] * ranks, "barrier": Barrier(ranks)}

    def of_rank(rank):
        try:
            comm = Comm() if ranks == 1 else Threads(rank, shared)
            combiner = COMBINERS[name](comm, shards, SIZE, gradients.dtype)
            totals = []
            for step in range(steps):
                for i, (shard, slot) in enumerate(combiner.plan):
                    combiner.slots[slot] = gradients[shard] * (step + 1)
                    combiner.done(i)
                total = combiner.finish()
                totals.append(total.copy())
                total[:-EXTRA] = np.nan  # the caller may use it up
            return totals
        except BaseException:
            shared["barrier"].abort()
            raise

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(of_rank, range(ranks)))


def make_gradients(shards, dtype=np.float32):
    """Return gradients whose sum depends on the order in its last bits."""
    rng = np.random.default_rng(5)
    return (
        rng.normal(size=(shards, SIZE + EXTRA)) * 10.0 ** rng.integers(-3, 3, (shards, 1))
    ).astype(dtype)


def tree_sum(gradients):
    if len(gradients) == 1:
        return gradients[0]
    half = middle((0, len(gradients)))
    return tree_sum(gradients[:half]) + tree_sum(gradients[half:])


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("shards", [1, 2, 3, 4, 6, 7, 8, 13])
def test_tree_gives_every_rank_the_same_bits(shards, ranks):
    """The sum is that of the tree, bit by bit, on each rank, step after step."""
    gradients = make_gradients(shards)
    for totals in run(ranks, "tree", shards, gradients):
        for step, total in enumerate(totals, 1):
            np.testing.assert_array_equal(total, tree_sum(gradients * np.float32(step)))


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("shards", [1, 3, 4, 8])
def test_allreduce_is_close(shards, ranks):
    """The textbook's sum is right up to rounding, also where a rank has no shard."""
    gradients = make_gradients(shards, np.float64)
    for totals in run(ranks, "allreduce", shards, gradients):
        for step, total in enumerate(totals, 1):
            np.testing.assert_allclose(total, step * gradients.sum(axis=0), rtol=1e-9, atol=1e-12)


def test_the_order_of_a_sum_shows():
    """These gradients tell orders apart: left to right is not the tree."""
    gradients = make_gradients(8)
    assert (np.add.reduce(list(gradients)) != tree_sum(gradients)).any()


@pytest.mark.parametrize("name", COMBINERS)
def test_slots_are_few(name):
    """A rank holds at most one vector a level of the tree and partial sum, not one a shard."""
    for shards in (1, 8, 64, 1000):
        combiner = COMBINERS[name](Comm(), shards, 10, np.dtype("f4"))
        assert [shard for shard, _ in combiner.plan] == list(range(shards))
        assert len(combiner.slots) <= shards.bit_length()


def test_only_exact_combiners_say_so():
    """The word that a run prints comes from here."""
    assert {name: kind.is_exact for name, kind in COMBINERS.items()} == {
        "tree": True,
        "allreduce": False,
    }


@given(st.integers(1, 10**8), st.integers(1, 300))
def test_slices_are_runs_of_whole_blocks(size, ranks):
    """Slices cover θ, in order, cut only at blocks, and differ by at most a block."""
    cuts = slice_cuts(size, ranks)
    assert len(cuts) == ranks + 1
    assert cuts[0] == 0
    assert cuts[-1] == size
    assert all(cut % BLOCK == 0 or cut == size for cut in cuts)
    widths = np.diff(-(-cuts // BLOCK))
    assert widths.min() >= 0
    assert widths.max() - widths.min() <= 1
