"""Rows of a file that is larger than memory are those of any other."""

import numpy as np
import pytest
import samples

from distbp.data.dataset import DATA_FORMAT, DATA_VERSION, DataSet
from distbp.data.row_file import RowFile
from distbp.errors import DataError
from distbp.parallel import host
from distbp.storage import direct_reader


@pytest.mark.parametrize("memory", [0, 1 << 40])
@pytest.mark.parametrize("chunks", [None, (7, 8, 6)])
def test_rows_are_the_same_whatever_the_memory(tmp_path, monkeypatch, memory, chunks):
    monkeypatch.setattr(host, "memory_limit", lambda: memory)
    monkeypatch.setattr(direct_reader, "_MIN_BYTES", 1)
    path = samples.digits(
        tmp_path / "d.h5", {"train": 500}, **({"chunks": chunks} if chunks else {})
    )
    file, expected = RowFile(path, "train/x", DATA_FORMAT, DATA_VERSION), DataSet(path)
    for start, count in ((0, 500), (3, 1), (17, 333), (499, 1)):
        out = np.zeros((count, file.row_bytes), np.uint8)
        file.expect(start, start + count)
        file.read(start, out)
        assert (out == expected.split("train").x[start : start + count]).all()
    if not chunks:
        with path.open("r+b") as cut:
            cut.truncate(4096)
        with pytest.raises(DataError, match="it is shorter than when it was opened"):
            file.read(0, np.zeros((500, file.row_bytes), np.uint8))
    file.close()
