"""When a training is restarted and when not, with simulated launches."""

import os
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest

from distbp.cli.main import parse_command_line
from distbp.cli.parser import drop_options
from distbp.cli.train_command import resume_arguments
from distbp.errors import ConfigError
from distbp.launch import supervisor
from distbp.launch.mpiexec import StopSignals
from distbp.launch.supervisor import Supervisor


class FakeLaunches:
    """Replaces `MpiLaunch`: each launch ends as the next item of a list says.

    An item is (outcome, step of the newest checkpoint afterwards).
    """

    def __init__(self, monkeypatch, *script):
        self.script, self.step, self.arguments = list(script), None, []
        monkeypatch.setattr(supervisor, "MpiLaunch", self)
        monkeypatch.setattr(supervisor, "_newest_step", lambda folder: self.step)

    def __call__(self, ranks, arguments, fault_tolerant):
        self.arguments.append(arguments)
        outcome, self.step = self.script.pop(0)
        return FakeLaunch(outcome)


class FakeLaunch:
    """A launch whose launcher has exited with status 9."""

    outcome_at, has_started = None, True

    def __init__(self, outcome):
        self.outcome, self.message, self.started_at = outcome, "", time.monotonic()
        self.status = {"done": 0, "stopped": 75, "refused": 2, "failed": 1}.get(outcome, 0)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def wait(self, seconds):
        return 9


def make_supervisor(max_restarts: int) -> Supervisor:
    return Supervisor(2, max_restarts, "run", ["start"], ["resume"])


@pytest.mark.parametrize(
    ("script", "restarts", "status"),
    [
        ([("done", 9)], 0, 0),
        ([("", 1)], 0, 1),
        ([("refused", None)], 3, 2),
        ([("stopped", 4)], 3, 75),
        ([("failed", 4)], 0, 1),
        ([("failed", 4), ("done", 9)], 1, 0),
        ([("", None), ("", None), ("", None)], 2, 1),
        ([("", 1), ("", 2), ("", 3), ("done", 9)], 1, 0),
        # Falling back to an older checkpoint and catching up is no progress.
        ([("", 5), ("", 4), ("", 5)], 2, 1),
    ],
)
def test_the_number_of_restarts(monkeypatch, script, restarts, status):
    """Until the ranks report an outcome, or too many restarts in a row make no progress."""
    launches = FakeLaunches(monkeypatch, *script)
    assert make_supervisor(restarts).run() == status
    assert launches.script == []


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ([("failed", 4)], 1),
        ([("", 4), ("failed", 4)], 1),
        ([("", 4), ("", 4), ("done", 9)], 0),
        ([("refused", None)], 2),
    ],
)
def test_by_default_exceptions_are_not_restarted(monkeypatch, capsys, script, status):
    """Only ranks that die or hang: an exception would most often be raised again."""
    launches = FakeLaunches(monkeypatch, *script)
    supervisor = Supervisor(2, 3, "run", ["start"], ["resume"], retries_exceptions=False)
    assert supervisor.run() == status
    assert launches.script == []
    text = capsys.readouterr().err
    assert "giving up" not in text
    assert ("continues from step 4" in text) == (status == 1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], (3, False)), (["--restarts", "0"], (0, True)), (["--restarts", "3"], (3, True))],
)
def test_restarts_are_the_default(monkeypatch, tmp_path, words, expected):
    """With --ranks; whoever asks for them gets them for exceptions, too."""
    made = []
    monkeypatch.setattr(supervisor, "Supervisor", lambda *words: made.append(words) or FakeRun())
    command = ["train", "d.h5", "--out", str(tmp_path / "run"), "--ranks", "2", *words]
    arguments = parse_command_line(command)
    assert arguments.verb.run(arguments) == 7
    assert (made[0][1], made[0][5]) == expected
    assert made[0][3] == ["train", "d.h5", "--out", str(tmp_path / "run")]


class FakeRun:
    def run(self):
        return 7


def test_a_restart_resumes_if_there_is_a_checkpoint(monkeypatch):
    launches = FakeLaunches(monkeypatch, ("", None), ("", 3), ("done", 9))
    assert make_supervisor(5).run() == 0
    assert launches.arguments == [["start"], ["start"], ["resume"]]


def test_giving_up_lists_all_launches(monkeypatch, capsys):
    """One line a launch, with the step it reached, and how to continue."""
    FakeLaunches(monkeypatch, ("", None), ("", 1200), ("", 1200))
    make_supervisor(1).run()
    text = capsys.readouterr().err
    assert "Restarting from the beginning (restart 1 of 1)." in text
    assert "Restarting from step 1,200 (restart 1 of 1)." in text
    assert "giving up after 1 restart without progress." in text
    assert "\n  launch 1: 0.0 s, no checkpoint; the launcher exited with status 9" in text
    assert "\n  launch 3: 0.0 s, step 1,200; the launcher exited with status 9" in text
    assert (
        text.splitlines()[-1]
        .strip()
        .startswith("distbp train --resume run continues from step 1,200.")
    )


