"""Curves of many epochs: their range is kept, and a sentence says what they show."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.report.curves import (
    Curve,
    describe_curves,
    describe_marks,
    envelope,
    needs_log_scale,
    short,
)

VALUES = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.just(1e308))


def curve(*y, label="training", **options):
    return Curve(label, np.arange(1.0, len(y) + 1), np.array(y, np.float64), **options)


@given(st.lists(VALUES, min_size=1, max_size=60), st.integers(1, 20))
def test_an_envelope_contains_every_finite_value(values, most):
    """Whatever the number of points; their extremes are among its own."""
    y = np.array(values)
    found = envelope(np.arange(len(y)), y, most)
    assert len(found.x) == len(found.low) == len(found.high) == min(len(y), most)
    finite = y[np.isfinite(y)]
    if len(finite) and found.is_reduced:
        assert np.nanmin(found.low) == finite.min()
        assert np.nanmax(found.high) == finite.max()
        known = np.isfinite(found.middle)
        assert (found.low[known] <= found.middle[known]).all()
        assert (found.middle[known] <= found.high[known]).all()


def test_few_points_are_drawn_as_they_are():
    found = envelope(np.arange(3), np.array([1.0, np.nan, 2.0]), 3)
    assert not found.is_reduced
    assert found.middle.tolist()[::2] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 100.0], True), ([1.0, 2.0], False), ([-1.0, 100.0], False), ([0.0, 100.0], False),
     ([np.nan, 1.0, 1e5], True), ([], False)],
)  # fmt: skip
def test_a_logarithmic_scale(values, expected):
    assert needs_log_scale([np.array(values)]) is expected


def test_a_sentence_about_curves():
    """First, last and best value; undefined ones are passed over."""
    curves = [curve(np.nan, 3.0, 1.0, 2.0), curve(5.0, 5.0, label="test"), curve(np.nan)]
    text = describe_curves(curves, is_maximized=False)
    assert text == (
        "In 4 epochs: training from 3.000 to 2.000, lowest 1.000 in epoch 3; test 5.000."
    )
    assert "highest 3.000 in epoch 2" in describe_curves(curves, is_maximized=True)
    assert "est" not in describe_curves(curves[:1], is_maximized=None)


def test_a_sentence_about_marks_and_ranges():
    assert describe_marks([curve(1.0)]) == ""
    assert "dot" in describe_marks([curve(1.0, mark=0)])
    assert "mean of 2 epochs" in describe_marks([curve(*[1.0] * 1200)])


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, "0.000"), (1234.5, "1,234"), (1e7, "1e+07"), (np.nan, "–"), (-0.5, "−0.500")],
)
def test_short_numbers(value, expected):
    assert short(value) == expected
