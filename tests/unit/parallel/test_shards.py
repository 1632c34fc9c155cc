"""Shards and the tree: every row once, and one expression on any number of ranks.

Sums are made of strings, such as "((0+1)+2)": two orders of addition give the same bits
because they are the same expression, not because the numbers happen to agree.
"""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.parallel.shards import (
    _largest_power_of_two,
    assign_buffers,
    default_shards,
    middle,
    rank_shards,
    shard_rows,
    stack_depth,
    stack_schedule,
    subtrees,
    sufficient_ranks,
    tree_additions,
)

counts = st.integers(1, 10**6)


def tree(start, stop):
    """Return the sum over [start, stop) by its definition, a recursion."""
    if stop - start == 1:
        return str(start)
    left = 1
    while 2 * left < stop - start:
        left *= 2
    return f"({tree(start, start + left)}+{tree(start + left, stop)})"


def on_a_stack(nodes):
    """Return the sums of subtrees by the additions of `stack_schedule`."""
    vectors = [None] * stack_depth(nodes)
    for shard, top, count in stack_schedule(nodes):
        vectors[top] = str(shard)
        for into in range(top - 1, top - count - 1, -1):
            vectors[into] = f"({vectors[into]}+{vectors[into + 1]})"
    return vectors[: len(nodes)]


def on_ranks(shards, ranks):
    """Return the sum over all shards as that many ranks make it."""
    root = (0, shards)
    of_ranks = [list(subtrees(rank_shards(shards, ranks, r), root)) for r in range(ranks)]
    nodes = [node for of_rank in of_ranks for node in of_rank]
    partial = [total for of_rank in of_ranks for total in on_a_stack(of_rank)]
    for into, other in tree_additions(nodes, root):
        partial[into] = f"({partial[into]}+{partial[other]})"
    return partial[0]


