"""What is in a column, and in its training rows, whatever the blocks it comes in."""

import numpy as np
import pytest

from distbp.data import labels
from distbp.data.profile import ColumnSummary, TableProfile, column_warnings
from distbp.data.spool import Spool
from distbp.data.table_encoder import _TrainingColumn

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("cells", "missing", "low", "high", "is_whole"),
    [
        ([3, 1, 2], 0, 1, 3, True),
        ([3, NAN, -2, NAN], 2, -2, 3, True),
        ([0.5, NAN, 2], 1, 0.5, 2, False),
        ([1, INF], 0, 1, INF, False),
        ([NAN, -INF], 1, -INF, -INF, False),
        ([NAN, NAN], 2, NAN, NAN, False),
    ],
)
@pytest.mark.parametrize("step", [1, 2, 9])
def test_summary(cells, missing, low, high, is_whole, step):
    """Bounds, missing cells and whether all numbers are integers."""
    summary = ColumnSummary()
    for at in range(0, len(cells), step):
        summary.add(np.array(cells[at : at + step], float))
    found = summary.column("a", "feature", None)
    assert (found.missing, found.is_whole) == (missing, is_whole)
    np.testing.assert_array_equal([found.low, found.high], [low, high])


def test_a_copy_of_classes_of_which_some_have_no_row(tmp_path):
    """As when the caller names more classes than the rows have."""
    y = np.array([0, 3] * 20)
    with Spool(tmp_path, 2) as spool:
        spool.append([np.where(y > 0, 7.0, 5.0), np.arange(40) % 3 + 0.5])
        columns = [
            ColumnSummary().column(name, "feature", None, is_date=name == "b") for name in "ab"
        ]
        found = list(column_warnings(spool, TableProfile(40, columns), y))
    assert [column.shown_kind for column in columns] == ["number", "date"]
    assert len(found) == 1
    assert found[0].startswith("Column 'a' equals the label")


def test_mean_of_training_rows():
    """The same bits as the sums over an array of rows that older versions computed."""
    random = np.random.default_rng(0)
    rows = 1e9 + random.normal(size=(1000, 3))
    rows[random.random(rows.shape) < 0.1] = NAN
    is_train = random.random(1000) < 0.7
    columns = [_TrainingColumn(0, with_mean=True) for _ in range(3)]
    total, count, origin = np.zeros(3), np.zeros(3), None
    for at in range(0, 1000, 300):
        here = rows[at : at + 300][is_train[at : at + 300]]
        origin = np.nan_to_num(here[0]) if origin is None else origin
        total += np.where(np.isnan(here), 0, here - origin).sum(axis=0)
        count += (~np.isnan(here)).sum(axis=0)
        for column, cells in zip(columns, rows[at : at + 300].T, strict=True):
            column.add_rows(cells, is_train[at : at + 300])
    assert [column.mean for column in columns] == (origin + total / count).tolist()


def test_frequencies_of_words():
    """Those of training rows and of others; a missing cell is no word."""
    column = _TrainingColumn(3, with_mean=False)
    column.add_rows(np.array([0, 2, NAN, 2, 1.0]), np.array([1, 1, 1, 0, 0], bool))
    assert column.frequencies.tolist() == [1, 0, 1]
    assert column.frequencies_elsewhere.tolist() == [0, 1, 1]
    assert (column.missing, column.is_constant) == (1, False)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8, np.float64])
@pytest.mark.parametrize("numbers", [[3, 1, 3], [0, 2], [-(2**62), 2**62], [2**62, 2**62 + 1]])
def test_different_numbers(numbers, dtype):
    """Counted or sorted, as their range allows."""
    found = np.array(numbers).astype(dtype)
    np.testing.assert_array_equal(labels._different(found), np.unique(found))
