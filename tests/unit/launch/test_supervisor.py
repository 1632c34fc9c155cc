"""When ranks are started again, and when not: on launches that a test makes up."""

import os
import signal
import time
from types import SimpleNamespace

import pytest

from distbp.cli.main import parse
from distbp.cli.parser import without
from distbp.cli.train_command import resuming
from distbp.errors import ConfigError, DataError, DistbpError, StoppedError
from distbp.launch import supervisor
from distbp.launch.mpiexec import Requests
from distbp.launch.supervisor import Supervisor
from distbp.parallel import environment


class Launches:
    """Stands for `Launch`: each ends as the next item of a list says.

    An item is (outcome, steps of the newest checkpoint afterwards).
    """

    def __init__(self, monkeypatch, *script):
        self.script, self.steps, self.words = list(script), None, []
        monkeypatch.setattr(supervisor, "Launch", self)
        monkeypatch.setattr(supervisor, "newest", lambda folder: self.steps)

    def __call__(self, ranks, arguments, fault_tolerant):
        self.words.append(arguments)
        outcome, self.steps = self.script.pop(0)
        return Ended(outcome)


class Ended:
    """A launch that has ended."""

    end_said_at, has_started = None, True

    def __init__(self, outcome):
        self.outcome, self.text, self.began = outcome, "", time.monotonic()
        self.status = {"done": 0, "stopped": 75, "refused": 2, "failed": 1}.get(outcome, 0)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def wait(self, seconds):
        return 9


def job(restarts: int) -> Supervisor:
    return Supervisor(2, restarts, "run", ["first"], ["again"])


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
        ([("", 5), ("", 4), ("", 5)], 2, 1),  # back to an older checkpoint is no progress
    ],
)
def test_how_often_it_is_started(monkeypatch, script, restarts, status):
    """Until a rank says how it ended, or too many in a row came no further."""
    launches = Launches(monkeypatch, *script)
    assert job(restarts).run() == status
    assert launches.script == []


def test_a_checkpoint_changes_the_arguments(monkeypatch):
    launches = Launches(monkeypatch, ("", None), ("", 3), ("done", 9))
    assert job(5).run() == 0
    assert launches.words == [["first"], ["first"], ["again"]]


def test_who_gives_up_says_what_has_happened(monkeypatch, capsys):
    """One line a start, with how far it came; and what to do next."""
    Launches(monkeypatch, ("", None), ("", 1200), ("", 1200))
    job(1).run()
    text = capsys.readouterr().err
    assert "Starting again from the beginning (restart 1 of 1)." in text
    assert "Starting again from step 1,200 (restart 1 of 1)." in text
    assert "\n  start 1: 0.0 s, no checkpoint; the launcher ended with status 9" in text
    assert "\n  start 3: 0.0 s, step 1,200; the launcher ended with status 9" in text
    assert text.splitlines()[-1].strip().startswith("distbp train --resume run goes on")


@pytest.mark.parametrize(
    ("number", "pressing"), [(signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGUSR1, False)]
)
def test_requests(number, pressing):
    """The second signal of a person presses; a second SIGUSR1 only repeats itself."""
    before = signal.getsignal(number)
    with Requests() as requests:
        assert not requests
        os.kill(os.getpid(), number)
        assert requests
        assert not requests.forced
        os.kill(os.getpid(), number)
        assert requests.forced == pressing
        assert requests.received == [number, number]
    assert signal.getsignal(number) == before


def test_what_is_ignored_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Requests() as requests:
            os.kill(os.getpid(), signal.SIGINT)
            assert not requests
    finally:
        signal.signal(signal.SIGINT, before)


def launch(**given):
    values = {
        "end_said_at": None,
        "has_started": False,
        "began": 100.0,
        "ask_to_stop": lambda: True,
    }
    return SimpleNamespace(**values | given)


def asked(*numbers):
    requests = Requests()
    requests.received, requests.since = list(numbers), 200.0
    return requests


@pytest.mark.parametrize(
    ("launch", "requests", "until", "why"),
    [
        (launch(), asked(), 220.0, "did not find each other within 120 s"),
        (launch(has_started=True), asked(), float("inf"), ""),
        (launch(end_said_at=300.0, has_started=True), asked(15), 310.0, "launcher did not end"),
        (launch(has_started=True), asked(15), 260.0, "did not stop within 60 s"),
        (launch(ask_to_stop=lambda: False), asked(15), 0.0, "had not begun"),
        (launch(has_started=True), asked(10, 15), 0.0, "at once"),
    ],
)
def test_how_long_a_launch_is_waited_for(monkeypatch, launch, requests, until, why):
    monkeypatch.delenv("DISTBP_START_LIMIT", raising=False)
    seconds, text = job(0)._patience(launch, requests)
    assert seconds == until
    assert why in text


def test_the_start_limit_has_to_be_a_number(monkeypatch):
    monkeypatch.setenv("DISTBP_START_LIMIT", "soon")
    with pytest.raises(ConfigError, match="DISTBP_START_LIMIT=soon"):
        job(0)


@pytest.mark.parametrize(
    ("error", "first"),
    [
        (StoppedError("x"), "stopped 75"),
        (ConfigError("x"), "refused 2"),
        (DataError("x"), "refused 1"),
        (DistbpError("x"), "failed 1"),
    ],
)
def test_what_ranks_say_of_an_error(tmp_path, monkeypatch, error, first):
    monkeypatch.setenv(environment.DONE_VARIABLE, str(tmp_path / "done"))
    environment.write_error_file(error)
    assert (tmp_path / "done").read_text() == f"{first}\nx\n"


def test_what_ranks_say_of_a_good_end(tmp_path, monkeypatch):
    monkeypatch.setenv(environment.DONE_VARIABLE, str(tmp_path / "done"))
    environment.write_completion_file()
    assert (tmp_path / "done").read_text() == "done 0\n"


def test_without_a_starter_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (environment.DONE_VARIABLE, environment.STARTED_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    environment.write_started_file()
    environment.write_completion_file()
    assert list(tmp_path.iterdir()) == []


def test_the_arguments_of_ranks():
    """What starts them is left out, in both spellings; values that look like it stay."""
    argv = ["train", "d.h5", "--ranks", "3", "--out", "run", "--restarts=2", "--seed", "1"]
    assert without(argv, "--ranks", "--restarts") == [
        "train",
        "d.h5",
        "--out",
        "run",
        "--seed",
        "1",
    ]


def test_the_arguments_that_go_on_with_a_run():
    """What may change is passed on as it was given, and is understood again."""
    words = resuming("run", {"out": "run", "seed": 1, "quiet": True, "keep": 2, "epochs": 9})
    assert words == ["train", "--resume", "run", "--epochs", "9", "--keep", "2", "--quiet"]
    arguments = parse(words)
    assert (arguments.resume, arguments.epochs, arguments.keep) == ("run", 9, 2)
    assert arguments.quiet
    assert resuming("run", {"quiet": False})[3:] == ["--no-quiet"]
