"""status.json, as a run writes it."""

import json
import time

import pytest
import samples

from distbp.errors import DivergedError, StoppedError
from distbp.storage.lock import RunLock
from distbp.storage.run_directory import RunDirectory
from distbp.training import status_file
from distbp.training.config import Config
from distbp.training.loop import train
from distbp.training.state import Position, Progress
from distbp.training.status_file import StatusFile


@pytest.fixture
def status(tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()
    yield StatusFile(RunDirectory(tmp_path, 1), lock, 20, 5)
    lock.release()


def written(folder):
    return json.loads((folder / "status.json").read_text())


def test_where_a_run_is(tmp_path, status):
    progress = Progress.at_start()._replace(position=Position(2, 3, 13))
    status.start(progress)
    assert written(tmp_path)["first"] == [2, 3]
    assert status.next_write > time.monotonic() + 1
    status.note_warning("Slow.")
    status.write_step(progress._replace(position=Position(4, 1, 21)), 12.5)
    found = written(tmp_path)
    expected = {
        "state": "running", "epochs": 20, "steps_per_epoch": 5, "first": [2, 3], "epoch": 4,
        "step": 1, "warnings": 1, "last_warning": "Slow.", "samples_per_s": 12.5,
    }  # fmt: skip
    assert found.items() >= expected.items()


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        (None, "finished"),
        (StoppedError("stopped by SIGTERM"), "stopped"),
        (DivergedError("not finite"), "failed"),
        (KeyError("x" * 1000), "failed"),
    ],
)
def test_how_a_run_ends(tmp_path, status, failure, state):
    status.end(failure)
    found = written(tmp_path)
    assert found["state"] == state
    assert len(found.get("message", "")) <= 500
    assert found.get("error") == (type(failure).__name__ if state == "failed" else None)


def test_write_errors_are_ignored(tmp_path, status):
    (tmp_path / "status.json").mkdir()
    status.start(Progress.at_start())
    status.end(None)


def test_nothing_is_written_by_a_run_that_is_fenced(tmp_path, status):
    (tmp_path / "lock").write_text('{"token": "of another"}')
    status.start(Progress.at_start())
    assert not (tmp_path / "status.json").exists()


def test_a_run_writes_it(tmp_path, monkeypatch):
    """Also within an exception handler of the caller, which is no failure of the run."""
    monkeypatch.setattr(status_file, "STATUS_INTERVAL_S", 0.0)
    data = samples.DATA_SETS["digits"](tmp_path / "digits.h5")
    config = Config(data=str(data), out=str(tmp_path / "run"), epochs=2, quiet=True)
    try:
        raise ValueError("of the caller")
    except ValueError:
        train(config)
    found = written(tmp_path / "run")
    assert (found["state"], found["epoch"], found["step"]) == ("finished", 2, 0)


def test_a_run_that_diverges(tmp_path):
    data = samples.DATA_SETS["digits"](tmp_path / "digits.h5")
    config = Config(data=str(data), out=str(tmp_path / "run"), epochs=2, learning_rate=1e30)
    with pytest.raises(DivergedError):
        train(config)
    found = written(tmp_path / "run")
    assert (found["state"], found["error"]) == ("failed", "DivergedError")
    assert "not a finite number" in found["message"]
