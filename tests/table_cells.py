"""The cells of a table as Python has them, read block by block, for tests of its readers."""

import numpy as np


def cells(column):
    """Return the cells of a column as Python has them; None where text is missing."""
    if column.words is None:
        return column.values.tolist()
    return [None if code < 0 else column.words[code] for code in column.values]


def rows(reader, columns=None, kinds=None):
    """Return all cells of the table by the names of its columns."""
    found = {}
    count = 0
    for block in reader.blocks(columns, kinds):
        if block.start == 0:
            found, count = {name: [] for name in block.columns}, 0
        assert block.start == count
        for name, column in block.columns.items():
            assert column.name == name
            assert len(column.values) == len(block)
            assert column.values.dtype == (np.float64 if column.words is None else np.int32)
            found[name] += cells(column)
        count += len(block)
    return found
