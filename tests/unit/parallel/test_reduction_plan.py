"""Plans of all ranks, executed on plain numbers: no MPI, no threads, no θ.

`execute` does what the ranks do in a step, in the order that the barriers between them
allow. Whatever has not been written is NaN, so that reading it shows in the result.
"""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distbp.network.parameters import THETA_BLOCK
from distbp.parallel.reduction_plan import (
    _MAX_EXCHANGES,
    _MIN_GROUP_BYTES,
    _MIN_MESSAGE_BYTES,
    LayerGroup,
    group_layers,
    plan_exchanges,
    plan_reduction,
)
from distbp.parallel.shards import middle

STATS = 4
layouts = st.lists(st.integers(1, 4), min_size=1, max_size=5)
shard_counts = st.integers(1, 40)
# From less than a block to several; the statistics may end up in a block of their own.
sizes = st.one_of(
    st.integers(1, 5 * THETA_BLOCK),
    st.integers(1, 9).map(lambda blocks: blocks * THETA_BLOCK),
    st.integers(1, 9).map(lambda blocks: blocks * THETA_BLOCK - STATS),
)


def plan_all(size, shards, layout, itemsize=8, layers=()):
    """Return the plans of all ranks, node by node."""
    plans = [
        plan_reduction(size, STATS, shards, layout, rank, itemsize, layers)
        for rank in range(sum(layout))
    ]
    ends = np.cumsum(layout)
    return [plans[end - count : end] for count, end in zip(layout, ends, strict=True)]


def tree_sum(vectors):
    """Return the sum by the tree's definition."""
    if len(vectors) == 1:
        return vectors[0]
    half = middle((0, len(vectors)))
    return tree_sum(vectors[:half]) + tree_sum(vectors[half:])


def add(arrays, additions):
    for into, other in additions:
        arrays[into] += arrays[other]


def accumulate(nodes, gradients):
    """Return the slots of each node after all ranks have worked off their schedules."""
    filled = []
    for plans in nodes:
        slots = np.full((plans[0].node_slots, gradients.shape[1]), np.nan)
        for plan in plans:
            own = slots[slice(*plan.slots)]
            for shard, slot, count in plan.schedule:
                own[slot] = gradients[shard]
                for top in range(slot, slot - count, -1):
                    own[top - 1] += own[top]
                    own[top] = np.nan  # popped
        filled.append(slots)
    return filled


def exchange(plans, sums):
    """Return the totals of all peers, of which each has some sums (n, width) of a slice."""
    totals = [np.full(of_peer.shape[1], np.nan) for of_peer in sums]
    for parts in zip(*(plan.exchanges for plan in plans), strict=True):
        start, stop = parts[0].part
        received = [
            np.full((sum(p.sums) - p.sums[p.peer]) * (p.share[1] - p.share[0]), np.nan)
            for p in parts
        ]
        for k in range(max(parts[0].sums)):
            for sender, of_sender in zip(parts, sums, strict=True):
                for receiver, inbox in zip(parts, received, strict=True):
                    count = sender.send_counts(k)[receiver.peer]
                    assert count == receiver.receive_counts(k)[sender.peer]
                    assert count == 0 or sender is not receiver
                    place = receiver.receive_places(k)[sender.peer]
                    assert place + count <= len(inbox)
                    if count:
                        where = start + sender.cuts[receiver.peer]
                        inbox[place : place + count] = of_sender[k, where : where + count]
        for part, inbox, own in zip(parts, received, sums, strict=True):
            before = sum(part.sums[: part.peer])
            others = list(inbox.reshape(sum(part.sums) - len(own), part.share[1] - part.share[0]))
            arrays = [
                *others[:before], *own[:, start:stop][:, slice(*part.share)], *others[before:]
            ]  # fmt: skip
            add(arrays, part.additions)
            for total in totals:
                total[start:stop][slice(*part.share)] = arrays[0]
    return totals


def execute(nodes, gradients):
    """Return each node's sum over all shards, put together from its ranks' slices."""
    filled = accumulate(nodes, gradients)
    found = [np.full(gradients.shape[1], np.nan) for _ in nodes]
    for owners in zip(*(plans[: min(map(len, nodes))] for plans in nodes), strict=True):
        sums = []
        for plan, slots in zip(owners, filled, strict=True):
            partials = [slots[slot, slice(*plan.owned)] for slot in plan.node_partials]
            add(partials, plan.node_additions)
            shape = len(plan.node_sums), plan.owned[1] - plan.owned[0]
            sums.append(np.reshape([partials[i] for i in plan.node_sums], shape))
        if owners[0].exchanges:
            totals = exchange(owners, sums)
        else:
            totals = [of_node[0] if len(of_node) else [] for of_node in sums]
        for plan, total, result in zip(owners, totals, found, strict=True):
            result[slice(*plan.owned)] = total
    return found


def make_gradients(shards, width):
    """Return vectors whose sum shows the order of addition in its last bits."""
    random = np.random.default_rng(shards)
    return random.normal(size=(shards, width)) * 10.0 ** random.integers(-6, 6, (shards, 1))


