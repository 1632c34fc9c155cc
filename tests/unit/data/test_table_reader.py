"""Parquet, Arrow and JSON files and data frames as tables; damaged files of every format."""

import datetime
import gzip
import io
import json
import random
from decimal import Decimal

import numpy as np
import pyarrow
import pytest
from pyarrow import ipc, parquet
from table_cells import rows

from distbp.data import arrow_reader, csv_chunks, csv_reader
from distbp.data.table_options import TableOptions
from distbp.data.table_reader import frame_reader, open_table
from distbp.errors import ConfigError, DataError, DistbpError

DAY = datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC)
TABLE = pyarrow.table(
    {
        "n": [1, 2, None],
        "f": pyarrow.array([1.5, None, np.nan]),
        "h": pyarrow.array(np.array([0.5, 1, 2], np.float16)),
        "b": [True, None, False],
        "d": pyarrow.array([Decimal("1.25"), None, Decimal(2)]),
        "date": [DAY.date(), None, DAY.date()],
        "time": [datetime.time(0, 1), None, datetime.time(1)],
        "stamp": pyarrow.array([DAY, None, DAY], pyarrow.timestamp("ns", "UTC")),
        "span": [datetime.timedelta(seconds=2), None, datetime.timedelta(milliseconds=5)],
        "none": pyarrow.nulls(3),
        "t": ["x", None, " NA"],
        "k": pyarrow.array(["u", "v", "u"]).dictionary_encode(),
        "i": pyarrow.array([7, 8, 7]).dictionary_encode(),
    }
)
NAN = np.nan
CELLS = {
    "n": [1, 2, NAN],
    "f": [1.5, NAN, NAN],
    "h": [0.5, 1, 2],
    "b": [1, NAN, 0],
    "d": [1.25, NAN, 2],
    "date": [86400, NAN, 86400],
    "time": [60, NAN, 3600],
    "stamp": [86400, NAN, 86400],
    "span": [2, NAN, 0.005],
    "none": [NAN] * 3,
    "t": ["x", None, None],
    "k": ["u", "v", "u"],
    "i": [7, 8, 7],
}


def written(write):
    """Return the bytes that a function writes to a file."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def arrow_file(file, table=TABLE):
    with ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, 2)


def arrow_stream(file, table=TABLE):
    with ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, 2)


def parquet_file(file, table=TABLE):
    parquet.write_table(table, file, row_group_size=2)


def check(found, expected):
    assert list(found) == list(expected)
    for name, column in expected.items():
        if isinstance(column[0], str):
            assert found[name] == column
        else:
            np.testing.assert_array_equal(found[name], column, name)


@pytest.mark.parametrize("write", [arrow_file, arrow_stream, parquet_file])
def test_files_with_types(write, tmp_path):
    """The same cells from each, in any part of the columns; every byte is reported."""
    path, done = tmp_path / "d.csv", []  # the name does not matter
    path.write_bytes(written(write))
    with open_table(path, advance=done.append) as reader:
        assert reader.names == list(CELLS)
        texts = [name for name, kind in reader.kinds.items() if kind == "text"]
        assert texts == ["t", "k"]
        assert reader.notes == []
        check(rows(reader), CELLS)
        check(rows(reader, ["k", "n"]), {name: CELLS[name] for name in ("k", "n")})
        assert reader.locate(1, "n") == f"{path}, row 1, column 'n'"
    assert sum(done) == path.stat().st_size


def test_numbers_as_text():
    """As a model that was trained on categories of numbers asks for."""
    table = pyarrow.table({"n": [1, None], "f": [0.5, 2], "b": [True, False]})
    kinds = dict.fromkeys("nfb", "text")
    expected = {"n": ["1", None], "f": ["0.5", "2"], "b": ["true", "false"]}
    with frame_reader(table) as reader:
        assert rows(reader, kinds=kinds) == expected
    text = written(lambda file: arrow_file(file, pyarrow.table({"a": ["x", "1"]})))
    with open_table(io.BytesIO(text)) as reader, pytest.raises(DataError, match="holds text; exp"):
        rows(reader, kinds={"a": "number"})


def test_large_dictionaries_and_blocks(monkeypatch):
    """Words are those of the block; blocks have a limited number of rows."""
    monkeypatch.setattr(arrow_reader, "BLOCK_ROWS", 10)
    words = [f"w{i}" for i in range(1000)]
    table = pyarrow.table({"t": pyarrow.array(words).dictionary_encode()})
    with frame_reader(table) as reader:
        blocks = list(reader.blocks())
    assert [block.start for block in blocks] == list(range(0, 1000, 10))
    assert blocks[3].columns["t"].words == tuple(words[30:40])


def test_pandas():
    """An index without a name is left out; names of columns may be numbers."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"a": [1, 2], "t": ["x", None], "k": pandas.Categorical(["u", "v"]), 7: [True, False]},
        index=[5, 9],
    )
    expected = {"a": [1, 2], "t": ["x", None], "k": ["u", "v"], "7": [1, 0]}
    with frame_reader(frame) as reader:
        check(rows(reader), expected)
        assert reader.notes == ["The index of the data frame is left out."]
    data = written(lambda file: frame.rename(columns=str).to_parquet(file))
    with open_table(io.BytesIO(data)) as reader:
        check(rows(reader), expected)
        assert reader.notes == ["The index of the data frame is left out."]
    with frame_reader(frame.rename_axis("id").rename(columns=str)) as reader:
        assert sorted(reader.names) == ["7", "a", "id", "k", "t"]
    with pytest.raises(DataError, match=r"^the data frame cannot be read: "):
        frame_reader(pandas.DataFrame({"a": [1, "x"]}))


