"""Splits: by group, by time, by a column, and rows that are in two of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.data.splits import (
    RowHashes,
    check_split_options,
    choose_groups,
    choose_latest,
    choose_rows,
    divide,
    hash_rows,
)
from distbp.data.tables import ImportOptions
from distbp.errors import ConfigError
from distbp.network import rng


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**63 - 1),
)
def test_groups_stay_together(sizes, fraction, seed):
    """Never more rows than wanted; one group is left."""
    groups = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)) * 0.5, sizes))
    count = int(fraction * len(groups))
    chosen = choose_groups(groups, count, seed, 1)
    assert chosen.sum() <= count
    assert not set(groups[chosen]) & set(groups[~chosen])
    assert not chosen.all()
    np.testing.assert_array_equal(chosen, choose_groups(groups, count, seed, 1))


@given(times=st.lists(st.integers(0, 9), min_size=1, max_size=40), fraction=st.floats(0, 1))
def test_the_latest_rows_are_chosen(times, fraction):
    """Rows of one time stay together, and as many as possible are chosen."""
    times, count = np.array(times, float), int(fraction * len(times))
    chosen = choose_latest(times, count)
    assert chosen.sum() <= count
    assert not chosen.all()
    if chosen.any():
        assert times[chosen].min() > times[~chosen].max()
    last = times[~chosen].max()
    more = chosen | (times == last)
    assert more.sum() > count or more.all()


def options(**given):
    found = ImportOptions(**given)
    check_split_options(found)
    return found


def test_test_rows_do_not_depend_on_the_validation_fraction():
    y = np.arange(100) % 3
    alone = divide(y, True, options(test_fraction=0.2, seed=4), {})
    both = divide(y, True, options(test_fraction=0.2, validation_fraction=0.1, seed=4), {})
    np.testing.assert_array_equal(alone.masks["test"], both.masks["test"])
    np.testing.assert_array_equal(alone.masks["test"], choose_rows(y, True, 0.2, 4))
    assert alone.description == "20 % of the rows, stratified, seed 4"
    assert {name: int(mask.sum()) for name, mask in both.masks.items()} == {
        "train": 70, "test": 20, "validation": 10,
    }  # fmt: skip
    assert (sum(mask.astype(int) for mask in both.masks.values()) == 1).all()


def test_in_time_order_validation_lies_between_train_and_test():
    times = np.random.default_rng(0).permutation(50).astype(float)
    found = divide(
        np.zeros(50, int), True, options(time="t", test_fraction=0.2, validation_fraction=0.1),
        {"time": times},
    )  # fmt: skip
    assert sorted(times[found.masks["test"]]) == list(range(40, 50))
    assert sorted(times[found.masks["validation"]]) == list(range(35, 40))
    assert found.description.startswith("20 % of the rows, the latest by 't'")


def test_a_column_says_the_split():
    found = divide(np.zeros(4), False, options(split="s"), {"split": np.array([2, 0, 0, 2])})
    assert list(found.masks) == ["train", "test"]
    np.testing.assert_array_equal(found.masks["test"], [True, False, False, True])
    with pytest.raises(ConfigError, match="no row says train"):
        divide(np.zeros(2), False, options(split="s"), {"split": np.array([2, 1])})


def test_without_options_nothing_is_divided():
    assert divide(np.zeros(4), False, options(), {}) is None


@pytest.mark.parametrize(
    ("given", "keys", "message"),
    [
        ({"group": "g", "test_fraction": 0.3}, {"group": np.zeros(9)}, "every group has more"),
        ({"time": "t", "test_fraction": 0.3}, {"time": np.zeros(9)}, "of the latest time"),
        ({"test_fraction": 0.01}, {}, "train needs one of each class"),
    ],
)
def test_a_split_needs_a_row(given, keys, message):
    with pytest.raises(ConfigError, match=message):
        divide(np.zeros(9, int), True, options(**given), keys)


def test_labels_that_are_quantities_cannot_be_split_by_class():
    """The remedy is the other task, not another fraction; and a regression has no classes."""
    with pytest.raises(ConfigError, match=r"there are 40\. .*use --task regression"):
        divide(np.arange(40), True, options(test_fraction=0.2), {})
    with pytest.raises(ConfigError, match=r"of 40 rows is no row\. Use a larger fraction"):
        divide(np.zeros((40, 1)), False, options(test_fraction=0.01), {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"test_fraction": 1.5}, "`--test-fraction 1.5`: expected a number between 0 and 1"),
        ({"validation_fraction": 0.0}, "`--validation-fraction 0.0`: expected a number"),
        ({"test_fraction": 0.5, "validation_fraction": 0.5}, "leave no rows for training"),
        ({"group": "a", "time": "b", "test_fraction": 0.1}, "`--group` and `--time` contradict"),
        ({"split": "a", "test_fraction": 0.1}, "`--test-fraction` and `--split` contradict"),
        ({"group": "a"}, "`--group` needs `--test-fraction`"),
        ({"time": "a"}, "`--time` needs `--test-fraction`"),
        ({"seed": 1}, "`--seed` is for"),
        ({"seed": 1, "time": "t", "test_fraction": 0.1}, "`--seed` is for"),
        ({"seed": -1, "test_fraction": 0.1}, "expected 0"),
    ],
)
def test_options_that_contradict_one_another(given, message):
    with pytest.raises(ConfigError, match=message):
        options(**given)


@pytest.mark.parametrize("bits", [64, 3])
def test_rows_are_chosen_in_random_order(monkeypatch, bits):
    """Of each class the first ones by `permutation`; of 3 bits, many random numbers are equal."""
    draw = rng.sort_keys
    shift = np.uint64(64 - bits)
    monkeypatch.setattr(rng, "sort_keys", lambda *position: draw(*position) >> shift)
    y = np.random.default_rng(0).integers(0, 4, 300)
    chosen = choose_rows(y, True, 0.3, 5)
    order = rng.permutation(300, 5, rng.HOLDOUT, 1)
    for label in range(4):
        count = int(chosen[y == label].sum())
        first = order[y[order] == label][:count]
        np.testing.assert_array_equal(np.flatnonzero(chosen & (y == label)), np.sort(first))


# Rows in two splits


def test_rows_of_train_are_found_in_test():
    """In any block and any order; labels count, the sign of a zero does not."""
    x = np.random.default_rng(0).normal(size=(50, 3))
    x[7, 1] = 0.0
    y = np.arange(50) % 4
    hashes = RowHashes(40)
    assert hashes.add("train", x[:20], y[:20]) == 0
    assert hashes.add("train", x[20:40], y[20:40]) == 0
    test = np.vstack([x[40:], x[7:8] * [1, -1, 1], x[30:31], x[30:31]])
    labels = np.concatenate([y[40:], y[7:8], y[30:31], y[30:31] + 1])
    assert hashes.add("test", test, labels) == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int16])
def test_hashes_tell_rows_apart(dtype):
    """Small integers in any order; few bits differ between them."""
    x = np.array([[a, b, c] for a in range(30) for b in range(30) for c in range(30)], dtype)
    assert len(np.unique(hash_rows(x))) == len(x)
    # The low and the high halves of the bits, too, as far as their number allows.
    assert len(np.unique(hash_rows(x) >> np.uint64(20))) == len(x)
    assert len(np.unique(hash_rows(x) << np.uint64(20))) == len(x)
