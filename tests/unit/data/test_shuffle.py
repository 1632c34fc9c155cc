"""The order in two levels: a permutation that depends on seed and epoch, within windows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.data import shuffle
from distbp.data.dataset import Split
from distbp.data.shuffle import BlockOrder, FullShuffle
from distbp.parallel.topology import Topology


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """Blocks of 10 bytes, windows of 3 blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffle, "BLOCK_BYTES", 10)
        patch.setattr(shuffle, "WINDOW_BLOCKS", 3)
        yield


def rows_in_order(order, epoch, position=0):
    """Return the row numbers from the window with `position` on."""
    rows = []
    for window in order.windows(epoch, position):
        own = np.concatenate([np.arange(*order.block(int(b))) for b in window.blocks])
        placed = np.full(window.stop - window.start, -1)
        placed[window.positions - window.start] = own
        assert len(own) == len(placed)
        rows.append(placed)
    return np.concatenate(rows)


@given(
    rows=st.integers(1, 300),
    width=st.integers(1, 12),
    batch=st.integers(1, 50),
    epoch=st.integers(0, 3),
)
def test_each_row_occurs_once(rows, width, batch, epoch):
    """And the windows follow one another, wherever reading starts."""
    order = BlockOrder(rows, width, batch, seed=1)
    windows = list(order.windows(epoch))
    assert [w.start for w in windows] == [0, *(w.stop for w in windows[:-1])]
    assert [w.stop for w in windows] == list(order.window_stops(epoch))
    everything = rows_in_order(order, epoch)
    assert sorted(everything) == list(range(rows))
    half = rows // 2
    rest = rows_in_order(order, epoch, half)
    assert len(rest) >= rows - half
    assert np.array_equal(rest, everything[rows - len(rest) :])


@given(rows=st.integers(1, 300), width=st.integers(1, 12), batch=st.integers(1, 50))
def test_memory_is_bounded(rows, width, batch):
    """A window has few rows; a batch has rows of two windows at most."""
    order = BlockOrder(rows, width, batch, seed=1)
    stops = order.window_stops(0)
    sizes = np.diff(stops, prepend=0)
    assert (
        max(sizes) <= order.window_rows <= max(3 * order.block_rows, 2 * batch + order.block_rows)
    )
    starts = np.arange(0, rows, batch)
    first, last = (
        np.searchsorted(stops, p, side="right")
        for p in (starts, np.minimum(starts + batch, rows) - 1)
    )
    assert max(last - first) <= 1


def test_it_depends_on_seed_and_epoch():
    orders = [rows_in_order(BlockOrder(200, 2, 8, s), e) for s in (0, 1) for e in (0, 1)]
    assert len({order.tobytes() for order in orders}) == 4
    assert np.array_equal(orders[0], rows_in_order(BlockOrder(200, 2, 8, 0), 0))


def test_blocks_of_a_window_come_from_anywhere():
    """The first window of 20 epochs has rows of every block."""
    order = BlockOrder(100, 1, 5, seed=0)
    assert order.block_rows == 10
    assert {b for e in range(20) for b in next(order.windows(e)).blocks} == set(range(10))


def test_short_rows_make_no_huge_block():
    assert BlockOrder(10**9, 1, 5, 0).block_rows == 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffle, "BLOCK_BYTES", 1 << 20)
        assert BlockOrder(10**9, 1, 5, 0).block_rows == shuffle.MAX_BLOCK_ROWS


def test_full_shuffle_takes_all_rows_of_a_part():
    split = Split(np.zeros((30, 2)), np.zeros((30, 1))).subset(np.arange(0, 30, 3))
    order = FullShuffle(Topology(), split, 4, seed=0)
    order.start(0, 0)
    batches = [order.batches(step) for step in range(3)]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(np.concatenate(batches)) == list(range(0, 30, 3))