@pytest.mark.parametrize(
    ("number", "is_forced"),
    [(signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGUSR1, False)],
)
def test_a_second_signal_forces_the_stop(number, is_forced):
    """But SIGUSR1, which batch systems repeat, never does."""
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert not signals
        os.kill(os.getpid(), number)
        assert signals
        assert not signals.forced
        os.kill(os.getpid(), number)
        assert signals.forced == is_forced
        assert signals.received == [number, number]
    assert signal.getsignal(number) == before


def test_an_ignored_signal_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert not signals
    finally:
        signal.signal(signal.SIGINT, before)


def running_launch(**changes):
    values = {
        "outcome_at": None,
        "has_started": False,
        "started_at": 100.0,
        "request_stop": lambda: True,
        "arrivals": dict,
    }
    return SimpleNamespace(**values | changes)


def received(*numbers):
    """Return the signals, the first of which was received at 200 s."""
    signals = StopSignals()
    signals.received, signals.first_at = list(numbers), 200.0
    return signals


@pytest.mark.parametrize(
    ("launch", "signals", "deadline", "reason"),
    [
        (running_launch(), received(), 220.0, "did not connect within 120 s"),
        (running_launch(has_started=True), received(), float("inf"), ""),
        (
            running_launch(outcome_at=300.0, has_started=True),
            received(15),
            310.0,
            "launcher did not exit within 10 s",
        ),
        (running_launch(has_started=True), received(15), 260.0, "did not stop within 60 s"),
        (running_launch(request_stop=lambda: False), received(15), 0.0, "had not started to train"),
        (running_launch(has_started=True), received(10, 15), 0.0, "killed by a second signal"),
    ],
)
def test_the_time_limit_of_a_launch(monkeypatch, launch, signals, deadline, reason):
    monkeypatch.delenv("DISTBP_START_LIMIT", raising=False)
    assert make_supervisor(0)._deadline(launch, signals)[0] == deadline
    assert reason in make_supervisor(0)._deadline(launch, signals)[1]


@pytest.mark.parametrize(
    ("arrived_after", "earlier", "limit"),
    [
        (None, None, 120),  # a slow disk: no rank has been loaded yet
        (0.5, None, 20),
        (4.0, None, 40),
        (60.0, None, 120),
        (0.5, 2.0, 20),  # what an earlier launch took
        (0.5, 0.3, 10),
        (None, 2.5, 25),
    ],
)
def test_the_time_limit_of_the_start_follows_from_what_it_took(
    monkeypatch, arrived_after, earlier, limit
):
    monkeypatch.delenv("DISTBP_START_LIMIT", raising=False)
    supervisor, now = make_supervisor(3), 100.0
    monkeypatch.setattr("distbp.launch.supervisor.time.monotonic", lambda: now)
    if earlier is not None:
        now = 100.0 + earlier
        supervisor._deadline(running_launch(has_started=True), received())
    if arrived_after is not None:
        now = 100.0 + arrived_after
    arrivals = {} if arrived_after is None else {0: os.getpid()}
    launch = running_launch(arrivals=lambda: arrivals)
    supervisor._deadline(launch, received())
    now = 110.0
    assert supervisor._deadline(launch, received())[0] == pytest.approx(100.0 + limit)


def test_the_ranks_that_are_late_are_named(monkeypatch):
    """Those that have not begun to connect; if all have, those that are stopped."""
    supervisor, sleeper = make_supervisor(3), subprocess.Popen(["sleep", "100"])
    try:
        own = os.getpid()
        assert supervisor._late_ranks({}) == []
        assert supervisor._late_ranks({0: own}) == list(range(1, supervisor.ranks))
        everyone = dict.fromkeys(range(supervisor.ranks), own) | {1: sleeper.pid}
        assert supervisor._late_ranks(everyone) == []
        sleeper.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED | os.WNOWAIT)
        assert supervisor._late_ranks(everyone) == [1]
    finally:
        sleeper.kill()
        sleeper.wait()


def test_the_time_limit_of_the_start_must_be_a_number(monkeypatch):
    monkeypatch.setenv("DISTBP_START_LIMIT", "soon")
    with pytest.raises(ConfigError, match="DISTBP_START_LIMIT=soon"):
        make_supervisor(0)


def test_the_arguments_passed_on_to_ranks():
    """Without --ranks and --restarts, as two words or as one with an equals sign."""
    argv = ["train", "d.h5", "--ranks", "3", "--out", "run", "--restarts=2", "--seed", "1"]
    kept = ["train", "d.h5", "--out", "run", "--seed", "1"]
    assert drop_options(argv, "--ranks", "--restarts") == kept


def test_the_arguments_of_a_restart():
    """Options that may change on resume are passed on, and parse to the same values."""
    words = resume_arguments(
        "run", {"out": "run", "seed": 1, "quiet": True, "keep": 2, "epochs": 9}
    )
    assert words == ["train", "--resume", "run", "--epochs", "9", "--keep", "2", "--quiet"]
    arguments = parse_command_line(words)
    assert (arguments.resume, arguments.epochs, arguments.keep) == ("run", 9, 2)
    assert arguments.quiet
    assert resume_arguments("run", {"quiet": False})[3:] == ["--no-quiet"]
