"""What a run records of what happens to it, and how others read it."""

import json

import pytest
import samples

from distbp.storage.lock import RunLock
from distbp.storage.run_directory import RunDirectory
from distbp.training import event_log
from distbp.training.config import Config
from distbp.training.event_log import EventLog
from distbp.training.loop import train
from distbp.training.run_records import read_epochs, read_events


@pytest.fixture
def opened(tmp_path):
    """Return a function that opens the log of a run which holds its lock."""
    lock = RunLock(tmp_path)
    lock.acquire()

    def open_log(is_new=True):
        log = EventLog(RunDirectory(tmp_path, 1), lock)
        log.open(is_new)
        return log

    return open_log


def test_events_in_their_order(tmp_path, opened):
    opened().add("warning", text="odd\u2028line")
    opened(is_new=False).add("stop", reason="SIGTERM")
    events = read_events(tmp_path)
    assert [one["event"] for one in events] == ["warning", "stop"]
    assert events[0]["text"] == "odd\u2028line"
    assert events[0]["time"] <= events[1]["time"]
    opened(is_new=True)
    assert read_events(tmp_path) == []


@pytest.mark.parametrize("rest", [b'{"event": "wa', b"\xff\xfe", b"[" * 100_000, b"\0" * 9])
def test_a_line_that_is_incomplete(tmp_path, opened, rest):
    """Readers leave it out; the next start of the run removes it."""
    opened().add("warning", text="first")
    path = tmp_path / "events.jsonl"
    path.write_bytes(path.read_bytes() + rest)
    assert len(read_events(tmp_path)) == 1
    opened(is_new=False).add("warning", text="second")
    assert [one["text"] for one in read_events(tmp_path)] == ["first", "second"]


def test_what_is_no_event(tmp_path):
    assert read_events(tmp_path) == read_epochs(tmp_path) == []
    (tmp_path / "events.jsonl").write_text('1\n{"time": 3}\n{"event": "stop"}\n')
    assert read_events(tmp_path) == [{"event": "stop"}]


def test_the_number_of_events_is_bounded(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(event_log, "_MOST_LINES", 3)
    log = opened()
    for number in range(5):
        log.add("warning", text=str(number))
    assert len(read_events(tmp_path)) == 3


def test_a_run_that_was_replaced_writes_nothing(tmp_path, opened):
    """Another process has taken over the directory; whoever saves reports it."""
    log = opened()
    (tmp_path / "lock").write_text(json.dumps({"token": "another"}))
    log.add("warning", text="too late")
    assert read_events(tmp_path) == []


def test_the_events_of_a_run(tmp_path):
    """Its starts, and the time of its steps by ranks and parts."""
    data = samples.DATA_SETS["digits"](tmp_path / "d.h5")
    config = Config(data=str(data), out=str(tmp_path / "run"), epochs=1, quiet=True)
    train(config)
    first, times = read_events(tmp_path / "run")
    assert (first["event"], first["epoch"], first["ranks"]) == ("start", 0, 1)
    (rank,) = times["ranks"]
    assert times["event"] == "times"
    assert times["steps"] == read_epochs(tmp_path / "run")[-1]["step"]
    assert rank["compute"] > 0
    assert {"host", "node", "shards", "wait", "update"} < set(rank)
    assert times["is_end"]
    train(config.resumed({"epochs": 2}), resume=True)
    assert [one["event"] for one in read_events(tmp_path / "run")] == ["start", "times"] * 2


def test_the_times_of_a_run_that_goes_on(tmp_path):
    """They are recorded after 1, 2, 4 and 8 epochs as well, each of all steps so far."""
    data = samples.DATA_SETS["digits"](tmp_path / "d.h5")
    train(Config(data=str(data), out=str(tmp_path / "run"), epochs=10, quiet=True))
    found = [one for one in read_events(tmp_path / "run") if one["event"] == "times"]
    steps = [record["step"] for record in read_epochs(tmp_path / "run")]
    assert [one["steps"] for one in found] == [steps[i - 1] for i in (1, 2, 4, 8, 10)]
    assert [one["is_end"] for one in found] == [False] * 4 + [True]
