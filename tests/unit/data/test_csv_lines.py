"""Lines and headers of CSV files: the lines that messages name, and years that name columns."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.data.table_options import TableOptions
from distbp.data.table_reader import open_table
from distbp.errors import DataError


def opened(data, **options):
    source = io.BytesIO(data if isinstance(data, bytes) else data.encode())
    return open_table(source, TableOptions(**options))


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        ("a,b\n1,x\n2,y\n", [2, 3]),
        ('a,b\n5" disk,x\n"2",y\n3.5" and 5" disk,z\n4,z\n', [2, 3, 4, 5]),
        ('a,b\n"x\ny",1\n"x ""\n"" y",2\nx,3\n', [2, 4, 6]),
        ('a,b\n"x",1\n"x\n\n"" y"" \n""",2\nx,3\n', [2, 3, 7]),
        ('a,b\nx, "y\nz"\nx,5" disk\nx,z\n', [2, 4, 5]),
        ("# by x\na,b\n1,x\n# more\n2,y\n", [3, 5]),
        ("a,b\r1,x\r2,y\r3,z", [2, 3, 4]),
        ("a,b\r\n1,x\r\n\r\n2,y\r\n", [2, 4]),
        ('a,b\n1,"x\rz"\n2,y\n', [2, 3]),
    ],
)
def test_lines_of_rows(data, lines):
    """A quote is special only at the start of a cell; \\r ends lines where there is no \\n."""
    with opened(data) as reader:
        found = [reader.locate(row) for row in range(len(lines))]
    assert found == [f"the stream, line {line}" for line in lines]


@given(
    st.lists(
        st.lists(st.text('a"\n ,', max_size=6), min_size=2, max_size=2), min_size=1, max_size=5
    )
)
def test_lines_of_what_python_writes(table):
    """Every row is found where Python's writer began it."""
    file, lines = io.StringIO(), []
    writer = csv.writer(file, lineterminator="\n")
    for cells in [["a", "b"], *table]:
        lines.append(file.getvalue().count("\n") + 1)
        writer.writerow(cells)
    with opened(file.getvalue(), separator=",", header=True, comment="none") as reader:
        found = [reader.locate(row) for row in range(len(table))]
    assert found == [f"the stream, line {line}" for line in lines[1:]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("u,v\r1,2\r3,\x01\r", "line 3: expected text, found the character"),
        ("u,v\r1,2\r3,é\r", "line 3 is not ascii text"),
        ("u,v\r1,2\r" + "3,4\r" * 99_999 + "3,é\r", "line 100002 is not ascii text"),
    ],
)
def test_lines_that_end_with_carriage_returns_are_counted(data, message):
    """Also where the text is not what the file says, in the sample and behind it."""
    with pytest.raises(DataError, match=message), opened(data, encoding="ascii") as reader:
        list(reader.blocks())


@pytest.mark.parametrize(
    ("first", "below", "is_header"),
    [
        ("1990,1991,1992", ["1.5,2,3", "2,3.5,4"], True),
        ("1990,1995,2000", ["10,20,30"], True),
        ("2003,2002,2001", ["10,20,2020", "10,1999,5"], True),
        ("country,1990,1991,1992", ["A,1,2,3", "B,1,2,3", "A,4,,4"], True),
        ("city,2019,2020", ["X,5,6", "Y,7,8"], True),
        ("city,2019,2020", ["X,5,6", "Y,1999,8"], False),
        ("X,2019,2020", ["X,5,6", "Y,7,8"], False),
        ("2001,2002,2003", ["2002,2003,2004", "2010,2011,2012"], False),
        ("2020,1,2", ["2021,3,4"], False),
        ("1990,1991,1993", ["1,2,3"], False),
        ("5000,5001,5002", ["1,2,3"], False),
    ],
)
def test_years_that_name_columns(first, below, is_header):
    """At equal distances, and other numbers below them; it is said."""
    with opened("\n".join([first, *below]) + "\n") as reader:
        assert (reader.all_names == first.split(",")) == is_header
        said = "The years in the first line name the columns." in reader.notes
    assert said == is_header