def test_polars():
    polars = pytest.importorskip("polars")
    kind = polars.Categorical
    frame = polars.DataFrame(
        {"a": [1, None], "t": ["x", "y"], "k": polars.Series(["u"] * 2, dtype=kind)}
    )
    with frame_reader(frame, "df", TableOptions(drop="a")) as reader:
        assert rows(reader) == {"t": ["x", "y"], "k": ["u", "u"]}
        assert reader.all_names == ["a", "t", "k"]
        assert rows(reader, ["k"]) == {"k": ["u", "u"]}


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (3, DataError, "is a int; expected a data frame"),
        ({"a": [1]}, DataError, "is a dict; expected a data frame"),
        (pyarrow.table({}), DataError, "has no columns"),
        (pyarrow.table({"a": pyarrow.nulls(0)}), DataError, "is empty"),
        (pyarrow.table({"v": [[1, 2]], "a": [1]}), DataError,
         "column 'v' holds list<.*>; expected numbers or text. Leave it out with --drop v"),
    ],
)  # fmt: skip
def test_frames_that_are_refused(frame, error, message):
    with pytest.raises(error, match=f"^the data frame.*{message}"):
        rows(frame_reader(frame))


def test_a_nested_column_can_be_left_out():
    table = pyarrow.table({"v": [[1, 2]], "a": [1]})
    assert rows(frame_reader(table, options=TableOptions(drop="v"))) == {"a": [1]}
    with pytest.raises(ConfigError, match="`--drop x`: the data frame has no such column"):
        frame_reader(table, options=TableOptions(drop="x"))


def test_repeated_names():
    table = pyarrow.table([[1], [2], [3]], names=["a", "a", "a.1"])
    with frame_reader(table) as reader:
        assert rows(reader) == {"a": [1], "a.2": [2], "a.1": [3]}
        assert reader.notes == ["Two columns are called 'a': the later one is 'a.2'."]
    data = written(lambda file: parquet_file(file, table))
    with open_table(io.BytesIO(data)) as reader:
        assert rows(reader, ["a.2"]) == {"a.2": [2]}


# JSON lines


def json_lines(*lines):
    return "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)


def read_json(text, kinds=None):
    data = text.encode() if isinstance(text, str) else text
    with open_table(io.BytesIO(data)) as reader:
        return rows(reader, kinds=kinds)


def test_json_lines():
    text = json_lines({"a": 1, "b": "x"}, "\n", {"b": None, "c": True}, {"a": "NA", "b": " y "})
    expected = {"a": [1, NAN, NAN], "b": ["x", None, "y"], "c": [NAN, 1, NAN]}
    check(read_json(text), expected)
    check(read_json("\ufeff" + text), expected)
    check(read_json(gzip.compress(text.encode())), expected)
    with open_table(io.BytesIO(text.encode())) as reader:
        assert reader.locate(1, "b") == "the stream, line 3, column 'b'"
    assert read_json(json_lines({"a": 10**400}, {"a": -(10**400)})) == {"a": [np.inf, -np.inf]}


