"""Rows read while training: those of the order, whatever the storage, and errors in time."""

import shutil
import threading

import h5py
import numpy as np
import pytest
import samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distbp.data import dataset, shuffle
from distbp.data.batches import BatchLoader
from distbp.data.dataset import DataSet
from distbp.data.row_file import FileRows
from distbp.data.streaming import BlockShuffle
from distbp.errors import DataError
from distbp.parallel.topology import Topology
from distbp.storage.scaling import Scaling

ROWS, WIDTH = 211, 3
PACKED = {"chunks": (17, 2), "compression": "gzip"}
STORAGES = {"contiguous": {}, "packed": PACKED, "packed targets": PACKED}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(shuffle, "BLOCK_BYTES", 100)
    monkeypatch.setattr(shuffle, "WINDOW_BLOCKS", 4)
    monkeypatch.setattr(dataset, "LARGE_TARGET_BYTES", 1)


@pytest.fixture(params=list(STORAGES))
def path(request, tmp_path):
    """A file in which the numbers of row i are 3i, 3i + 1, 3i + 2, and its target is i."""
    x = np.arange(ROWS * WIDTH, dtype="<f4").reshape(ROWS, WIDTH)
    y = np.arange(ROWS, dtype="<f8")[:, None]
    scaling = Scaling(np.zeros(1), np.ones(1))
    path = samples.write(tmp_path / "d.h5", {"train": (x, y)}, scaling, **STORAGES[request.param])
    if request.param == "packed targets":
        with h5py.File(path, "r+") as file:
            del file["train/y"]
            file.create_dataset("train/y", data=y, chunks=(23, 1), compression="gzip")
    return path


def epoch_rows(order, epoch, batch_size, step=0):
    """Return the targets of the batches of an epoch, after comparing x with them."""
    found = []
    order.start(epoch, step)
    n = len(order.split)
    for number in range(step, -(-n // batch_size)):
        batch = order.batches(number)
        x, y = order.split.x[batch].view("<f4"), order.split.y[batch].view("<f8")[:, 0]
        assert np.array_equal(x, y[:, None] * 3 + np.arange(3))
        assert np.array_equal(order.split.file_rows(batch), y)
        found.append(y.astype(int))
    return np.concatenate(found)


def make(path, batch_size=8, rows=None, epochs=3):
    train = DataSet(path, is_streamed=True).split("train")
    if rows is not None:
        train = train.subset(rows)
    return BlockShuffle(Topology(), path, train, batch_size, 0, epochs)


@pytest.mark.parametrize("batch_size", [1, 8, 64, 300])
def test_rows_of_an_epoch(path, batch_size):
    """Each once, in another order in each epoch, from any step on the same."""
    order = make(path, batch_size)
    orders = [epoch_rows(order, epoch, batch_size) for epoch in range(3)]
    for found in orders:
        assert sorted(found) == list(range(ROWS))
    assert len({found.tobytes() for found in orders}) == 3
    step = 100 // batch_size
    again = epoch_rows(order, 1, batch_size, step)  # back, as after a roll-back
    assert np.array_equal(again, orders[1][step * batch_size :])
    order.close()


def test_chunks_of_many_rows_are_worth_a_warning(tmp_path, caplog):
    """Each of them would be decoded for many blocks."""
    x, y = np.zeros((ROWS, WIDTH), "<f4"), np.zeros((ROWS, 1))
    scaling = Scaling(np.zeros(1), np.ones(1))
    for rows, warned in ((9, ""), (100, "in chunks of 100 rows, but read in blocks of 5")):
        data = samples.write(
            tmp_path / f"{rows}.h5", {"train": (x, y)}, scaling, chunks=(rows, WIDTH)
        )
        make(data)
        assert warned in caplog.text
        assert bool(warned) == bool(caplog.text)


def test_a_part_of_the_rows(path):
    """Those that are not held out, which may lie far apart."""
    rows = np.r_[0:5, 90:93, np.arange(100, ROWS, 7)]
    order = make(path, 5, rows)
    assert sorted(epoch_rows(order, 0, 5)) == list(rows)
    order.close()


def test_rows_stay_in_the_file(path):
    """A split whose chunks are not decoded gives the same batches as one in memory."""
    splits = [DataSet(path, is_streamed=s).split("train") for s in (False, True)]
    loaders = [BatchLoader(s, Scaling(np.zeros(1), np.ones(1)), 0, 9, np.float32) for s in splits]
    for rows in (np.arange(40, 49), np.array([3, 4, 8, 90, 91, 210])):
        first, second = (loader.load(rows) for loader in loaders)
        assert all(map(np.array_equal, first, second))
        first, second = (split.x.take(rows, axis=0) for split in splits)
        assert np.array_equal(first, second)


def test_reading_ends(path):
    """No thread is left, whether the last epoch was reached or not."""
    before = threading.active_count()
    order = make(path)
    order.start(0, 0)
    order.batches(0)
    order.close()
    order = make(path, epochs=1)
    epoch_rows(order, 0, 8)
    order.close()
    order.close()
    assert threading.active_count() == before


def test_a_file_that_gets_shorter(path):
    """What the thread cannot read is an error of the rank that waits for it."""
    order = make(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"d\.h5 cannot be read"):
        epoch_rows(order, 0, 8)
    order.close()


def test_a_file_that_was_replaced(path):
    """Rows of two files would be mixed: it is an error, wherever the file is opened again."""
    data, order = DataSet(path, is_streamed=True), make(path)
    shutil.copy(path, path.with_name("other.h5"))
    path.with_name("other.h5").replace(path)
    with pytest.raises(DataError, match=r"d\.h5 was replaced while it was being read"):
        epoch_rows(order, 0, 8)
    order.close()
    if isinstance(data.split("train").x, FileRows):
        with pytest.raises(DataError, match="was replaced"):
            data.split("train").x.open()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_sizes(path, data):
    """A batch of any size, and any of the rows."""
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, ROWS - 1), min_size=1))))
    size = data.draw(st.integers(1, ROWS))
    order = make(path, size, rows, epochs=2)
    for epoch in range(2):
        assert sorted(epoch_rows(order, epoch, size)) == list(rows)
    order.close()
