"""The learning rate's factors, by small examples."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.network.schedules import cosine_factor, plateau_factor, step_factor, warmup_factor

scores = st.lists(st.integers(-5, 5).map(float), max_size=30)


def test_step_factor():
    """The factor falls after every whole `every` epochs, not before."""
    assert [step_factor(epoch, 0.5, 3) for epoch in range(8)] == [
        1,
        1,
        1,
        0.5,
        0.5,
        0.5,
        0.25,
        0.25,
    ]


def test_cosine_factor():
    """Half a cosine: 1 at first, a half in the middle, 0 at the end, falling all the way."""
    assert cosine_factor(0, 10) == 1
    assert cosine_factor(5, 10) == pytest.approx(0.5)
    assert cosine_factor(2.5, 10) == pytest.approx(0.5 + math.sqrt(0.125))
    assert cosine_factor(10, 10) == 0
    values = [cosine_factor(i / 10, 10) for i in range(101)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("history", "factor"),
    [
        ([], 1),
        ([3, 2, 1], 1),
        ([1, 1], 1),  # one stale epoch
        ([1, 1, 1], 0.5),
        ([1, 2, 2, 2], 0.5),  # the count restarts
        ([1, 2, 2, 2, 2], 0.25),
        ([1, 2, 0.5, 2], 1),
        ([1, 2, 2, 0.5, 0.5, 0.5], 0.25),
    ],
)
def test_plateau_factor(history, factor):
    """Two epochs without a better score than the best so far halve the rate."""
    assert plateau_factor(history, 0.5, 2) == factor


@given(scores, st.integers(1, 5))
def test_plateau_never_rises(history, patience):
    """One more epoch leaves the factor or lowers it by one decay."""
    before, after = (plateau_factor(h, 0.5, patience) for h in (history, [*history, 0.0]))
    assert after in (before, before * 0.5)


def test_warmup_factor():
    """Four steps per epoch, two epochs of warm-up: from 1/8 to 1."""
    factors = [warmup_factor(step / 4, 1 / 4, 2) for step in range(10)]
    assert factors == [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1, 1]
    assert warmup_factor(0, 0.25, 0) == 1


def test_a_score_of_nan():
    """NaN is worse than any number, so it never is the best score."""
    nan = math.nan
    assert plateau_factor([nan, 3.0, 2.0], 0.5, 1) == plateau_factor([math.inf, 3.0, 2.0], 0.5, 1)
