"""What follows from the records of the epochs, as they come and all at once."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.errors import CheckpointError
from distbp.network.schedules import plateau_factor
from distbp.training.setup import where
from distbp.training.state import History, Progress

scores = st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0, math.inf]), max_size=30)


def record(cost, **others):
    """Return what a history looks at; a cost that is not finite is stored as None."""
    cost = cost if math.isfinite(cost) else None
    return {"train_cost": cost, "validation_cost": None, "validation_accuracy": None} | others


def history(costs):
    return History(map(record, costs))


@pytest.mark.parametrize(
    ("costs", "epochs_without_improvement"),
    [
        *(([], 0), ([5], 0), ([5, 4], 0), ([5, 5], 1), ([5, 6, 7], 2), ([5, 6, 4, 4, 9], 2)),
        *(([math.inf], 0), ([math.inf, math.inf], 1), ([math.inf, 3, math.inf, 4], 2)),
    ],
)
def test_waited(costs, epochs_without_improvement):
    """An equal score is not a better one, and what is not a number is the worst."""
    found = history(costs)
    assert found.epochs_without_improvement == epochs_without_improvement
    assert found.is_best == (epochs_without_improvement == 0 and len(costs) > 0)


def test_a_score_that_is_no_number():
    """It is worse than any number, so that it neither stops a run nor stays its best."""
    records = [record(0.0) | {"train_cost": cost} for cost in (math.nan, 3.0, math.nan, 4.0)]
    assert [History(records[:n]).epochs_without_improvement for n in (2, 3, 4)] == [0, 1, 2]
    assert History(records[:2]).is_best
    assert not History(records[1:3]).is_best


@given(scores)
def test_best_is_the_first_minimum(costs):
    """Following `is_best` from epoch to epoch ends at the earliest best score."""
    best = [i for i in range(len(costs)) if history(costs[: i + 1]).is_best]
    assert best[-1:] == ([costs.index(min(costs))] if costs else [])


@given(scores, st.integers(1, 5))
def test_plateau_factor(costs, patience):
    """It is that of all scores so far, asked for after each epoch or only at the end."""
    asked = History()
    for epoch, cost in enumerate(costs, 1):
        asked.append(record(cost))
        for decay in (0.5, 0.25):
            found = asked.plateau_factor(decay, patience)
            assert found == plateau_factor(costs[:epoch], decay, patience)


@given(scores, st.integers(0, 30))
def test_going_back(costs, epochs):
    """It is as if what came after had not been."""
    back = history(costs).first(epochs)
    assert vars(back) == vars(history(costs[:epochs]))


def test_the_validation_counts_where_there_is_one():
    """Also if its cost is none."""
    one = record(1.0, validation_cost=3.0, validation_accuracy=0.5)
    other = record(1.0, validation_cost=None, validation_accuracy=0.5)
    assert History([one, other]).scores == [3.0, math.inf]


POSITION = Progress(epoch=2).position() | {"steps": 8}
LINES = history([1 / 3, 0.1]).lines


def test_where_a_checkpoint_was():
    """The history is the one that was written, to the last bit."""
    found, steps = where(POSITION, LINES, "run")
    assert steps == 8
    assert found.history.lines == LINES
    assert found.history.records == [json.loads(line) for line in LINES]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (LINES[:1], "not one record an epoch"),
        ([LINES[0], "[]"], "history is not one"),
        ([LINES[0], "{}"], "history is not one"),
        ([LINES[0], "{"], "history is not one"),
        ([LINES[0], "[" * 100_000], "history is not one"),
        ([LINES[0], json.dumps(record(1.0) | {"train_cost": "1"})], "history is not one"),
    ],
)
def test_a_history_that_is_none(lines, message):
    """It is refused in one sentence: a valid checksum proves nothing about the author."""
    with pytest.raises(CheckpointError, match=f"run: the checkpoint.*{message}"):
        where(POSITION, lines, "run")