@settings(max_examples=60)
@given(sizes, shard_counts, layouts)
def test_every_node_gets_the_tree_sum(size, shards, layout):
    """To the last bit, gradient and statistics, on any layout, without reading a NaN."""
    gradients = make_gradients(shards, size + STATS)
    expected = tree_sum(list(gradients))
    for found in execute(plan_all(size, shards, layout), gradients):
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=10)
@given(shard_counts, st.lists(st.integers(1, 3), min_size=2, max_size=4))
def test_large_slices_are_exchanged_in_parts(shards, layout):
    """Parts overlap on the wire; together they are the slice, and the sum stays the same."""
    size = 3 * _MIN_MESSAGE_BYTES * len(layout) // 8
    nodes = plan_all(size, shards, layout)
    if min(layout) == 1:
        assert len(nodes[0][0].exchanges) == 3
    gradients = make_gradients(shards, size + STATS)
    expected = tree_sum(list(gradients))
    for found in execute(nodes, gradients):
        np.testing.assert_array_equal(found, expected)


def test_the_order_shows_in_these_numbers():
    """The tests above can fail: the same numbers from left to right have another sum."""
    gradients = make_gradients(8, 100)
    assert (np.add.reduce(list(gradients)) != tree_sum(list(gradients))).any()


def test_an_addition_of_a_slot_that_was_not_written_is_seen():
    """The tests above can fail: a slot that is read too early spoils the sum."""
    nodes = plan_all(50, 8, [2])
    (_, slot, _), *rest = nodes[0][0].schedule
    gradients = make_gradients(8, 54)
    slots = accumulate(nodes, gradients)[0]
    assert np.isfinite(slots[slot]).all()
    object.__setattr__(nodes[0][0], "schedule", tuple(rest))
    assert np.isnan(accumulate(nodes, gradients)[0][slot]).all()


@given(st.integers(1, 10**8), shard_counts, layouts)
def test_every_number_is_owned_once_a_node(size, shards, layout):
    """Slices are whole blocks, end to end, and the statistics belong to one rank of each node."""
    nodes = plan_all(size, shards, layout)
    for plans in nodes:
        bounds = [0, *(plan.owned[1] for plan in plans)]
        assert [plan.owned[0] for plan in plans] == bounds[:-1]
        assert bounds[-1] == size + STATS
        assert all(bound % THETA_BLOCK == 0 or bound == bounds[-1] for bound in bounds)
        thetas = [range(*plan.owned_theta) for plan in plans]
        assert sum(map(len, thetas)) == size
        assert [plan.owns_statistics for plan in plans].count(True) == 1
    slices = {tuple(p.owned for p in plans if p.owned[0] < p.owned[1]) for plans in nodes}
    assert len(slices) == 1  # each slice has one owner per node


@given(shard_counts, layouts)
def test_every_shard_is_scheduled_once(shards, layout):
    """In rank order, each to a slot of the rank's own."""
    plans = [plan for of_node in plan_all(100, shards, layout) for plan in of_node]
    assert [task.shard for plan in plans for task in plan.schedule] == list(range(shards))
    for plan in plans:
        assert all(task.slot < plan.slots[1] - plan.slots[0] for task in plan.schedule)


@given(st.integers(1, 5000), st.lists(st.integers(1, 8), min_size=1, max_size=6))
def test_slots_are_few(shards, layout):
    """A rank needs a slot per level of the tree, not one per shard; slots are end to end."""
    for plans in plan_all(100, shards, layout):
        firsts = [plan.slots[0] for plan in plans]
        assert firsts == [0, *(plan.slots[1] for plan in plans[:-1])]
        assert plans[-1].slots[1] == plans[0].node_slots
        for plan in plans:
            assert 1 <= plan.slots[1] - plan.slots[0] <= 2 * shards.bit_length()


@given(shard_counts, layouts)
def test_scratch_holds_every_sum_that_is_read(shards, layout):
    """With results in few scratch buffers, partial sums stay as they are and the sum is equal."""
    nodes = plan_all(20, shards, layout)
    filled = accumulate(nodes, make_gradients(shards, 24))
    for plans, slots in zip(nodes, filled, strict=True):
        plan = plans[0]
        current = [slots[slot] for slot in plan.node_partials]
        before, in_place = [p.copy() for p in current], [p.copy() for p in current]
        scratch = np.full((max(plan.scratch, default=-1) + 1, 24), np.nan)
        for (into, other), i in zip(plan.node_additions, plan.scratch, strict=True):
            np.add(current[into], current[other], out=scratch[i])
            current[into] = scratch[i]
        add(in_place, plan.node_additions)
        assert [slots[slot].tolist() for slot in plan.node_partials] == [p.tolist() for p in before]
        # One buffer is reused for the next subtree: only the last one's sum is still there.
        if plan.node_additions:
            last = plan.node_additions[-1][0]
            np.testing.assert_array_equal(current[last], in_place[last])
        assert len(scratch) <= len(before).bit_length()


