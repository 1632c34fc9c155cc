"""Differences of arrays: absolute, relative and in ulp, by hand and by NumPy's `nextafter`."""

import math

import numpy as np
import pytest

from distbp.training import array_difference
from distbp.training.array_difference import ArrayDifference, compare_arrays


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_between_numbers_are_counted(dtype):
    """Also across 0, where the bits change from those of a negative number."""
    a = np.array([1.0, -1.0, 1e-30, 0.0, -0.0, 2.0], dtype)
    b = a.copy()
    for _ in range(5):
        b = np.nextafter(b, np.array(-np.inf, dtype))
    for i in range(a.size):
        found = compare_arrays(a[i : i + 1], b[i : i + 1])
        assert found.ulp == 5 + (i == 3)  # −0 lies between 0 and the first below it
    found = compare_arrays(a, b)
    assert (found.count, found.size) == (6, 6)
    assert found.absolute == pytest.approx(5 * np.spacing(a[5]) / 2)


def test_equal_bits_are_equal():
    """A NaN equals itself; 0 does not equal −0."""
    a = np.array([[np.nan, 0.0], [np.inf, 1.5]], np.float32)
    assert compare_arrays(a, a.copy()) is None
    assert compare_arrays(np.zeros(0), np.zeros(0)) is None
    assert compare_arrays(np.array([0.0]), np.array([-0.0])) == ArrayDifference(1, 1, 0.0, 0.0, 1)


def test_the_largest_of_each_is_returned(monkeypatch):
    """They may be in different blocks, and of different numbers."""
    monkeypatch.setattr(array_difference, "_BLOCK", 3)
    a = np.arange(10.0).reshape(2, 5)
    b = a.copy()
    b[0, 1], b[1, 4] = 1.5, 10.0
    found = compare_arrays(a, b)
    steps = (1 << 52) / 9 * 9 / 8  # from 9 to 10, of 2^-49
    assert found == ArrayDifference(2, 10, 1.0, 0.5 / 1.5, max(1 << 51, int(steps)))


def test_numbers_that_are_not_finite():
    with np.errstate(all="raise"):
        for one, other in ((np.nan, 1.0), (np.inf, -np.inf), (1.0, np.inf)):
            found = compare_arrays(np.array([one, 1.0]), np.array([other, 1.0]))
            assert found.count == 1
            assert found.absolute == math.inf
            assert (found.to_dict()["absolute"], found.to_dict()["count"]) == (None, 1)


def test_the_whole_range_of_float64():
    """The steps from the lowest to the largest number exceed 63 bits."""
    limit = np.finfo(np.float64).max
    found = compare_arrays(np.array([-limit]), np.array([limit]))
    assert found.ulp == 2 * 0x7FEFFFFFFFFFFFFF + 1