def test_json_text_that_shows_late():
    text = json_lines(*[{"a": 1}] * 2000, {"a": "x"})
    with open_table(io.BytesIO(text.encode())) as reader:
        assert reader.kinds == {"a": "number"}
        assert rows(reader) == {"a": ["1"] * 2000 + ["x"]}
        assert reader.kinds == {"a": "text"}
    with pytest.raises(DataError, match="line 2001, column 'a': 'x' is not a number"):
        read_json(text, {"a": "number"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json_lines({"a": 1}, '{"a"\n'), "line 2 is not JSON: Expecting ':'"),
        (json_lines({"a": 1}, "5\n"), "line 2: expected an object"),
        (json_lines({"a": 1}, {"a": [1]}), "line 2, column 'a': expected a number or text"),
        (json_lines(*[{"a": 1}] * 2000, {"b": 1}), "line 2001: 'b' is in none of the first 1000"),
        ('{"a":' + "[" * 100_000, "line 1 is not JSON: maximum recursion"),
        ('{"a":' + "1" * 5000 + "}", "line 1 is not JSON: Exceeds the limit"),
        (b'{"a": "\xff"}', "line 1 is not JSON: 'utf-8' codec"),
        ("{}\n", "is empty"),
    ],
)
def test_json_that_is_refused(text, message):
    with pytest.raises(DataError, match=f"^the stream.*{message}"):
        read_json(text)


# Damaged files

SMALL = TABLE.select(["n", "f", "t", "k"])
FORMATS = {
    "parquet": written(lambda file: parquet_file(file, SMALL)),
    "arrow": written(lambda file: arrow_file(file, SMALL)),
    "arrow-stream": written(lambda file: arrow_stream(file, SMALL)),
    "json": json_lines(*[{"a": 1, "b": "é"}, {"a": None}] * 20).encode(),
    "csv": ("a;b;c\n" + '1,5;"x ""y""";é\n2;z;\n' * 20).encode(),
    "comments": ("# c\na,b\n" + '1, "x"\n?,y\n' * 20).encode(),
    "utf-16": ("a\tb\n" + "1\té\n" * 20).encode("utf-16"),
    "latin-1": ("a|b\r" + "1|é\r" * 20).encode("latin-1"),
    "gzip": gzip.compress(b"a,b\n" + b"1,x\n" * 50),
}


def damage(data, chance):
    """Return the bytes after one to three random changes."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 3))):
        at, kind = chance.randrange(len(data)), chance.randrange(4)
        if kind == 0:
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at : at + chance.randrange(1, 20)]
        elif kind == 2:
            data[at:at] = bytes(chance.choice(b'",;\n\r\t\0#\xff\xe9ax1.') for _ in range(3))
        else:
            del data[at + 1 :]
    return bytes(data)


def refusal(data):
    """Return why a file is refused; None if it is read."""
    try:
        with open_table(io.BytesIO(data)) as reader:
            for block in reader.blocks():
                assert all(len(column.values) == len(block) for column in block.columns.values())
    except DistbpError as failure:
        return str(failure)
    return None


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name, monkeypatch):
    """They are read, or refused in one line; the process survives."""
    monkeypatch.setattr(csv_reader, "_CHUNK_BYTES", 100)
    monkeypatch.setattr(csv_reader, "_FIRST_CHUNK_BYTES", 100)
    monkeypatch.setattr(csv_chunks, "MAX_ROW_BYTES", 1000)
    with open_table(io.BytesIO(FORMATS[name])) as reader:
        rows(reader)
    chance = random.Random(name)  # noqa: S311 - nothing secret
    messages = [refusal(damage(FORMATS[name], chance)) for _ in range(100)]
    messages = [one for one in messages if one is not None]
    assert len(messages) > 10
    assert all("\n" not in one and len(one) < 400 for one in messages)


@pytest.mark.parametrize("name", ["parquet", "arrow"])
def test_files_that_are_cut_off(name):
    for stop in (6, 100, len(FORMATS[name]) - 3):
        with pytest.raises(DataError, match=r"^the stream cannot be read: "):
            open_table(io.BytesIO(FORMATS[name][:stop]))


def test_a_compressed_file_of_another_format():
    """Parquet and Arrow need to seek."""
    with pytest.raises(DataError, match=r"is a compressed parquet file\. Uncompress it"):
        open_table(io.BytesIO(gzip.compress(FORMATS["parquet"])))
