"""CSV files as people have them: dialects, encodings, kinds of columns, and damaged lines."""

import bz2
import csv
import gzip
import io
import math
import sys

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_cells import rows

from distbp.data import csv_chunks, csv_lines, csv_reader
from distbp.data.table_options import TableOptions
from distbp.data.table_reader import open_table
from distbp.errors import ConfigError, DataError
from distbp.parallel import host

NAN = math.nan


@pytest.fixture
def small_chunks(monkeypatch):
    """Cut files into chunks of some 50 bytes, so that short files have several."""
    monkeypatch.setattr(csv_reader, "_CHUNK_BYTES", 50)
    monkeypatch.setattr(csv_reader, "_FIRST_CHUNK_BYTES", 50)


def read(data, kinds=None, **options):
    """Return the cells and the notes of a CSV file."""
    source = io.BytesIO(data if isinstance(data, bytes) else data.encode())
    with open_table(source, TableOptions(**options)) as reader:
        return rows(reader, kinds=kinds), reader.notes


@pytest.mark.parametrize(
    ("data", "expected", "note"),
    [
        ("a,b\n1,x\n2,y\n", {"a": [1, 2], "b": ["x", "y"]}, None),
        ("a,b\n1,x\n2,y", {"a": [1, 2], "b": ["x", "y"]}, None),
        ("a;b\n1,5;x\n-2;y\n", {"a": [1.5, -2], "b": ["x", "y"]},
         "Columns are separated by ';'; numbers have a decimal comma."),
        ("a;b\n1.5;1,2\n2.5;3.5\n", {"a": [1.5, 2.5], "b": ["1,2", "3.5"]}, "separated by ';'."),
        ("a;b\n1,200;2,500\n1,300;7\n", {"a": [1.2, 1.3], "b": [2.5, 7]},
         "numbers have a decimal comma, so that 1,200 is 1.2."),
        ("1,5;2,5\n2,5;1e3\n", {"0": [1.5, 2.5], "1": [2.5, 1000]}, "a decimal comma; no line"),
        ("a\tb\n1\tx, y\n", {"a": [1], "b": ["x, y"]}, "separated by tabs"),
        ("a|b\n1|x\n", {"a": [1], "b": ["x"]}, "separated by '|'"),
        ("\ufeffa,b\r\n1,x\r\n\r\n2,y\r\n", {"a": [1, 2], "b": ["x", "y"]}, None),
        ("a,b\r1,x\r2,y\r", {"a": [1, 2], "b": ["x", "y"]}, None),
        ('a,b\n1,"x, ""y"""\n2,"z\nz"\n', {"a": [1, 2], "b": ['x, "y"', "z\nz"]}, None),
        ('a, b\n1, "x, y"\n2, z\n', {"a": [1, 2], "b": ["x, y", "z"]}, None),
        ('"a","b"\n"1","x"\n', {"a": [1], "b": ["x"]}, None),
        ('a,b\n1,5" pipe\n2,z\n', {"a": [1, 2], "b": ['5" pipe', "z"]}, None),
        ("# by x\na,b\n1,x\n# more\n2,y\n", {"a": [1, 2], "b": ["x", "y"]},
         "Lines that start with '#' are left out."),
        ("colour,n\n#fff,1\n#000,2\n", {"colour": ["#fff", "#000"], "n": [1, 2]}, None),
        ("a\n1\n2\n", {"a": [1, 2]}, None),
        ("a,b\n1,2,\n3,4,\n", {"a": [1, 3], "b": [2, 4]}, "Column 2 has no name and no values"),
        ("a,a\n1,2\n", {"a": [1], "a.1": [2]}, "Two columns are called 'a'"),
        ("a,,b\n1,x,2\n", {"a": [1], "column 1": ["x"], "b": [2]}, None),
        ("1,2\n3,4\n", {"0": [1, 3], "1": [2, 4]}, "No line names the columns"),
        ("0,1,2\n3,4,x\n", {"0": [3], "1": [4], "2": ["x"]}, None),
        ("size,colour\ns,red\nm,red\ns,blue\n",
         {"size": ["s", "m", "s"], "colour": ["red", "red", "blue"]}, None),
        ("p,x\ne,x\np,y\n", {"0": ["p", "e", "p"], "1": ["x", "x", "y"]}, "No line names"),
    ],
)  # fmt: skip
def test_dialects(data, expected, note):
    """What is not as everybody expects is said."""
    found, notes = read(data)
    assert found == expected
    assert (note in " ".join(notes)) if note else notes == []


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-32"]
)
def test_encodings(encoding):
    data = "name,n\nZoë,1\nBjörn,2\n".encode(encoding)
    found, notes = read(data)
    assert found == {"name": ["Zoë", "Björn"], "n": [1, 2]}
    assert bool(notes) == (not encoding.startswith("utf-8"))
    assert read(data, encoding=encoding)[0] == found


