"""The order of exchanges: that of backprop, then that of the next forward pass."""

from hypothesis import given
from hypothesis import strategies as st

from distbp.network.parameters import THETA_BLOCK, layer_runs, theta_size
from distbp.network.update import UPDATE_CHUNK
from distbp.parallel.exchange_order import (
    completion_times,
    count_early,
    forward_times,
    order_exchanges,
)
from distbp.parallel.reduction_plan import plan_reduction

SIZES = (400, 800, 800, 700, 10)


def make_plan(sizes=SIZES, node_sizes=(1, 1), rank=0):
    """Return the plan of a rank, the chunks of its slice, and the layers of θ."""
    layers = layer_runs(sizes)
    plan = plan_reduction(theta_size(sizes), 4, 4, node_sizes, rank, 4, layers)
    start, stop = plan.owned_theta
    chunks = [slice(i, min(i + UPDATE_CHUNK, stop)) for i in range(start, stop, UPDATE_CHUNK)]
    return plan, chunks, layers


def test_the_order_of_backprop():
    """From the output to the input."""
    plan, chunks, layers = make_plan()
    order = order_exchanges(plan, chunks, layers, len(plan.exchanges))
    assert list(order.numbers) == list(range(len(plan.exchanges)))
    assert order.needed[0] == len(plan.exchanges)
    assert order.needed[-1] < order.needed[1] <= len(plan.exchanges)


def test_what_the_next_forward_pass_needs_comes_first():
    """Among those that do not begin during backprop."""
    plan, chunks, layers = make_plan()
    order = order_exchanges(plan, chunks, layers, 0)
    firsts = [plan.exchanges[i].part[0] for i in order.numbers]
    assert firsts == sorted(firsts)
    assert order.needed[0] < order.needed[1] < order.needed[2] <= order.needed[3]
    assert order.needed[-1] == len(plan.exchanges)
    order = order_exchanges(plan, chunks, layers, 2)
    assert list(order.numbers[:2]) == [0, 1]
    firsts = [plan.exchanges[i].part[0] for i in order.numbers[2:]]
    assert firsts == sorted(firsts)


@given(
    st.lists(st.integers(1, 600), min_size=2, max_size=6),
    st.lists(st.integers(1, 3), min_size=2, max_size=3),
    st.integers(0, 30),
    st.data(),
)
def test_what_is_complete_when_an_exchange_has_ended(sizes, node_sizes, early, data):
    """Each chunk is updated once, and each layer needs the exchanges that its chunks come with."""
    rank = data.draw(st.integers(0, sum(node_sizes) - 1))
    plan, chunks, layers = make_plan(tuple(sizes), tuple(node_sizes), rank)
    order = order_exchanges(plan, chunks, layers, early)
    assert sorted(order.numbers) == list(range(len(plan.exchanges)))
    if not plan.exchanges:
        assert set(order.needed) == {0}
        return
    assert sorted(i for found in order.chunks for i in found) == list(range(len(chunks)))
    received, updated = set(), set()
    for ended, (number, found) in enumerate(zip(order.numbers, order.chunks, strict=True), 1):
        start, stop = (plan.owned[0] + one for one in plan.exchanges[number].part)
        # In blocks, at whole numbers of which parts begin; the last one may end anywhere.
        received.update(range(start // THETA_BLOCK, -(-stop // THETA_BLOCK)))
        for i in found:
            blocks = range(chunks[i].start // THETA_BLOCK, -(-chunks[i].stop // THETA_BLOCK))
            assert received.issuperset(blocks)
            updated.add(i)
        for (lo, hi), needed in zip(layers, order.needed, strict=True):
            own = {i for i, one in enumerate(chunks) if lo < one.stop and hi > one.start}
            assert updated.issuperset(own) == (needed <= ended)


def test_the_times_of_layers():
    """Three equal layers of 8 s: a second for each product, of which BP2 has one less."""
    assert forward_times((9, 9, 9, 9), 8.0) == [1.0, 1.0, 1.0]
    assert completion_times((9, 9, 9, 9), 8.0) == [4.0, 6.0, 8.0]


def test_how_many_exchanges_begin_during_backprop():
    """All those above the first layer with a quick network, the first one with a slow one."""
    plan, _, layers = make_plan()
    complete = completion_times(SIZES, 1.0)
    above = [one for one in plan.exchanges if one.part[0] >= layers[0][1]]
    assert count_early(plan.exchanges, complete, 0.0) == len(above) > 1
    assert count_early(plan.exchanges, complete, 1e9) == 1
