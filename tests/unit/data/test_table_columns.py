"""Arrow arrays as columns."""

import subprocess
import sys

import numpy as np
import pyarrow
import pytest

from distbp.data.table_columns import to_column


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
@pytest.mark.parametrize("missing", [0.0, 0.3, 1.0])
def test_parts_of_arrays(count, missing):
    """From any row on, with and without missing cells: one bit says which are there."""
    random = np.random.default_rng(count)
    mask, values = random.random(count) < missing, random.normal(size=count)
    numbers = pyarrow.array(values, pyarrow.float64(), mask=mask)
    words = pyarrow.array([f"w{value:.0f}" for value in values], pyarrow.string(), mask=mask)
    for start in (0, 1, 5, 8, 13):
        for length in (0, 1, 8, 17, count):
            part = slice(start, start + length)
            found = to_column("a", numbers[part], "number").values
            np.testing.assert_array_equal(found, np.where(mask, np.nan, values)[part])
            for cells in (words[part], words.dictionary_encode()[part]):
                column = to_column("a", cells, "text")
                texts = [None if i < 0 else column.words[i] for i in column.values]
                assert texts == cells.to_pylist()


def test_pandas_is_not_imported(tmp_path):
    """Which takes longer than to read a small table."""
    path = tmp_path / "d.csv"
    path.write_text("a,b\n1,x\n,y\n")
    program = (
        "import sys; from distbp.data.table_reader import open_table\n"
        "with open_table(sys.argv[1]) as reader: list(reader.blocks())\n"
        "sys.exit('pandas' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True)
