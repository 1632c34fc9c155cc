"""The temporary file of rows."""

import errno

import numpy as np
import pytest

from distbp.data import spool as spool_module
from distbp.data.spool import Spool
from distbp.errors import DataError


def test_rows_come_back(tmp_path, monkeypatch):
    """In blocks, by column and in parts; nothing is left in the folder."""
    monkeypatch.setattr(spool_module, "BLOCK_NUMBERS", 10)
    rows = np.random.default_rng(0).normal(size=(23, 3))
    with Spool(tmp_path, 3) as spool:
        for part in (rows[:1], rows[1:1], rows[1:20], rows[20:][:, ::1]):
            spool.append(part)
        assert len(spool) == 23
        assert list(tmp_path.iterdir()) == []
        np.testing.assert_array_equal(spool.read(5, 9), rows[5:9])
        np.testing.assert_array_equal(spool.read(20, 99), rows[20:])
        np.testing.assert_array_equal(spool.column(1), rows[:, 1])
        blocks = list(spool.blocks())
        assert [start for start, _ in blocks] == list(range(0, 23, 3))
        np.testing.assert_array_equal(np.vstack([block for _, block in blocks]), rows)
        kept = rows[:, 0] > 0
        with spool.keep(kept) as fewer:
            np.testing.assert_array_equal(fewer.read(0, 99), rows[kept])


def test_a_cleared_spool_is_empty(tmp_path):
    with Spool(tmp_path, 2) as spool:
        spool.append(np.zeros((5, 2)))
        spool.clear()
        spool.append(np.ones((1, 2)))
        np.testing.assert_array_equal(spool.read(0, 9), [[1, 1]])


def test_a_full_disk_is_said(tmp_path):
    with Spool(tmp_path, 2) as spool:
        file = spool._file

        class Full:
            def write(self, content):
                raise OSError(errno.ENOSPC, "No space left on device")

        spool._file = Full()
        with pytest.raises(DataError, match=r"cannot be used: No space left .* Free space"):
            spool.append(np.zeros((1, 2)))
        spool._file = file


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(DataError, match="none cannot be used: No such file"):
        Spool(tmp_path / "none", 1)
