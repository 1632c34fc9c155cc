"""Preprocessing: columns of a table become inputs; what a file stores is checked."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from distbp.errors import DataError
from distbp.storage.preprocessing import Feature, Preprocessing

AGE = Feature("age", fill=40.0, has_indicator=True)
SEX = Feature("sex", ("female", "male"))
PORT = Feature("port", ("C", "Q", "S"), fill="S", has_indicator=True)
ALL = Preprocessing((AGE, SEX, PORT), ("survived",), "log")
STORED = ALL.to_json()


@dataclass
class Column:
    values: np.ndarray
    words: tuple[str, ...] | None = None


def numbers(*values):
    return Column(np.array(values, float))


def text(*words):
    """Return a column whose words stand in the order of their occurrence; None is missing."""
    found = tuple(dict.fromkeys(word for word in words if word is not None))
    return Column(np.array([-1 if w is None else found.index(w) for w in words], np.int32), found)


def locate(row, column):
    return f"new.csv, line {row + 2}, column {column!r}"


def test_inputs_have_names():
    assert ALL.input_names == [
        "age", "age missing", "sex=female", "sex=male", "port=C", "port=Q", "port=S",
        "port missing",
    ]  # fmt: skip
    assert ALL.n_in == 8
    assert ALL.kinds == {"age": "number", "sex": "text", "port": "text"}


def test_encoding():
    """One-hot in the order stored, whatever the order of the block's words; filled cells."""
    columns = {
        "port": text("S", None, "C"), "sex": text("male", "female", "male"),
        "age": numbers(1, np.nan, 3), "other": numbers(0, 0, 0),
    }  # fmt: skip
    expected = [
        [1, 0, 0, 1, 0, 0, 1, 0],
        [40, 1, 1, 0, 0, 0, 1, 1],
        [3, 0, 0, 1, 1, 0, 0, 0],
    ]
    np.testing.assert_array_equal(ALL.encode(columns, "error", locate), expected)
    out = np.full((3, 8), np.nan)
    assert ALL.encode(columns, "error", locate, out) is out
    np.testing.assert_array_equal(out, expected)


def test_an_unknown_category():
    """It is an error that says where and what to do, or has no input of 1."""
    one = Preprocessing((SEX,), ())
    columns = {"sex": text("male", "m")}
    with pytest.raises(DataError, match=r"line 3, column 'sex': 'm' is not one .* male") as e:
        one.encode(columns, "error", locate)
    assert "--unknown ignore" in str(e.value)
    np.testing.assert_array_equal(one.encode(columns, "ignore", locate), [[0, 1], [0, 0]])


@pytest.mark.parametrize("unknown", ["error", "ignore"])
@pytest.mark.parametrize(
    ("feature", "column", "message"),
    [
        (Feature("a"), numbers(1, np.nan), "line 3, column 'a': the value is missing"),
        (Feature("a", ("x",)), text("x", None), "line 3, column 'a': the value is missing"),
        (Feature("a"), numbers(np.inf), "line 2, column 'a': expected a finite number, found inf"),
        (Feature("a"), text("x"), "column 'a': the column holds text; expected numbers"),
        (Feature("a", ("x",)), numbers(1), "column 'a': the column holds numbers; expected text"),
    ],
)
def test_cells_that_are_refused(feature, column, message, unknown):
    with pytest.raises(DataError, match=message):
        Preprocessing((feature,), ()).encode({"a": column}, unknown, locate)


def test_targets_are_restored():
    y = np.array([[0.0], [2.0]])
    np.testing.assert_array_equal(ALL.restore_targets(y), np.exp(y))
    assert Preprocessing((AGE,), ()).restore_targets(y) is y


def test_json_keeps_everything():
    assert Preprocessing.from_json(STORED) == ALL
    assert json.loads(json.dumps(STORED)) == STORED


@pytest.mark.parametrize(
    "change",
    [
        None,
        [],
        {"features": []},
        {"features": "age"},
        {"labels": [1]},
        {"labels": ["a", "a"]},
        {"target_transform": "exp"},
        {"target_transform": []},
        {"more": 1},
        {"features": [STORED["features"][0]] * 2},
        *({"features": [STORED["features"][0] | wrong]} for wrong in (
            {"name": 1}, {"name": "\ud800"}, {"fill": "x"}, {"fill": float("nan")}, {"fill": True},
            {"fill": 10**400},
            {"has_indicator": 1}, {"categories": "ab"}, {"categories": []},
            {"categories": ["a", "a"], "fill": "a"}, {"categories": ["a"], "fill": "b"},
            {"categories": [["a"]], "fill": None}, {"categories": ["a"], "fill": []}, {"more": 1},
        )),
    ],
)  # fmt: skip
def test_invalid_json_is_refused(change):
    found = json.loads(json.dumps(STORED))
    found = found | change if isinstance(change, dict) else change
    with pytest.raises(ValueError, match="the preprocessing is invalid"):
        Preprocessing.from_json(found)