def test_utf_16_without_a_mark():
    assert read("a,b\n1,é\n".encode("utf-16-be"))[0] == {"a": [1], "b": ["é"]}
    assert read("a,b\n1,é\n".encode("utf-16-le"))[0] == {"a": [1], "b": ["é"]}


def test_an_encoding_that_shows_late():
    """After ASCII alone it may be Latin-1; after UTF-8 it is damaged UTF-8."""
    data = b"a,b\n" + b"1,x\n" * 80_000 + b"2,\xe9\n2,\x81\n"
    found, notes = read(data, drop="a")
    assert found["b"][-2:] == ["é", "\x81"]
    assert notes[0].endswith("on, the text is Windows-1252, which includes Latin-1.")
    damaged = b"a,b\n1,\xc3\xa9\n" + data[4:]
    with pytest.raises(DataError, match="line 80003 is not utf-8 text: invalid continuation byte"):
        read(damaged)
    with pytest.raises(DataError, match="line 80002 is not utf-8 text"):
        read(data, encoding="utf-8")


@pytest.mark.parametrize("word", ["", "NA", "N/A", "nan", "NaN", "null", "?", " ? ", '"NA"'])
def test_missing_cells(word):
    """The same words in columns of numbers and of text."""
    found, _ = read(f"a,b\n1,x\n{word},{word}\n3,y\n")
    assert found["b"] == ["x", None, "y"]
    np.testing.assert_array_equal(found["a"], [1, NAN, 3])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["1", "+5", " 2 ", "-.5e1"], [1, 5, 2, -5]),
        (["true", "False", "", "TRUE"], [1, 0, NAN, 1]),
        (["1970-01-02", "NA"], [86400, NAN]),
        (["1970-01-01 00:01:00", "1970-01-01T00:00:00"], [60, 0]),
        (["00:01:00", "00:00:01"], [60, 1]),
        (["inf", "-inf", "1e400"], [math.inf, -math.inf, math.inf]),
        (["", "", ""], [NAN] * 3),
        (["1_000", "1"], ["1_000", "1"]),
        (["1", "x", "NA"], ["1", "x", None]),
        (["true", "yes"], ["true", "yes"]),
        (["1,5", "2"], ["1,5", "2"]),
        (["x ", " x"], ["x", "x"]),
        (["\uff19", "1"], ["\uff19", "1"]),  # a full-width digit
    ],
)
def test_kinds(words, expected):
    """Numbers, truth values and dates are numbers; everything else is text."""
    found, _ = read("a,b\n" + "".join(f'"{word}",1\n' for word in words))
    if isinstance(expected[0], str):
        assert found["a"] == expected
    else:
        np.testing.assert_array_equal(found["a"], expected)


def test_a_decimal_comma_in_text_that_python_reads():
    """A point is no decimal mark there."""
    assert read("a;b\n+1,5;x\n2,5;y\n")[0]["a"] == [1.5, 2.5]
    data = "a;b\n+1,5;x\n2,5;y\n1.5;z\n"
    assert read(data, header=True)[0]["a"] == ["+1,5", "2,5", "1.5"]


