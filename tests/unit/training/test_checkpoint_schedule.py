"""When a checkpoint is due: by epochs, steps or seconds, each by its own count alone."""

import pytest

from distbp.training import checkpoint_schedule
from distbp.training.checkpoint_schedule import SHORT_INTERVAL_S, CheckpointSchedule


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose last item is the time."""
    now = [100.0]
    monkeypatch.setattr(checkpoint_schedule.time, "monotonic", lambda: now[-1])
    return now


def test_by_epochs(clock):
    schedule = CheckpointSchedule(2, "epoch", has_clock=True)
    assert [schedule.is_due_after_epoch(n) for n in (1, 2, 3, 4)] == [False, True, False, True]
    clock.append(1e6)
    assert not schedule.is_due_by_time()
    assert not schedule.is_due_after_step(2)


def test_by_steps(clock):
    schedule = CheckpointSchedule(3, "step", has_clock=True)
    assert [n for n in range(1, 10) if schedule.is_due_after_step(n)] == [3, 6, 9]
    clock.append(1e6)
    assert not schedule.is_due_by_time()
    assert not schedule.is_due_after_epoch(3)


def test_by_time(clock):
    """Counted from the last save; only the rank with the clock requests it."""
    schedule = CheckpointSchedule(60, "s", has_clock=True)
    other = CheckpointSchedule(60, "s", has_clock=False)
    clock.append(159.9)
    assert not schedule.is_due_by_time()
    clock.append(160.0)
    assert schedule.is_due_by_time()
    assert not other.is_due_by_time()
    schedule.note_save()
    assert not schedule.is_due_by_time()
    clock.append(220.0)
    assert schedule.is_due_by_time()
    assert not schedule.is_due_after_epoch(60)
    assert not schedule.is_due_after_step(60)


def test_the_best_is_limited_in_time(clock):
    """The first one is written at once."""
    schedule = CheckpointSchedule(1, "epoch", has_clock=True)
    assert schedule.may_write_best()
    schedule.note_best()
    assert not schedule.may_write_best()
    clock.append(clock[-1] + SHORT_INTERVAL_S)
    assert schedule.may_write_best()


def test_short_epochs_are_limited_in_time(clock):
    """By default: the first one is written at once, and every save counts, whatever asked for it.

    Which are due is a matter of epochs alone, the same on all ranks.
    """
    schedule = CheckpointSchedule(1, "epoch", has_clock=True, is_limited=True)
    assert schedule.may_write()
    schedule.note_save()
    clock.append(clock[-1] + 0.9 * SHORT_INTERVAL_S)
    assert not schedule.may_write()
    assert schedule.is_due_after_epoch(7)
    clock.append(clock[-1] + 0.1 * SHORT_INTERVAL_S)
    assert schedule.may_write()
    assert not schedule.is_due_by_time()
    every = CheckpointSchedule(1, "epoch", has_clock=True)
    every.note_save()
    assert every.may_write()
