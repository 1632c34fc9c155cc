"""The sum over all shards: the same bits as one tree in one process."""

from itertools import product

import numpy as np
import pytest
from mpi4py import MPI

from distbp.combine import COMBINERS, EXTRA, Allreduce, Combiner, Tree

pytestmark = pytest.mark.mpi

SHARDS = (1, 2, 3, 5, 8, 13)
SIZES = (1, 5, 4096, 10_000)
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


def combined(combiner: Combiner, step: int, size: int, dtype: str) -> np.ndarray:
    """Let this rank write its shards of a step, and return the sum over all."""
    for i, (shard, slot) in enumerate(combiner.plan):
        combiner.slots[slot][:] = gradient(shard, step, size + EXTRA, dtype)
        combiner.done(i)
    return combiner.finish()


@pytest.mark.parametrize("shards", SHARDS)
def test_tree_has_the_bits_of_one_process(comm, everywhere, shards):
    """Step after step, whatever the caller does to the sum it was given."""
    for size, dtype in product(SIZES, ("float32", "float64")):
        combiner = Tree(comm, shards, size, np.dtype(dtype))
        is_equal = []
        for step in range(STEPS):
            vectors = [gradient(shard, step, size + EXTRA, dtype) for shard in range(shards)]
            total = combined(combiner, step, size, dtype)
            is_equal.append(total.dtype == dtype and total.tobytes() == tree(vectors).tobytes())
            total.fill(np.nan)  # it may be used up
        assert everywhere(is_equal) == [[True] * STEPS] * comm.size, (size, dtype)


@pytest.mark.parametrize("shards", [5, 8, 13])
def test_the_order_shows_in_these_numbers(shards):
    """The test above can fail: other orders of these sums have other bits."""
    vectors = [gradient(shard, 2, 4096, "float32") for shard in range(shards)]
    one_after_the_other = np.cumsum(vectors, axis=0, dtype="float32")[-1]
    turned = tree(vectors[1:] + vectors[:1])
    assert (one_after_the_other != tree(vectors)).any()
    assert (turned != tree(vectors)).any()


def test_every_shard_is_one_ranks(comm, everywhere):
    """The plans of all ranks together are each shard once, in order."""
    for shards in SHARDS:
        plans = everywhere((comm.rank, [s for s, _ in Tree(comm, shards, 5, np.dtype("f4")).plan]))
        assert [shard for _, plan in sorted(plans) for shard in plan] == list(range(shards))


@pytest.mark.parametrize("shards", SHARDS)
def test_allreduce_is_close_and_says_that_it_is_not_exact(comm, everywhere, shards):
    """It may differ in the last bits; all ranks have the same, step after step."""
    assert not Allreduce.is_exact
    assert Tree.is_exact
    combiner = Allreduce(comm, shards, 1000, np.dtype("float64"))
    for step in range(STEPS):
        vectors = [gradient(shard, step, 1000 + EXTRA, "float64") for shard in range(shards)]
        total = combined(combiner, step, 1000, "float64")
        size = np.abs(vectors).sum(axis=0)
        assert all(everywhere((np.abs(total - tree(vectors)) <= 1e-14 * size).all()))
        assert len(set(everywhere(total.tobytes()))) == 1
        total.fill(np.nan)


def test_every_combiner_is_tested():
    assert set(COMBINERS.values()) == {Tree, Allreduce}
    assert MPI.COMM_WORLD.size >= 1