def test_text_that_shows_late_makes_the_column_text(small_chunks):
    """From the first row on: blocks start again."""
    data = "a,b\n" + "1,2\n" * 100 + "1,+2\n" * 100 + "x,3\n"
    with open_table(io.BytesIO(data.encode())) as reader:
        assert reader.kinds == {"a": "number", "b": "number"}
        starts = [block.start for block in reader.blocks()]
        assert starts.count(0) == 2
        assert reader.kinds == {"a": "text", "b": "number"}
        assert rows(reader) == {"a": ["1"] * 200 + ["x"], "b": [2.0] * 200 + [3.0]}
        assert [block.start for block in reader.blocks()].count(0) == 1


def test_kinds_that_are_given(small_chunks):
    data = "a,b\n" + "1,2\n" * 100 + "x,3\n"
    assert read(data, {"a": "text", "b": "text"})[0]["b"] == ["2"] * 100 + ["3"]
    with pytest.raises(DataError, match=r"line 102, column 'a': 'x' is not a number\. Correct it"):
        read(data, {"a": "number"})
    with pytest.raises(DataError, match="line 2, column 'a': 'x' is not a number"):
        read("a,b\nx,1\n", {"a": "number"})


@pytest.mark.parametrize(
    ("data", "left_out"),
    [
        (",a\n0,5\n1,6\n2,7\n", True),
        (",a\n1,5\n2,6\n3,7\n", True),
        (",a\n53,5\n2,6\n17,7\n", True),  # of a part of a data frame
        (",a\n1,5\n1,6\n2,7\n", False),
        (",a\nx,5\ny,6\nz,7\n", False),
        ("n,a\n0,5\n1,6\n2,7\n", False),
    ],
)
def test_index(data, left_out):
    """A first column without a name that numbers the rows is left out, and that is said."""
    found, notes = read(data)
    assert found["a"] == [5, 6, 7]
    assert (len(found) == 1) == left_out
    assert ("left out as an index" in " ".join(notes)) == left_out


def test_names_of_rows_as_r_writes_them():
    """The header has one name less than the rows have cells."""
    found, notes = read('"a" "b"\n"1" 5 x\n"2" 6 y\n', separator="space")
    assert found == {"a": [5, 6], "b": ["x", "y"]}
    assert "left out as an index" in notes[1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"separator": ";"}, {"a,b": [1.2, 3.4]}),
        ({"header": False}, {"0": ["a", "1", "3"], "1": ["b", "2", "4"]}),
        ({"comment": "3"}, {"a": [1], "b": [2]}),
        ({"columns": "b"}, {"b": [2, 4]}),
        ({"columns": "1,0"}, {"a": [1, 3], "b": [2, 4]}),
        ({"columns": '"a",b', "drop": "-1"}, {"a": [1, 3]}),
    ],
)
def test_options(options, expected):
    assert read("a,b\n1,2\n3,4\n", **options)[0] == expected


