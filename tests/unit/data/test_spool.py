"""The temporary file of rows."""

import errno

import numpy as np
import pytest

from distbp.data import spool as spool_module
from distbp.data.spool import Spool
from distbp.errors import DataError


@pytest.mark.parametrize("long", [1, 1000])
def test_rows_come_back(tmp_path, monkeypatch, long):
    """In blocks, by column and in parts, read one by one or at once; nothing is left."""
    monkeypatch.setattr(spool_module, "_LONG_COLUMN", long)
    monkeypatch.setattr(spool_module, "BLOCK_NUMBERS", 10)
    rows = np.random.default_rng(0).normal(size=(23, 3))
    with Spool(tmp_path, 3) as spool:
        for part in (rows[:1], rows[1:1], rows[1:20], rows[20:][:, ::1]):
            spool.append(part.T)
        assert len(spool) == 23
        assert list(tmp_path.iterdir()) == []
        np.testing.assert_array_equal(spool.read(5, 9), rows[5:9].T)
        np.testing.assert_array_equal(spool.read(20, 99), rows[20:].T)
        np.testing.assert_array_equal(spool.read(2, 22, [2, 0]), rows[2:22, [2, 0]].T)
        np.testing.assert_array_equal(spool.column(1), rows[:, 1])
        assert spool.column(1, np.int64).dtype == np.int64
        blocks = list(spool.blocks())
        assert [start for start, _ in blocks] == list(range(0, 23, 3))
        np.testing.assert_array_equal(np.hstack([block for _, block in blocks]), rows.T)
        kept = rows[:, 0] > 0
        with spool.keep(kept) as fewer:
            np.testing.assert_array_equal(fewer.read(0, 99), rows[kept].T)


def test_a_cleared_spool_is_empty(tmp_path):
    with Spool(tmp_path, 2) as spool:
        spool.append(np.zeros((2, 5)))
        spool.clear()
        spool.append(np.ones((2, 1)))
        np.testing.assert_array_equal(spool.read(0, 9), [[1], [1]])


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    """When a block is full: the last one is in memory."""
    monkeypatch.setattr(spool_module, "BLOCK_NUMBERS", 2)
    with Spool(tmp_path, 2) as spool:
        file = spool._file

        class Full:
            def write(self, content):
                raise OSError(errno.ENOSPC, "No space left on device")

        spool._file = Full()
        with pytest.raises(DataError, match=r"cannot be used: No space left .* Free space"):
            spool.append(np.zeros((2, 1)))
        spool._file = file


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(DataError, match="none cannot be used: No such file"):
        Spool(tmp_path / "none", 1)
