"""Positions, progress, and what follows from the records of the epochs."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distbp.errors import CheckpointError
from distbp.network.schedules import plateau_factor
from distbp.training.state import (
    History,
    Lines,
    Monitor,
    Position,
    Progress,
    read_progress,
)

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
def test_epochs_without_improvement(costs, epochs_without_improvement):
    """An equal score is no improvement, and one that is not finite is the worst."""
    found = history(costs)
    assert found.epochs_without_improvement == epochs_without_improvement
    assert found.is_best == (epochs_without_improvement == 0 and len(costs) > 0)


def test_a_score_that_is_nan():
    """It is worse than any number, so that it neither stops a run nor remains the best."""
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
    """It is that of all scores so far, whether called after each epoch or only at the end."""
    asked = History()
    for epoch, cost in enumerate(costs, 1):
        asked.append(record(cost))
        for decay in (0.5, 0.25):
            found = asked.plateau_factor(decay, patience)
            assert found == plateau_factor(costs[:epoch], decay, patience)


@given(scores, st.integers(0, 30))
def test_truncated(costs, epochs):
    """It equals a history that never had the later records."""
    back = history(costs).truncated(epochs)
    assert vars(back) == vars(history(costs[:epochs]))


def test_the_validation_counts_where_there_is_one():
    """Also if its cost is not finite."""
    one = record(1.0, validation_cost=3.0, validation_accuracy=0.5)
    other = record(1.0, validation_cost=None, validation_accuracy=0.5)
    assert History([one, other]).scores == [3.0, math.inf]


@given(scores)
def test_a_monitor_that_is_maximized(values):
    """The best is the first maximum; what is undefined is the worst."""
    records = [record(1.0, validation_f1=v if math.isfinite(v) else None) for v in values]
    monitor = Monitor("validation_f1", is_maximized=True)
    best = [i for i in range(len(values)) if History(records[: i + 1], monitor).is_best]
    finite = [v if math.isfinite(v) else -math.inf for v in values]
    assert best[-1:] == ([finite.index(max(finite))] if values else [])
    found = History(records, monitor)
    assert vars(found.truncated(2)) == vars(History(records[:2], monitor))
    assert found.plateau_factor(0.5, 1) == plateau_factor([-v for v in finite], 0.5, 1)


def test_a_monitor_is_kept():
    """From the start, and from a checkpoint; without it in the records they are not valid."""
    monitor = Monitor("validation_f1", is_maximized=True)
    progress = Progress.at_start(monitor)
    for value in (0.5, 0.75, 0.25):
        progress = progress.after_epoch(record(1.0, validation_f1=value))
    assert progress.history.scores == progress.restored().history.scores == [-0.5, -0.75, -0.25]
    lines = progress.history.lines
    stored = read_progress(progress.to_dict(), lines, "run", monitor).history
    assert stored.lines == lines  # made by both, before their attributes are compared
    assert vars(stored) == vars(progress.history)
    with pytest.raises(CheckpointError, match="history is not valid"):
        read_progress(STORED, LINES, "run", monitor)


STORED = Progress.at_start()._replace(position=Position(2, 0, 8)).to_dict()
LINES = history([1 / 3, 0.1]).lines


def test_stored_progress():
    """The keys and their order are those of all versions; the history survives bit for bit."""
    assert list(STORED) == ["epoch", "step", "cost", "correct", "skipped", "rate_factor", "steps"]
    found = read_progress(STORED, LINES, "run")
    assert found.position == (2, 0, 8)
    assert found.to_dict() == STORED
    assert found.history.lines == LINES
    assert found.history.records == [json.loads(line) for line in LINES]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (LINES[:1], "has 1 records for 2 epochs"),
        ([LINES[0], "[]"], "history is not valid"),
        ([LINES[0], "{}"], "history is not valid"),
        ([LINES[0], "{"], "history is not valid"),
        ([LINES[0], "[" * 100_000], "history is not valid"),
        ([LINES[0], json.dumps(record(1.0) | {"train_cost": "1"})], "history is not valid"),
    ],
)
def test_an_invalid_history(lines, message):
    """It is refused in one sentence: a valid checksum says nothing about the content."""
    with pytest.raises(CheckpointError, match=f"run: the checkpoint.*{message}"):
        read_progress(STORED, lines, "run")


def test_progress_over_an_epoch():
    """Steps add up, a skipped one counts its rows only, and an epoch's end starts anew."""
    start = Progress.at_start()._replace(rate_factor=0.5)
    stepped = start.after_step(1.5, 2.0).after_step(0.25, 1.0)
    assert stepped == start._replace(position=Position(0, 2, 2), cost=1.75, correct=3)
    skipped = stepped.after_skip(10)
    assert skipped == stepped._replace(position=Position(0, 3, 2), skipped=10)
    ended = skipped.after_epoch(record(1.0))
    assert ended == start._replace(position=Position(1, 0, 2))
    assert len(ended.history) == 1


def test_an_epochs_end_can_be_undone():
    """The history is shared and has grown; the restored progress has its own again."""
    before = Progress.at_start().after_epoch(record(2.0))
    after = before.after_epoch(record(1.0))
    restored = before.restored()
    assert restored.position == before.position
    assert [len(one.history) for one in (restored, after)] == [1, 2]
    assert restored.history.scores == [2.0]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=2))
def test_positions_are_ordered(batches):
    """By epoch and step; `ordinal` has the same order, an epoch's end before the next start."""
    positions = sorted(Position(epoch, step, 0) for epoch, step in batches)
    ordinals = [position.ordinal(4) for position in positions]
    assert ordinals == sorted(ordinals)
    assert len(set(ordinals)) == len(set(positions))
    assert [position.batch for position in positions] == sorted(batches)


@pytest.mark.parametrize("count", [0, 3])
def test_lines_do_not_grow(count):
    """They are those of the time when they were taken, as if they had been copied."""
    growing = ["a\n", "b\n", "c\n"][:count]
    lines, copy = Lines(growing), list(growing)
    growing += ["d\n", "e\n"]
    assert (list(lines), len(lines), "".join(lines)) == (copy, count, "".join(copy))
    assert lines[-2:] == copy[-2:]
    assert bool(lines) == bool(copy)
    assert [lines[i] for i in range(count)] == copy