def test_options_of_dialects():
    assert read("a\tb\n1,5\t2\n", separator="tab", decimal=",")[0] == {"a": [1.5], "b": [2]}
    assert read("1,2\n3,4\n", header=True)[0] == {"1": [3], "2": [4]}
    assert read("#a,b\n1,2\n", comment="none")[0] == {"#a": [1], "b": [2]}
    assert read("% x\na,b\n1,2\n", comment="%")[0] == {"a": [1], "b": [2]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separator": "ab"}, "`--separator ab`: expected one character"),
        ({"separator": '"'}, "expected one character"),
        ({"separator": ",", "decimal": ","}, "are both ','"),
        ({"encoding": "utf-9"}, "`--encoding utf-9` is unknown"),
        ({"encoding": "hex"}, "`--encoding hex` is unknown"),
        ({"columns": "c"}, "`--columns c`: the stream has no such column. Name one of a, b"),
        ({"drop": "2"}, "`--drop 2`: the stream has no such column"),
        ({"drop": "a,0"}, "`--drop a,0` names a column twice"),
        ({"drop": ""}, "names a column twice, or none"),
        ({"drop": "a,b"}, "leave no column of the stream"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        read("a,b\n1,2\n", **options)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b\n", "is empty but for the names of its columns"),
        ("a,b\n1,2\n3\n", "line 3: expected 2 values, found 1. Correct the line"),
        ("a,b\n1,2\n\n3,4,5\n6,7\n", "line 4: expected 2 values, found 3"),
        ('a,b\n1,"x\ny"\n3\n', "line 4: expected 2 values, found 1"),
        ("# x\na,b\n# y\n1,2\n3\n", "line 5: expected 2 values, found 1"),
        ('a,b\n1,x\n1,"x\n3,4\n', "line 3: a quote is opened here and never closed"),
        ('a,b\n1,"x"y\n2\n', "line 2: ',' expected after '\"'"),
        (b"a,b\n1,x\n2,\0\n", "line 3: expected text, found the character '\\\\x00'"),
        (bytes(range(256)) * 9, "line 1: expected text, found the character"),
        ("é,b\n1,x\n".encode() + b"2,\xff\n", "line 3 is not utf-8 text"),
        (b"a,b\n1,x\n2,y\n", "line 1 is not ascii text"),
        (b"PK\3\4" + bytes(100), "is a zip archive, such as an Excel workbook, not a table. Save"),
        (b"\x89HDF\r\n", "is an HDF5 file, not a table"),
        (b'[\n {"a": 1}]', "is one JSON array. Write one object a line"),
    ],
)
def test_damaged_files(data, message):
    """One sentence with the line, and what to do."""
    options = {"encoding": "ascii"} if "ascii" in message else {}
    if options:
        data = "ä,b\n1,x\n".encode()
    with pytest.raises(DataError, match=f"^the stream.*{message}"):
        read(data, **options)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\n", "line 1002: expected 2 values, found 1"),
        ('1,"x\n', "line 1002: a quote is opened here and never closed"),
    ],
)
def test_damage_behind_the_first_chunk(small_chunks, line, message):
    """The rows before it are yielded."""
    data = ("a,b\n" + "1,x\n" * 1000 + line + "2,y\n" * 1000).encode()
    with open_table(io.BytesIO(data)) as reader:
        lengths = []
        with pytest.raises(DataError, match=message):
            lengths.extend(len(block) for block in reader.blocks())
        assert sum(lengths) > 900


def test_quotes_at_every_place_of_a_chunk(small_chunks):
    """Chunks are never cut inside quotes, whatever the lengths are."""
    for length in range(1, 30, 2):
        cell = "x" * length + "\n\n" + "y" * length
        data = "a,b\n" + f'1,"{cell}"\n2,z\n' * 5
        assert read(data)[0] == {"a": [1, 2] * 5, "b": [cell, "z"] * 5}
    data = "a,b\n" + '1,5" x\n2,"y\nz"\n' * 20
    assert read(data)[0]["b"] == ['5" x', "y\nz"] * 20


