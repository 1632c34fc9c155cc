"""Following a run by its files, which may be absent, incomplete, replaced or old."""

import json
import math
import os
import platform
import time

import pytest

from distbp.training.run_follower import DIED, SILENT, WAITING, RunFollower
from distbp.training.run_summary import FAILED, FINISHED, UNFINISHED
from distbp.training.status_file import RUNNING, STOPPED

OWN = "that of the test"  # its number differs between the processes that collect the tests
NO_PROCESS = 2**22 + 1  # above the largest that Linux has


def record(epoch, **more):
    one = {
        "epoch": epoch, "step": 10 * epoch, "train_cost": 1 / epoch, "train_accuracy": 0.5,
        "validation_cost": None, "validation_accuracy": None, "seconds": 2.0,
        "samples_per_s": 100.0, "digest": "0" * 64, "confusion": [[1, 2], [3, 4]],
    }  # fmt: skip
    return one | more


def lines(*records):
    return "".join(f"{json.dumps(one)}\n" for one in records)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.toml").write_text('epochs = 10\nmonitor = "train_cost"\nfuture = 1\n')
    return tmp_path


def write_status(folder, state, **more):
    status = {"state": state, "epochs": 10, "steps_per_epoch": 4, "first": [0, 0], "epoch": 0}
    (folder / "status.json").write_text(json.dumps(status | {"step": 0, "seconds": 0.0} | more))


def write_lock(folder, process, host=None):
    lock = {"host": host or platform.node(), "process": process, "job": "12"}
    (folder / "lock").write_text(json.dumps(lock))


def make_old(folder, seconds):
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds, time.time() - seconds))


def follow(folder):
    run = RunFollower(folder)
    run.poll()
    return run


def test_records(folder):
    """Numbers are kept by key; what is not a number, or there is none of, is NaN or left out."""
    (folder / "metrics.jsonl").write_text(lines(record(1), record(2, validation_cost=3)))
    run = follow(folder)
    assert (run.epochs, run.total_epochs, run.fraction) == (2, 10, 0.2)
    assert list(run.series["train_cost"]) == [1.0, 0.5]
    assert math.isnan(run.series["validation_cost"][0])
    assert run.last("validation_cost") == 3
    assert "digest" not in run.series
    assert "confusion" not in run.series
    assert run.best == 1
    assert run.seconds_left() == pytest.approx(16)


def test_a_metric_that_comes_and_goes(folder):
    """A resumed run may have other metrics: all series stay as long as the history."""
    records = [record(1), record(2, f1=0.5), record(3), record(4, f1=0.7)]
    (folder / "metrics.jsonl").write_text(lines(*records))
    series = follow(folder).series
    assert {len(values) for values in series.values()} == {4}
    assert [math.isnan(value) for value in series["f1"]] == [True, False, True, False]


def test_only_what_is_new_is_read(folder):
    """What was read may even be overwritten, but for the last line."""
    path = folder / "metrics.jsonl"
    path.write_text(lines(*map(record, range(1, 1001))))
    run = follow(folder)
    run.poll()
    assert not run.has_changed
    with path.open("r+") as file:
        file.write("?" * 1000)
        file.seek(0, os.SEEK_END)
        file.write(lines(record(1001))[:-9])
    run.poll()
    assert run.epochs == 1000
    with path.open("a") as file:
        file.write(lines(record(1001))[-9:])
    run.poll()
    assert run.has_changed
    assert run.epochs == 1001
    assert run.last("step") == 10010


def test_a_file_that_is_replaced(folder):
    """By the same records, as at the end of a run, or by others, as after a roll-back."""
    path = folder / "metrics.jsonl"
    path.write_text(lines(*map(record, range(1, 6))))
    run = follow(folder)
    for records in ([*map(record, range(1, 7))], [record(1), record(2, train_cost=9.0)]):
        path.with_suffix(".new").write_text(lines(*records))
        path.with_suffix(".new").replace(path)
        run.poll()
        assert list(run.series["train_cost"]) == [one["train_cost"] for one in records]
    assert run.best == 0


@pytest.mark.parametrize("text", ["", "{", "[]\n", "nonsense\n\n1\n", '{"epoch": 1'])
def test_files_that_make_no_sense(folder, text):
    for name in ("metrics.jsonl", "status.json", "lock", "config.toml"):
        (folder / name).write_text(text)
    run = follow(folder)
    assert run.epochs == 0
    assert run.state()[0] == RUNNING  # they are new
    assert math.isnan(run.seconds_left())
    assert run.fraction == 0


