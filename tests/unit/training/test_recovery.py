"""What is decided after a fault: every policy with every finding.

And where survivors restart if rank 0 has died.
"""

import itertools
from dataclasses import replace

import pytest
import samples

from distbp.parallel.topology import Topology
from distbp.training.config import Config
from distbp.training.loop import Run
from distbp.training.recovery import (
    Action,
    Attempts,
    Diagnosis,
    Fault,
    _restart_point,
    decide,
    is_repeated,
    rate_factor_after,
)
from distbp.training.setup import assemble
from distbp.training.state import Position, Progress

POLICIES = ("stop", "skip", "rollback")
HERE = Progress.at_start()._replace(position=Position(2, 3, 21))
ELSEWHERE = (2, 2)
RETRIED = Attempts(retried=HERE.position.batch)
ROLLED_BACK = Attempts(HERE.position.batch, HERE.position.batch)
NANS = (Fault.NOT_FINITE_SHARD, Fault.NOT_FINITE_SUM)


def diagnosed(fault, is_theta_finite=True):
    return Diagnosis(fault, "", is_theta_finite)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("attempts", [Attempts(), RETRIED, ROLLED_BACK])
def test_corrected_corruption_needs_nothing(policy, attempts):
    assert decide(policy, diagnosed(Fault.CORRECTED), HERE, attempts) is Action.CONTINUE


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("is_theta_finite", [True, False])
@pytest.mark.parametrize("retried", [None, ELSEWHERE])
def test_a_nan_of_the_sum_alone_is_computed_again_first(policy, is_theta_finite, retried):
    """Whatever the policy, once for each mini-batch: it may be a transient error."""
    diagnosis = diagnosed(Fault.NOT_FINITE_SUM, is_theta_finite)
    assert decide(policy, diagnosis, HERE, Attempts(retried=retried)) is Action.RETRY


@pytest.mark.parametrize(
    ("policy", "is_theta_finite", "action"),
    [
        ("stop", True, Action.STOP),
        ("stop", False, Action.STOP),
        ("skip", True, Action.SKIP),
        ("skip", False, Action.ROLL_BACK),  # the next steps would be NaN too
        ("rollback", True, Action.ROLL_BACK),
        ("rollback", False, Action.ROLL_BACK),
    ],
)
@pytest.mark.parametrize("fault", NANS)
def test_a_nan_that_persists_is_up_to_the_policy(policy, is_theta_finite, action, fault):
    assert decide(policy, diagnosed(fault, is_theta_finite), HERE, RETRIED) is action


@pytest.mark.parametrize("policy", POLICIES)
def test_replicas_that_differ_need_a_checkpoint(policy):
    """--on-nan is not about them."""
    assert decide(policy, diagnosed(Fault.NOT_CORRECTED), HERE, RETRIED) is Action.ROLL_BACK


@pytest.mark.parametrize(
    ("fault", "is_theta_finite"),
    [(Fault.NOT_CORRECTED, True), *((nan, False) for nan in NANS)],
)
def test_a_roll_back_that_changes_nothing_is_not_repeated(fault, is_theta_finite):
    """At the same mini-batch, that is, however many steps before it were skipped."""
    diagnosis = diagnosed(fault, is_theta_finite)
    assert decide("rollback", diagnosis, HERE, ROLLED_BACK) is Action.STOP
    assert is_repeated(diagnosis, HERE, ROLLED_BACK)
    skipped = HERE._replace(position=Position(2, 3, 20))
    assert decide("rollback", diagnosis, skipped, ROLLED_BACK) is Action.STOP
    elsewhere = replace(ROLLED_BACK, rolled_back=ELSEWHERE)
    assert decide("rollback", diagnosis, HERE, elsewhere) is Action.ROLL_BACK


@pytest.mark.parametrize("fault", NANS)
def test_a_roll_back_with_a_lower_rate_is_repeated_a_few_times(fault):
    """Halved ten times, the learning rate is not the cause."""
    diagnosis, progress, halvings = diagnosed(fault), HERE, 0
    while decide("rollback", diagnosis, progress, ROLLED_BACK) is Action.ROLL_BACK:
        halvings += 1
        progress = progress._replace(rate_factor=rate_factor_after(diagnosis, progress.rate_factor))
    assert halvings == 10
    assert decide("rollback", diagnosis, progress, ROLLED_BACK) is Action.STOP
    assert not is_repeated(diagnosis, progress, ROLLED_BACK)


@pytest.mark.parametrize("fault", Fault)
def test_the_rate_is_lowered_only_where_that_may_help(fault):
    """Not after corruption, nor where the parameters were not finite before the step."""
    assert rate_factor_after(diagnosed(fault), 0.5) == (0.25 if fault in NANS else 0.5)
    assert rate_factor_after(diagnosed(fault, False), 0.5) == 0.5


def test_every_case_is_decided():
    """All ranks act alike: the decision depends on nothing else, and is never missing."""
    attempts = [Attempts(), RETRIED, ROLLED_BACK]
    cases = itertools.product(POLICIES, Fault, (True, False), (1.0, 2.0**-10), attempts)
    for policy, fault, is_theta_finite, factor, tried in cases:
        progress = HERE._replace(rate_factor=factor)
        action = decide(policy, diagnosed(fault, is_theta_finite), progress, tried)
        assert action is decide(policy, diagnosed(fault, is_theta_finite), progress, tried)
        assert isinstance(action, Action)


@pytest.mark.parametrize(
    ("on_nan", "epochs", "restart"),
    [
        ("stop", 1, "memory"),  # best.h5 is that of the best epoch
        ("stop", 3, "file"),  # it was deferred
        ("rollback", 0, "memory"),
        ("rollback", 1, "file"),  # the checkpoint of the start is there, that of the epoch is not
    ],
)
def test_where_survivors_restart(tmp_path, monkeypatch, on_nan, epochs, restart):
    """Where they are; but at the newest checkpoint if rank 0 had not written what it had to."""
    monkeypatch.setattr("distbp.training.checkpoint_schedule.SHORT_INTERVAL_S", 1000.0)
    config = Config(
        data=str(samples.digits(tmp_path / "digits.h5")), out=str(tmp_path / "run"), hidden=(9,),
        epochs=9, learning_rate=0.02, on_nan=on_nan, quiet=True,
    )  # fmt: skip
    run = Run(assemble(config, Topology()))
    progress = []

    def has_ended(run):
        progress.append(run.progress)
        if len(run.progress.history) == epochs:
            run.parts.recorder._writer._background.wait()
            found = _restart_point(run.parts, run.progress, Topology())
            newest = run.parts.recorder._writer.saved if restart == "file" else (epochs, 0)
            assert (found.about["progress"]["epoch"], found.about["progress"]["step"]) == newest
            assert len(found.history) == newest[0]
            (tmp_path / "checked").touch()
        return len(run.progress.history) == epochs

    run.train(has_ended)
    assert (tmp_path / "checked").exists()


def test_survivors_without_a_checkpoint_restart_at_the_beginning(tmp_path):
    """There is no best.h5 of an epoch that has ended."""
    config = Config(data=str(samples.digits(tmp_path / "digits.h5")), out=str(tmp_path / "run"))
    parts = assemble(config, Topology())
    record = {"train_cost": 1.0, "validation_accuracy": None}
    assert _restart_point(parts, parts.start.after_epoch(record), Topology()) is None
    parts.recorder.close()
