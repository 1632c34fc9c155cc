"""Tables that are written block by block: their cells, and what is on the disk meanwhile."""

import gzip
import io
import itertools
import sys

import h5py
import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distbp.data import table_writer
from distbp.data.table_writer import Words, check_format, create_table, table_format
from distbp.errors import ConfigError, DataError

NAMES = ("plain", 'a "quoted" one', "with, comma", "Köln\nSüd")


def block(start, stop):
    numbers = np.arange(start, stop)
    return {
        "row": numbers,
        "class": Words(numbers % 4, NAMES),
        "p": (numbers / 7).astype(np.float32),
        'odd "name"': np.array([None if i % 5 == 0 else f"id {i}" for i in numbers], object),
    }


def write(name, steps=(0, 3, 10)):
    with create_table(str(name)) as table:
        for start, stop in itertools.pairwise(steps):
            table.write(block(start, stop))


@pytest.mark.parametrize("end", [".csv", ".csv.gz", ".tsv", ".parquet", ".feather", ".h5"])
def test_a_table_is_read_back(tmp_path, end):
    """Text with quotes, commas and line ends, missing text, and numbers to the last bit."""
    path = tmp_path / f"t{end}"
    write(path)
    expected = block(0, 10)
    if end == ".h5":
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["p"][...], expected["p"], strict=True)
            assert list(file["class"].asstr()) == [NAMES[i % 4] for i in range(10)]
            assert file['odd "name"'].asstr()[5] == ""
        return
    read = {".parquet": pandas.read_parquet, ".feather": pandas.read_feather}.get(
        end, lambda path: pandas.read_csv(path, sep="\t" if end == ".tsv" else ",")
    )
    found = read(path)
    assert list(found) == list(expected)
    assert list(found["class"]) == [NAMES[i % 4] for i in range(10)]
    np.testing.assert_array_equal(found["p"].to_numpy(np.float32), expected["p"])
    assert found['odd "name"'].isna().tolist() == [i % 5 == 0 for i in range(10)]
    assert found['odd "name"'][1] == "id 1"


def test_text_is_quoted_only_where_it_has_to_be(tmp_path):
    path = tmp_path / "t.csv"
    with create_table(str(path)) as table:
        table.write({"class": Words(np.array([0, 1]), ("Adelie", "Gentoo")), "p": np.zeros(2)})
    assert path.read_text() == "class,p\nAdelie,0\nGentoo,0\n"


@settings(max_examples=20)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=9))
def test_the_bytes_do_not_depend_on_the_blocks(tmp_path_factory, counts):
    """Also if they are smaller or larger than what is stored at once."""
    folder = tmp_path_factory.mktemp("blocks")
    steps = np.cumsum([0, *counts]).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_writer, "_MOST_ROWS", 8)
        patch.setattr(table_writer, "_LEAST_ROWS", 8)
        for end in (".csv", ".parquet", ".feather", ".h5"):
            write(folder / f"one{end}", (0, steps[-1]))
            write(folder / f"some{end}", steps)
            assert (folder / f"one{end}").read_bytes() == (folder / f"some{end}").read_bytes()


def test_equal_content_gives_equal_compressed_files(tmp_path):
    """No name and no time is stored."""
    write(tmp_path / "a.csv.gz")
    write(tmp_path / "b.csv.gz")
    write(tmp_path / "c.csv")
    content = (tmp_path / "a.csv.gz").read_bytes()
    assert content == (tmp_path / "b.csv.gz").read_bytes()
    assert gzip.decompress(content) == (tmp_path / "c.csv").read_bytes()


@pytest.mark.parametrize("end", [".csv", ".csv.gz", ".parquet", ".feather", ".h5"])
def test_an_error_leaves_the_older_file(tmp_path, end):
    """There is no file under the name before the end, and none beside it afterwards."""
    path = tmp_path / f"t{end}"
    path.write_text("older")

    def fail():
        with create_table(str(path)) as table:
            table.write(block(0, 10))
            assert path.read_text() == "older"
            raise DataError("bad row")

    with pytest.raises(DataError, match="bad row"):
        fail()
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "older"


@pytest.mark.parametrize("end", [".csv", ".parquet", ".h5"])
def test_a_folder_that_is_not_there(tmp_path, end):
    with pytest.raises(DataError, match=r"t\.\w+ cannot be written: No such file"):
        write(tmp_path / "no" / f"t{end}")


def test_standard_output_stays_open(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stdout)
    write("-")
    assert stdout.buffer.getvalue().startswith(b'row,class,p,"odd ""name"""\n0,')


def test_formats_by_name(monkeypatch):
    """In any case of letters; what is unknown, or needs pyarrow, is said."""
    formats = {
        "a.CSV": "csv", "a.tsv.gz": "csv", "-": "csv", "a.b.parquet": "parquet", "a.arrow": "arrow",
        "a.hdf5": "hdf5", "a.xlsx": None, "csv": None,
    }  # fmt: skip
    assert {name: table_format(name) for name in formats} == formats
    with pytest.raises(ConfigError, match=r"--out a\.xlsx` ends in no known format.*\.csv"):
        check_format("a.xlsx")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert check_format("a.h5") == "hdf5"
    with pytest.raises(DataError, match=r"needs pyarrow.*distbp\[tables\]"):
        check_format("a.csv")
