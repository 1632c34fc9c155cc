"""The columns of a table that a model takes: labels, identifiers, and groups of rows."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.data.model_table import ModelTable, Rows, regroup
from distbp.data.table_options import TableOptions
from distbp.data.table_reader import frame_reader, open_table
from distbp.errors import ConfigError, DataError
from distbp.storage.preprocessing import Feature, Preprocessing


def model(labels=(), task="classification", classes=(), features=("a", "b"), transform="none"):
    """Return what a ModelTable reads of a checkpoint."""
    table = Preprocessing(tuple(Feature(one) for one in features), labels, transform)
    about = {"task": task, "classes": list(classes)}
    network = SimpleNamespace(sizes=(len(features), 3))
    return SimpleNamespace(about=about, network=network, preprocessing=table)


def labels_of(frame, found):
    with frame_reader(frame.assign(a=1.0, b=2.0)) as reader:
        return Rows.join(list(ModelTable(reader, found, has_labels=True).rows(3))).y


def test_labels_as_data_sets_store_them():
    """Classes by name, also if they are numbers; one-hot columns; targets; several labels."""
    names = model(("y",), classes=("no", "yes"))
    assert labels_of(pandas.DataFrame({"y": ["yes", "no", "yes", "no"]}), names).tolist() == [
        *(1, 0, 1, 0),
    ]
    numbers = model(("y",), classes=("-1", "0.5", "7"))
    assert labels_of(pandas.DataFrame({"y": [7.0, 0.5, -1, 7]}), numbers).tolist() == [2, 1, 0, 2]
    assert labels_of(pandas.DataFrame({"y": ["7", "0.5"]}), numbers).tolist() == [2, 1]
    columns = pandas.DataFrame({"p": [0, 1, 0], "q": [1, 0, 0], "r": [0, 0, 1], "s": [0] * 3})
    assert labels_of(columns, model(("p", "q", "r"), classes="pqr")).tolist() == [1, 0, 2]
    found = labels_of(columns, model(("q", "p", "s", "r"), classes="qpr"))
    assert found.tolist() == [0, 1, 2]  # no training row was of class s
    found = labels_of(columns, model(("r", "p"), "multilabel", ("r", "p")))
    np.testing.assert_array_equal(found, np.array([[0, 0], [0, 1], [1, 0]], np.uint8), strict=True)
    found = labels_of(columns + 1, model(("q",), "regression", transform="log"))
    np.testing.assert_array_equal(found, np.log([[2.0], [1.0], [1.0]]), strict=True)


@pytest.mark.parametrize(
    ("values", "found", "match"),
    [
        (["yes", "maybe"], model(("y",), classes=("no", "yes")), "row 1, .*'maybe' is not one of"),
        (["yes", None], model(("y",), classes=("no", "yes")), "row 1, .*the label is missing"),
        ([1.0, np.nan], model(("y",), "regression"), "row 1, .*the label is missing"),
        ([1.0, -1.0], model(("y",), "regression", transform="log"), "row 1, .*positive number"),
        ([1.0, np.inf], model(("y",), "regression"), "row 1, .*finite number"),
        ([0.0, 2.0], model(("y",), "multilabel", ("y",)), "row 1, .*2 is not a label"),
        ([0.0, 0.0], model(("y", "a"), classes="ya"), "row 0, .*is not a label"),
    ],
)  # fmt: skip
def test_labels_that_the_model_does_not_have(values, found, match):
    frame = pandas.DataFrame({"y": values})
    if "a" in found.preprocessing.labels:  # two columns that are not one-hot
        found = model(("y", "z"), classes="01")
        frame["z"] = 0.0
    with pytest.raises(DataError, match=match):
        labels_of(frame, found)


def test_identifiers_are_kept_as_they_are_written(tmp_path):
    """Zeros in front, long numbers, and missing ones; also if the model takes the column."""
    path = tmp_path / "t.csv"
    path.write_text("id,a,b\n007,1,2\n12345678901234567890,3,4\n,5,6\n")
    with open_table(path) as reader:
        table = ModelTable(reader, model(), id_column="id")
        assert table.notes == []
        (rows,) = table.rows(9)
    assert rows.ids.tolist() == ["007", "12345678901234567890", None]
    with open_table(path) as reader:
        (rows,) = ModelTable(reader, model(), id_column="b").rows(9)
    assert rows.ids.tolist() == ["2", "4", "6"]
    path.write_text(f"id,a,b\n1,1,2\n2,3,{2**53}\n")
    with open_table(path) as reader, pytest.raises(DataError, match=r"line 3.*from 2\^53 on"):
        list(ModelTable(reader, model(), id_column="b").rows(9))


def test_classes_that_only_look_like_numbers(tmp_path):
    """001 is not 1, and large integers are not what float64 makes of them."""
    path, large = tmp_path / "t.csv", str(2**60 + 1)
    path.write_text(f"y,a,b\n001,1,2\n{large},3,4\n")
    with open_table(path) as reader:
        found = ModelTable(reader, model(("y",), classes=["001", large]), has_labels=True)
        (rows,) = found.rows(9)
    assert rows.y.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("cells", "are_integers"),
    [
        (["3", "-7", "0"], True), (["3", "007", "1"], False), (["3", "", "1"], False),
        (["1", "2", "A3"], False), (["1", "2", str(10**18)], False), (["1", "-0", "2"], False),
    ],
)  # fmt: skip
def test_identifiers_that_are_all_integers_stay_numbers(tmp_path, cells, are_integers):
    """Any other one, also far behind the rows that are looked at first, makes all of them text."""
    path, read = tmp_path / "t.csv", []
    cells = [*map(str, range(40_000)), *cells]
    path.write_text("id,a,b\n" + "".join(f"{one},{'1' * 50},2\n" for one in cells))
    with open_table(path, advance=read.append) as reader:
        table = ModelTable(reader, model(), id_column="id", keeps_integers=True)
        assert not read
        rows = Rows.join(list(table.rows(10_000)))
    assert sum(read) == path.stat().st_size
    assert rows.ids.dtype == (np.int64 if are_integers else object)
    assert rows.ids.tolist() == ([*map(int, cells)] if are_integers else [c or None for c in cells])


def test_the_types_of_identifiers_in_frames():
    """Those of integers stay; those of text and fractions are text."""
    frame = pandas.DataFrame({"i": np.array([7, 8], "u1"), "s": ["7", "8"], "f": [0.5, 1]})
    for name, expected in (("i", [7, 8]), ("s", ["7", "8"]), ("f", ["0.5", "1"])):
        with frame_reader(frame.assign(a=1.0, b=2.0)) as reader:
            table = ModelTable(reader, model(), id_column=name, keeps_integers=True)
            assert next(table.rows(9)).ids.tolist() == expected


def test_a_model_without_names_takes_columns_in_order(tmp_path):
    """As many as it has inputs; there is nothing to find a label by."""
    path = tmp_path / "t.csv"
    path.write_text("id,u,v\n9,1,2\n8,3,4\n")
    nameless = model()
    nameless.preprocessing = None
    with open_table(path) as reader:
        table = ModelTable(reader, nameless, id_column="id")
        assert "in their order" in table.notes[-1]
        assert next(table.rows(9)).x.tolist() == [[1, 2], [3, 4]]
        with pytest.raises(ConfigError, match=r"2 numbers without names; .* has 3 columns.*--drop"):
            ModelTable(reader, nameless)
        with pytest.raises(ConfigError, match="does not know which column"):
            ModelTable(reader, nameless, has_labels=True)
    with open_table(path, TableOptions(columns="u,v")) as reader:
        assert next(ModelTable(reader, nameless).rows(1)).x.tolist() == [[1, 2]]


@given(st.lists(st.integers(1, 20), max_size=9), st.integers(1, 12))
def test_regrouping_keeps_the_order(counts, size):
    """All groups but the last have the same number of rows."""
    stops = np.cumsum([0, *counts])
    x = np.arange(stops[-1])[:, np.newaxis]
    parts = (
        Rows(x[start:stop], ids=x[start:stop, 0].astype(object))
        for start, stop in itertools.pairwise(stops)
    )
    groups = list(regroup(parts, size))
    assert [len(group) for group in groups[:-1]] == [size] * (len(groups) - 1)
    assert [int(one) for group in groups for one in group.x[:, 0]] == x[:, 0].tolist()
    assert [one for group in groups for one in group.ids] == x[:, 0].tolist()
    assert all(group.y is None for group in groups)
