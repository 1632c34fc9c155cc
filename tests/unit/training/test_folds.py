"""Folds of a cross-validation: partitions of the training rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import distbp
from distbp.errors import ConfigError
from distbp.launch.sweep import SweepPlan, Trial
from distbp.training.config import Config
from distbp.training.folds import fold_of_rows, parse_fold


@given(n=st.integers(2, 300), folds=st.integers(2, 12), classes=st.integers(1, 5))
def test_folds_are_of_equal_size(n, folds, classes):
    """All of them to within one row, and so are the rows of each class in them."""
    labels = np.random.default_rng(n).integers(classes, size=n)
    for given_labels in (None, labels):
        numbers = fold_of_rows(n, folds, 1, given_labels)
        sizes = np.bincount(numbers, minlength=folds)
        assert sizes.max() - sizes.min() <= 1
    for one in range(classes):
        sizes = np.bincount(numbers[labels == one], minlength=folds)
        assert sizes.max() - sizes.min() <= 1


def test_folds_are_random_and_a_function_of_the_seed():
    numbers = fold_of_rows(1000, 5, 0)
    assert (numbers == fold_of_rows(1000, 5, 0)).all()
    assert (numbers != fold_of_rows(1000, 5, 1)).mean() > 0.7
    assert abs(np.flatnonzero(numbers == 0).mean() - 500) < 60  # not in the order of the file
    assert fold_of_rows(9, 3, 0).tolist() == [0, 0, 2, 1, 2, 1, 1, 0, 2]


def test_names_of_folds():
    assert parse_fold("2/5") == (2, 5)
    for text in ("0/5", "6/5", "1/1", "2", "a/b", "1/2/3", "1/02"):
        with pytest.raises(ConfigError, match="expected one of at least two folds, such as 2/5"):
            Config(fold=text)
    with pytest.raises(ConfigError, match=r"--fold 1/2 and --validation .* contradict"):
        Config(fold="1/2", validation=0.5)


def test_a_trial_has_a_run_for_each_fold():
    plan = SweepPlan(Config(data="d.h5", out="s"), ("l2=0,1",), "grid", folds=3)
    runs = plan.runs(Trial(2, {"l2": 1.0}))
    assert [(run.fold, run.out) for run in runs] == [
        (f"{k}/3", f"s/trial-0002/fold-{k}") for k in (1, 2, 3)
    ]
    assert {run.l2 for run in runs} == {1.0}


def test_a_run_holds_its_fold_out():
    """Of arrays as of a data set: what is left is trained on, and nothing twice."""
    x, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 3
    options = {"epochs": 1, "quiet": True, "batch_size": 5}
    costs = [
        distbp.fit(x, y, fold=f"{k}/3", **options).history[0]["validation_cost"] for k in (1, 2, 3)
    ]
    assert len(set(costs)) == 3
    with pytest.raises(ConfigError, match="leaves 30 to train on and 0 to validate with"):
        distbp.fit(x, y, fold="31/31", **options)
    with pytest.raises(ConfigError, match=r"--fold 1/2: .* has a validation split"):
        distbp.train(
            Config(fold="1/2", **options), x, y, validation=(x, y)
        )  # which would be held out, too