def test_values_that_are_not_finite(folder):
    (folder / "metrics.jsonl").write_text(
        lines(record(1, train_cost=None), record(2, train_cost=5), record(3, train_cost=math.nan))
        + '{"epoch": 4, "train_cost": 1' + "0" * 400 + "}\n"
    )  # fmt: skip
    run = follow(folder)
    assert run.epochs == 4
    assert math.isnan(run.last("train_cost"))
    assert run.best == 1


def test_a_monitor_that_is_maximized(folder):
    (folder / "config.toml").write_text('epochs = 10\nmonitor = "validation_roc-auc"\n')
    values = [None, 0.5, 0.7, 0.6]
    (folder / "metrics.jsonl").write_text(
        lines(*(record(i + 1, validation_roc_auc=v) for i, v in enumerate(values)))
    )
    assert follow(folder).best == 2


def test_somebody_elses_metric_runs_no_code(folder):
    (folder / "config.toml").write_text('epochs = 10\nmonitor = "validation_nothing:Here"\n')
    (folder / "metrics.jsonl").write_text(lines(record(1, **{"validation_nothing:Here": 1.0})))
    run = follow(folder)
    assert (run.best, run.monitor) == (None, None)


def test_where_a_run_is(folder):
    """Its speed and remaining time include evaluations and checkpoints, since this start."""
    (folder / "metrics.jsonl").write_text(lines(record(1), record(2)))
    write_status(folder, RUNNING, epoch=2, step=2, first=[1, 2], seconds=5.0, samples_per_s=7.0)
    run = follow(folder)
    assert run.step == (2, 4)
    assert run.fraction == 0.25
    assert run.samples_per_s == 7
    assert run.seconds_left() == pytest.approx(7.5 * 5)


@pytest.mark.parametrize(
    ("recorded", "process", "age", "state"),
    [
        (RUNNING, OWN, 0, RUNNING),
        (RUNNING, OWN, 40, RUNNING),
        (RUNNING, OWN, 100, SILENT),
        (RUNNING, OWN, 1000, DIED),
        (RUNNING, NO_PROCESS, 1, RUNNING),  # of another container
        (RUNNING, NO_PROCESS, 20, DIED),
        (STOPPED, NO_PROCESS, 20, STOPPED),
        (FAILED, NO_PROCESS, 20, FAILED),
        (FINISHED, NO_PROCESS, 20, FINISHED),
        (None, OWN, 1000, RUNNING),  # of a version that recorded no status
        (None, NO_PROCESS, 20, UNFINISHED),
    ],
)
def test_states(folder, recorded, process, age, state):
    process = os.getpid() if process is OWN else process
    write_lock(folder, process)
    if recorded:
        write_status(folder, recorded, message="why")
    (folder / "metrics.jsonl").write_text(lines(record(1)))
    make_old(folder, age)
    run = follow(folder)
    assert run.state()[0] == state
    assert run.process == f"{platform.node()}, process {process}, job 12"


@pytest.mark.parametrize(("age", "state"), [(50, RUNNING), (100, SILENT), (150, DIED)])
def test_a_process_on_another_host(folder, age, state):
    """Nothing is known but the age of its files, and the limit that it set itself."""
    (folder / "config.toml").write_text('epochs = 10\nstall-limit = "1min"\n')
    write_lock(folder, os.getpid(), "elsewhere")
    write_status(folder, RUNNING)
    make_old(folder, age)
    assert follow(folder).state()[0] == state


def test_runs_that_have_not_been_started(tmp_path, folder):
    assert follow(tmp_path / "none").state() == (WAITING, "")
    assert follow(folder).state() == (WAITING, "")


def test_how_an_old_run_ended(folder):
    write_lock(folder, NO_PROCESS)
    (folder / "metrics.jsonl").write_text(lines(*map(record, range(1, 11))))
    make_old(folder, 100)
    assert follow(folder).state() == (FINISHED, "")
    write_lock(folder, NO_PROCESS, "elsewhere")
    make_old(folder, 100)
    assert follow(folder).state() == (FINISHED, "")
    (folder / ".done").write_text("refused 2\nThe data set is gone.\n")
    assert follow(folder).state() == (FAILED, "The data set is gone.")
    assert follow(folder).is_over()


@pytest.mark.parametrize(
    ("state", "error", "age", "is_over"),
    [
        (RUNNING, "", 0, False),
        (STOPPED, "", 1000, False),
        (FINISHED, "", 0, True),
        (FAILED, "DivergedError", 0, True),
        (FAILED, "MPIException", 0, False),
        (FAILED, "MPIException", 100, True),
    ],
)
def test_whether_more_is_to_be_expected(folder, state, error, age, is_over):
    write_lock(folder, os.getpid())
    write_status(folder, state, error=error)
    make_old(folder, age)
    assert follow(folder).is_over() == is_over