@given(sizes, shard_counts, layouts)
def test_a_plan_is_a_value(size, shards, layout):
    """Made twice it is equal, it can be a key, and it cannot be changed."""
    rank = sum(layout) - 1
    plan, again = (plan_reduction(size, STATS, shards, layout, rank, 4) for _ in range(2))
    assert plan == again
    assert hash(plan) == hash(again)
    with pytest.raises(FrozenInstanceError):
        plan.size = 1


def test_one_node_exchanges_nothing():
    """Neither does a rank without a slice: nodes of 3 and 1 ranks have one slice."""
    assert not any(plan.exchanges for plan in plan_all(10**6, 8, [4])[0])
    first, second = plan_all(10**6, 8, [3, 1])
    assert [bool(plan.exchanges) for plan in first] == [True, False, False]
    assert second[0].exchanges


def test_a_node_whose_shards_are_one_subtree_sends_one_sum():
    """The least that there is to send; three nodes of a power of two of shards need more."""
    assert [part.sums for part in plan_all(10**5, 8, [2, 2])[0][0].exchanges] == [(1, 1)]
    assert [part.sums for part in plan_all(10**5, 8, [1, 1, 1])[0][0].exchanges] == [(2, 2, 1)]


@given(st.integers(1, 10**7), st.integers(2, 9), st.sampled_from([4, 8]))
def test_peers_share_out_a_slice(width, peers, itemsize):
    """Parts are end to end, and in each part the peers' shares are."""
    trees = [[(peer, peer + 1)] for peer in range(peers)]
    groups = [LayerGroup(0, width, 1)]
    plans = plan_exchanges(trees, (0, peers), (0, width), groups, itemsize, peer=1)
    assert 1 <= len(plans) <= _MAX_EXCHANGES
    bounds = [0, *(plan.part[1] for plan in plans)]
    assert [plan.part[0] for plan in plans] == bounds[:-1]
    assert bounds[-1] == width
    for plan in plans:
        assert plan.cuts[0] == 0
        assert plan.cuts[-1] == plan.part[1] - plan.part[0]
        assert sum(plan.share_sizes) == plan.cuts[-1]
        assert plan.share == (plan.cuts[1], plan.cuts[2])


layer_widths = st.lists(
    st.one_of(st.integers(1, 50), st.integers(1, 3 * _MIN_GROUP_BYTES // 8)), min_size=1, max_size=6
)


def layer_intervals(widths):
    """Return where layers of some widths lie, one after the other."""
    ends = np.cumsum(widths).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


@given(layer_widths)
def test_groups_of_layers_cover_a_vector_from_its_end(widths):
    """A group is large enough to be sent by itself, except the first layers, if they are small."""
    layers = layer_intervals(widths)
    groups = group_layers(layers, layers[-1][1] + STATS, 8)
    assert groups[0].stop == layers[-1][1] + STATS
    assert [group.stop for group in groups[1:]] == [group.start for group in groups[:-1]]
    assert (groups[-1].start, groups[-1].depth) == (0, len(layers))
    for group in groups:
        assert group.start == layers[len(layers) - group.depth][0]
    assert all((group.stop - group.start) * 8 >= _MIN_GROUP_BYTES for group in groups[:-1])


@settings(max_examples=30)
@given(layer_widths, shard_counts, st.lists(st.integers(1, 3), min_size=2, max_size=4))
def test_an_exchange_needs_only_layers_that_are_complete(widths, shards, layout):
    """Everything else is NaN when it begins; together they are the tree's sum, layer by layer."""
    layers = layer_intervals(widths)
    size = layers[-1][1]
    nodes = plan_all(size, shards, layout, 8, layers)
    gradients = make_gradients(min(shards, 4), size + STATS)
    for plan in (plan for plans in nodes for plan in plans):
        assert [one.depth for one in plan.exchanges] == sorted(one.depth for one in plan.exchanges)
        assert {one.depth for one in plan.exchanges} <= set(plan.depths)
        for one in plan.exchanges:
            complete = layers[len(layers) - one.depth][0]
            assert plan.owned[0] + one.part[0] >= complete
        covered = sorted(one.part for one in plan.exchanges)
        if covered:
            assert [start for start, _ in covered] == [0, *(stop for _, stop in covered[:-1])]
            assert covered[-1][1] == plan.owned[1] - plan.owned[0]
    assert len({plan.depths for plans in nodes for plan in plans}) == 1
    nodes = plan_all(size, len(gradients), layout, 8, layers)
    expected = tree_sum(list(gradients))
    for found in execute(nodes, gradients):
        np.testing.assert_array_equal(found, expected)


def test_layers_of_a_small_network_are_one_group():
    """There is nothing to overlap, and nothing that costs time."""
    assert [plan.depths for plan in plan_all(1000, 4, [1, 1], 4, [(0, 900), (900, 1000)])[0]] == [
        (2,)
    ]
    wide = [(0, 10**6), (10**6, 2 * 10**6), (2 * 10**6, 2 * 10**6 + 10)]
    assert plan_all(wide[-1][1], 4, [1, 1], 4, wide)[0][0].depths == (2, 3)
    assert plan_all(wide[-1][1], 4, [2], 4, wide)[0][0].depths == ()