TEXTS = st.text(st.sampled_from('xy",;\n 5é'), min_size=1, max_size=12).map(lambda t: f"t{t}t")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=30),
    st.sampled_from([",", ";"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.integers(1, 60),
)
def test_what_python_writes_is_read(table, separator, quoting, chunk_bytes):
    """Any text, in chunks of any size, whatever is quoted in it."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator="\n")
    writer.writerows([("a", "b"), *table])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_reader, "_CHUNK_BYTES", chunk_bytes)
        found, _ = read(file.getvalue(), separator=separator, header=True, comment="none")
    assert list(zip(found["a"], found["b"], strict=True)) == table


def test_a_row_that_is_too_long(monkeypatch, small_chunks):
    """A chunk grows until it holds a row, but not without limit."""
    monkeypatch.setattr(csv_chunks, "MAX_ROW_BYTES", 1000)
    assert len(read("a,b\n1," + "x" * 900 + "\n")[0]["b"][0]) == 900
    for start in ("", "# x\n"):
        with pytest.raises(DataError, match="has a row of more than 0 MB"):
            read(start + "a,b\n1,2\n1," + "x" * 2000 + "\n2,y\n")


def test_a_row_of_very_many_cells(monkeypatch):
    """They are counted, not split."""
    monkeypatch.setattr(csv_lines, "_MAX_CELLS", 10)
    with pytest.raises(DataError, match="line 3: expected 2 values, found 101"):
        read("a,b\n1,2\n" + "1," * 100 + "\n")


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lambda d: pyarrow.compress(d, "zstd", asbytes=True)]
)
def test_compressed_files(pack, tmp_path, small_chunks):
    """Known by the first bytes, whatever the name is; progress counts the bytes as stored."""
    path, done = tmp_path / "d.csv", []
    path.write_bytes(pack(b"a,b\n" + b"1,x\n" * 5000))
    with open_table(path, advance=done.append) as reader:
        assert rows(reader) == {"a": [1] * 5000, "b": ["x"] * 5000}
    assert sum(done) == path.stat().st_size


def test_a_truncated_file():
    numbers = np.random.default_rng(0).integers(0, 9, 999_999)
    packed = gzip.compress(b"a\n" + b"\n".join(b"%d" % one for one in numbers))
    for stop in (5, 20, len(packed) // 2, len(packed) - 4):
        with pytest.raises(DataError, match=r"^the stream cannot be read: "):
            read(packed[:stop])


def test_progress_and_reading_again(tmp_path, small_chunks):
    """Every byte is reported once, however often the file is read."""
    path, done = tmp_path / "d.csv", []
    path.write_text("a,b\n" + "1,x\n" * 100)
    with open_table(path, advance=done.append) as reader:
        assert rows(reader) == rows(reader)
        assert rows(reader, ["b"]) == {"b": ["x"] * 100}
        assert rows(reader, ["b", "a"])["b"] == ["x"] * 100
    assert len(done) > 5
    assert sum(done) == path.stat().st_size


def test_locate(tmp_path):
    """Lines are counted as an editor does."""
    path = tmp_path / "d.csv"
    path.write_text('# x\na,b\n1,"x\ny"\n\n# y\n2,z\n')
    with open_table(path) as reader:
        assert reader.locate(0) == f"{path}, line 3"
        assert reader.locate(1, "b") == f"{path}, line 7, column 'b'"
        assert reader.locate(2) == f"{path}, row 2"


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_any_number_of_cores(cores, monkeypatch, small_chunks):
    """Blocks come in order, and a reader that is left early ends its threads."""
    monkeypatch.setattr(host, "usable_cores", lambda: cores)
    data = "a,b\n" + "".join(f"{i},x{i}\n" for i in range(500))
    found, _ = read(data)
    assert found == {"a": list(range(500)), "b": [f"x{i}" for i in range(500)]}
    with open_table(io.BytesIO(data.encode())) as reader:
        blocks = reader.blocks()
        next(blocks)
        blocks.close()


def test_blocks_have_a_limited_number_of_rows():
    with open_table(io.BytesIO(b"a\n" + b"1\n" * 200_000)) as reader:
        assert [len(block) for block in reader.blocks()] == [65536, 65536, 65536, 3392]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.csv", "cannot be read: No such file"),
        ("", "it is a folder, not a file"),
    ],
)
def test_paths_that_are_no_files(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        open_table(tmp_path / name)


def test_standard_input(tmp_path, monkeypatch):
    """A file is read where it is; a pipe is copied first. Both are named."""
    path = tmp_path / "d.csv"
    path.write_text("a,b\n1\n")
    for stream in (path.open("rb"), io.BytesIO(path.read_bytes())):
        with stream, pytest.raises(DataError, match="expected 2 values, found 1"):
            open_table(stream)
    with path.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        with pytest.raises(DataError, match=f"^{path}, line 2"):
            open_table(sys.stdin.buffer)


def test_without_pyarrow(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"Reading d\.csv needs pyarrow.*distbp\[tables\]"):
        open_table("d.csv")
