"""ROC AUC from distinct scores: exact, or within its error, and the same in any order."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from distbp.training.score_counts import ClassScores, ScoreCounts


def filled(scores, is_positive, most, cuts=(), order=None):
    counts = ScoreCounts(most)
    rows = np.arange(len(scores)) if order is None else order
    for part in np.split(rows, sorted(cut % len(rows) for cut in cuts)):
        counts.add(scores[part], is_positive[part])
    return counts


@st.composite
def scored(draw):
    """Scores of two kinds of rows, a number of scores to hold, and two orders of the rows."""
    floats = st.floats(-1, 1, width=32) | st.floats(0, 1) | st.sampled_from([0.0, -0.0, 0.5, 1.0])
    scores = np.array(draw(st.lists(floats, min_size=2, max_size=60)))
    is_positive = np.array(
        draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    )
    is_positive[:2] = [True, False]
    order = draw(st.permutations(range(len(scores))))
    cuts = draw(st.lists(st.integers(0, 99), max_size=5))
    return scores, is_positive, draw(st.integers(1, 40)), np.array(order), cuts


@given(scored())
@settings(max_examples=80, deadline=None)
def test_the_area(rows):
    """It is scikit-learn's to within the error, which is 0 if all distinct scores fit."""
    scores, is_positive, most, order, cuts = rows
    expected = roc_auc_score(is_positive, scores)
    area, error = filled(scores, is_positive, most).auc()
    assert abs(area - expected) <= error + 1e-12
    if len(set(scores)) <= most:
        assert error == 0
    again = filled(scores, is_positive, most, cuts, order)
    assert again.auc() == (area, error)


@given(scored())
@settings(max_examples=40, deadline=None)
def test_the_area_on_several_ranks(rows):
    """The same bits, whichever rank has which rows."""
    scores, is_positive, most, order, cuts = rows
    expected = filled(scores, is_positive, most)
    first = ScoreCounts(most)
    for part in np.split(order, sorted(cut % len(order) for cut in cuts)):
        first.add_packed(filled(scores[part], is_positive[part], most).packed(3))
    assert first.auc() == expected.auc()
    np.testing.assert_array_equal(first.packed(0), expected.packed(0))
    assert len(expected.packed(0)) <= most + 1


def test_very_many_rows_are_within_a_small_error():
    """Of 300,000 rows, 2 ** 14 distinct scores are held: memory and error are bounded."""
    random = np.random.default_rng(0)
    is_positive = random.random(300_000) < 0.3
    scores = (1 / (1 + np.exp(-random.normal(is_positive * 1.0)))).astype(np.float32)
    counts = filled(scores, is_positive, 1 << 14, cuts=range(0, 300_000, 20_000))
    area, error = counts.auc()
    exact, none = filled(scores, is_positive, 1 << 22).auc()
    assert none == 0
    assert abs(area - exact) <= error < 2e-4
    assert exact == pytest.approx(roc_auc_score(is_positive, scores), abs=1e-12)


def test_numbers_that_exceed_64_bits():
    """Pairs of rows are counted in Python's integers where there are very many."""
    rows = np.array([[0, 0, 0, 0], [0, 1, 0, 2**40], [0, 2, 2**40, 0], [0, 3, 2**40, 2**40]])
    counts = ScoreCounts(9)
    counts.add_packed(rows)
    assert counts.auc() == (0.625, 0.0)


def test_where_it_is_undefined():
    """Without positive or negative rows, or with a score that is not a number."""
    for scores, is_positive in (([0.5], [True]), ([0.5], [False]), ([0.5, np.nan], [True, False])):
        counts = filled(np.array(scores), np.array(is_positive), 9)
        assert np.isnan(counts.auc()[0])
        other = ScoreCounts(9)
        other.add_packed(counts.packed(0))
        other.add(np.array([0.1, 0.2]), np.array([False, np.isnan(scores).any()]))
        assert np.isnan(other.auc()[0]) == np.isnan(scores).any() or not any(is_positive)
    assert np.isnan(ScoreCounts(9).auc()[0])


@pytest.mark.parametrize("most", [1 << 20, 8])
def test_classes_together(most):
    """All scores of all classes, as for the micro average; and the largest error of them."""
    random = np.random.default_rng(1)
    y, output = random.integers(0, 3, 50), random.random((50, 3))
    scores = ClassScores("classification", 3, most)
    scores.add(output, y)
    scores.gather(SimpleNamespace(size=1))
    pooled, error = scores.pooled()
    assert abs(pooled - roc_auc_score(np.eye(3)[y].ravel(), output.ravel())) <= error + 1e-12
    areas, largest = scores.areas
    expected = [roc_auc_score(y == k, output[:, k]) for k in range(3)]
    assert (abs(areas - expected) <= largest + 1e-12).all()
    assert (largest > 0) == (error > 0) == (most == 8)