@given(st.integers(0, 10**6), counts, counts)
def test_shards_partition_the_rows(rows, shards, seed):
    """Shards are contiguous, in order, and differ by at most one row."""
    shard = seed % shards
    start, stop = shard_rows(rows, shards, shard)
    assert start == (shard_rows(rows, shards, shard - 1)[1] if shard else 0)
    assert stop - start in (rows // shards, -(-rows // shards))
    assert shard_rows(rows, shards, shards - 1)[1] == rows


@given(counts, counts, counts)
def test_ranks_partition_the_shards(shards, ranks, seed):
    """Ranks have contiguous runs of shards, in order, that differ by at most one."""
    rank = seed % ranks
    start, stop = rank_shards(shards, ranks, rank)
    assert start == (rank_shards(shards, ranks, rank - 1)[1] if rank else 0)
    assert stop - start in (shards // ranks, -(-shards // ranks))
    assert rank_shards(shards, ranks, ranks - 1)[1] == shards


@given(st.integers(1, 10**9))
def test_largest_power_of_two(n):
    """It is a power of two, at most n, and its double is not."""
    power = _largest_power_of_two(n)
    assert power & (power - 1) == 0
    assert power <= n < 2 * power


def subtrees_of(node):
    """Return all subtrees of a tree, itself included."""
    if node[1] - node[0] == 1:
        return {node}
    half = middle(node)
    return {node} | subtrees_of((node[0], half)) | subtrees_of((half, node[1]))


@given(st.integers(1, 200), st.data())
def test_subtrees_are_the_largest_inside_a_run(shards, data):
    """They cover the run in order, and none lies in a larger subtree inside the run."""
    start = data.draw(st.integers(0, shards))
    stop = data.draw(st.integers(start, shards))
    root = (0, shards)
    found = list(subtrees((start, stop), root))
    assert [i for node in found for i in range(*node)] == list(range(start, stop))
    inside = {n for n in subtrees_of(root) if start <= n[0] and n[1] <= stop}
    assert set(found) <= inside
    for node in found:
        assert not any(n != node and n[0] <= node[0] and node[1] <= n[1] for n in inside)
    assert len(found) <= max(1, 2 * shards.bit_length() - 2)


@pytest.mark.parametrize(
    ("shards", "expression"),
    [
        (1, "0"),
        (2, "(0+1)"),
        (3, "((0+1)+2)"),
        (4, "((0+1)+(2+3))"),
        (6, "(((0+1)+(2+3))+(4+5))"),
        (7, "(((0+1)+(2+3))+((4+5)+6))"),
    ],
)
def test_the_tree_by_hand(shards, expression):
    """Another order would change the bits of every result."""
    assert on_ranks(shards, 1) == expression


def test_the_sum_is_the_same_expression_on_any_number_of_ranks():
    """For all S and N up to 70, including ranks without shards."""
    for shards in range(1, 71):
        expected = tree(0, shards)
        for ranks in range(1, 71):
            assert on_ranks(shards, ranks) == expected, (shards, ranks)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_sum_is_the_same_expression_on_many_ranks(shards, ranks):
    """And for random larger S and N."""
    assert on_ranks(shards, ranks) == tree(0, shards)


@given(st.integers(1, 500))
def test_a_stack_is_small(width):
    """A subtree needs at most a vector per level of the tree; its shards come in order."""
    plan = stack_schedule([(0, width)])
    assert [shard for shard, _, _ in plan] == list(range(width))
    assert sum(count for _, _, count in plan) == width - 1
    assert on_a_stack([(0, width)]) == [tree(0, width)]
    assert stack_depth([(0, width)]) <= width.bit_length() + 1


@given(st.integers(1, 200), st.integers(1, 20))
def test_sums_need_few_buffers(shards, ranks):
    """If operands are not overwritten, sums need few buffers, and none is reused too early."""
    root = (0, shards)
    nodes = [n for r in range(ranks) for n in subtrees(rank_shards(shards, ranks, r), root)]
    steps = tree_additions(nodes, root)
    now, numbers = {i: tree(*node) for i, node in enumerate(nodes)}, assign_buffers(steps)
    held: dict[int, str] = {}
    for (into, other), number in zip(steps, numbers, strict=True):
        total = f"({now[into]}+{now[other]})"
        for position in (into, other):  # what had been summed before is still there
            if now[position] not in [tree(*node) for node in nodes]:
                assert now[position] in held.values()
        held[number] = now[into] = total
    assert now[0] == tree(0, shards)
    assert max(numbers, default=0) <= len(nodes).bit_length()


@given(st.integers(1, 60), st.integers(1, 70))
def test_sufficient_ranks(shards, ranks):
    """Those few ranks give none of them more shards than all do; one rank less would."""

    def most(count):
        runs = [rank_shards(shards, count, rank) for rank in range(count)]
        return max(stop - start for start, stop in runs)

    few = sufficient_ranks(shards, ranks)
    assert most(few) == most(ranks)
    assert few == 1 or most(few - 1) > most(ranks)


def test_a_rank_without_shards_has_a_vector():
    """With nothing to compute it still has a vector to take part in an allreduce."""
    assert stack_schedule([]) == []
    assert stack_depth([]) == 1


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4))
def test_the_sum_over_nodes_is_the_same_expression(shards, ranks, per_node):
    """The ranks of a node complete the subtrees they can, and nodes the rest of the tree."""
    root = (0, shards)
    runs = [rank_shards(shards, ranks, rank) for rank in range(ranks)]
    trees, totals = [], []
    for first in range(0, ranks, per_node):
        here = runs[first : first + per_node]
        names = [node for run in here for node in subtrees(run, root)]
        sums = [total for run in here for total in on_a_stack(list(subtrees(run, root)))]
        for node in subtrees((here[0][0], here[-1][1]), root):
            for into, other in tree_additions(names, node):
                sums[into] = f"({sums[into]}+{sums[other]})"
            trees.append(node)
            totals.append(next(s for n, s in zip(names, sums, strict=True) if n[0] == node[0]))
    for into, other in tree_additions(trees, root):
        totals[into] = f"({totals[into]}+{totals[other]})"
    assert totals[0] == tree(0, shards)


NARROW, WIDE = (784, 100, 10), (784, 1000, 10)


@pytest.mark.parametrize(
    ("batch_size", "narrow", "wide"),
    [(1, 1, 1), (10, 1, 1), (64, 2, 1), (128, 2, 2), (256, 4, 2), (512, 4, 4), (4096, 32, 16)],
)
def test_default_shards(batch_size, narrow, wide):
    """Small batches have two shards, large ones shards of 128 or 256 rows."""
    assert default_shards(batch_size, NARROW) == narrow
    assert default_shards(batch_size, WIDE) == wide


@given(counts, st.lists(st.integers(1, 5000), min_size=2, max_size=5))
def test_default_shards_is_a_power_of_two(batch_size, sizes):
    """And at most the number of rows."""
    shards = default_shards(batch_size, sizes)
    assert _largest_power_of_two(shards) == shards <= batch_size


def test_default_shards_does_not_know_the_ranks():
    """If it depended on the number of ranks, so would the bits."""
    assert list(inspect.signature(default_shards).parameters) == ["batch_size", "sizes"]
