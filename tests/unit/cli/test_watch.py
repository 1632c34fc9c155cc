"""The text of `distbp watch`, and which runs it finds."""

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from distbp.cli import watch_command
from distbp.cli.watch_command import WATCH, WatchOptions, _find_runs, _is_ascii
from distbp.cli.watch_view import Look, duration, run_page, runs_table
from distbp.errors import ConfigError
from distbp.training import run_follower
from distbp.training.run_follower import RunFollower

NO_PROCESS = 2**22 + 1
NOW = 1_700_000_000.0  # in seconds since 1970: what the ages of files are counted from


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Stop the clock."""
    monkeypatch.setattr(run_follower, "time", SimpleNamespace(time=lambda: NOW))


def make_run(folder, epochs=3, state="running", **more):
    """Write the files of a run, and return its follower."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('epochs = 10\nmonitor = "validation_cost"\n')
    records = [
        {
            "epoch": i, "step": 5 * i, "train_cost": 1 / i, "train_accuracy": 1 - 0.5 / i,
            "validation_cost": 1.5 / i, "validation_accuracy": 1 - 0.6 / i, "learning_rate": 0.1,
            "seconds": 60.0, "samples_per_s": 12345.6,
        }
        for i in range(1, epochs + 1)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records))
    status = {"state": state, "epochs": 10, "steps_per_epoch": 5, "epoch": epochs, "step": 2}
    (folder / "status.json").write_text(json.dumps(status | more))
    (folder / "lock").write_text(json.dumps({"host": "node7", "process": NO_PROCESS, "job": ""}))
    (folder / "last.h5").touch()
    set_time(folder, NOW)
    run = RunFollower(folder)
    run.poll()
    return run


def set_time(folder, seconds):
    """Let all files of a run be written at that time."""
    for path in folder.iterdir():
        os.utime(path, (seconds, seconds))


def page(run, width=80, height=None, **look):
    return [line.plain.rstrip() for line in run_page(run, Look(width, height, **look))]


def test_a_run(tmp_path):
    run = make_run(tmp_path / "run", warnings=2, last_warning="The CPU is shared.")
    text = "\n".join(page(run, width=100))
    assert f"{run.folder}  running on node7, process {NO_PROCESS}" in text
    assert "3/10 epochs + 2/5 steps ━━━━━━──────────────  34%" in text
    assert "speed     12,346 samples/s, 6 min 36 s left, learning rate 0.1" in text
    assert "cost      train 0.3333, validation 0.5000" in text
    assert "accuracy  train 0.8333, validation 0.8000" in text
    assert "best      validation_cost 0.5000 in epoch 3" in text
    assert "saved     last.h5 0 s ago" in text
    assert "warnings  2; the last: The CPU is shared." in text


@pytest.mark.parametrize("is_ascii", [True, False])
@pytest.mark.parametrize("has_colors", [True, False])
@pytest.mark.parametrize("width", [20, 40, 80, 120, 300])
@pytest.mark.parametrize("height", [1, 5, 15, 24, 60, None])
def test_a_page_fits_any_terminal(tmp_path, width, height, is_ascii, has_colors):
    """In width; the curves take what is left of the height."""
    run = make_run(tmp_path / "run-é", message="é" * 100, state="failed")
    lines = run_page(run, Look(width, height, is_ascii, has_colors))
    assert max(line.cell_len for line in lines) <= width
    assert "".join(line.plain for line in lines).isascii() == is_ascii
    if height and height >= 24 and width >= 80:
        assert len(lines) <= height - 1
        assert any("│" in line.plain or "|" in line.plain for line in lines)


def test_a_run_without_an_epoch(tmp_path):
    lines = page(make_run(tmp_path / "run", epochs=0))
    assert "0/10 epochs + 2/5 steps" in lines[1]
    assert not any("cost" in line for line in lines)


def test_a_run_that_does_not_exist(tmp_path):
    run = RunFollower(tmp_path / "none")
    run.poll()
    assert page(run, 200)[0].endswith("none  waiting")


def test_a_run_that_died(tmp_path):
    run = make_run(tmp_path / "run")
    set_time(run.folder, NOW - 5000)
    text = " ".join(page(run, 200))
    assert "died on node7" in text
    assert f"no sign of life for 5000 s; distbp train --resume {run.folder} continues it" in text


def test_a_cost_that_is_not_finite(tmp_path):
    run = make_run(tmp_path / "run")
    run.series["train_cost"][-1] = math.nan
    text = "\n".join(page(run))
    assert "train not finite" in text
    assert "the training cost is not a finite number" in text


def test_control_characters_are_not_shown(tmp_path):
    """Texts of a file could otherwise write anywhere on the terminal."""
    run = make_run(tmp_path / "run", state="failed", message="\x1b[2J gone", warnings=1,
                   last_warning="\x1b]0;title\x07")  # fmt: skip
    assert not any("\x1b" in line for line in page(run))


def table(runs, width=120, height=None, **look):
    names = [run.folder.name for run in runs]
    return [line.plain for line in runs_table(runs, names, Look(width, height, **look))]


def test_several_runs(tmp_path):
    runs = [
        make_run(tmp_path / "run-1"),
        make_run(tmp_path / "run-2", 10, "finished"),
        make_run(tmp_path / "run-3", 0, "failed", message="No space is left."),
    ]
    lines = table(runs)
    assert lines[0] == "3 runs: 1 running, 1 failed, 1 finished"
    assert lines[1].split() == [
        "run",
        "state",
        "epochs",
        "done",
        "cost",
        "best",
        "samples/s",
        "left",
    ]
    expected = ["run-1", "running", "3/10", "34%", "0.5000", "0.5000", "12,346", "6", "min"]
    assert lines[2].split()[: len(expected)] == expected
    assert lines[3].split()[:4] == ["run-2", "finished", "10/10", "100%"]
    assert lines[4].endswith("No space is left.")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_a_table_fits_any_width(tmp_path, width):
    """Columns are left out, those last that say what state a run is in."""
    runs = [make_run(tmp_path / f"a-long-name-of-a-run-{i}") for i in range(3)]
    lines = table(runs, width, is_ascii=True)
    assert max(map(len, lines)) <= width
    assert "running" in lines[2]
    assert lines[2].isascii()


def test_more_runs_than_lines(tmp_path):
    """Those are shown that are worth a look."""
    runs = [make_run(tmp_path / f"run-{i:02}", 10, "finished") for i in range(20)]
    runs.append(make_run(tmp_path / "run-99"))
    lines = table(runs, height=10)
    assert len(lines) <= 10
    assert any(line.startswith("run-99") for line in lines)
    assert lines[-1] == "and 15 more"


def test_durations():
    seconds = [0, 59.6, 61, 3600, 3725, 90000]
    texts = ["0 s", "1 min 0 s", "1 min 1 s", "1 h 0 min", "1 h 2 min", "1 d 1 h"]
    assert list(map(duration, seconds)) == texts


def test_the_runs_in_a_directory(tmp_path):
    """Of a sweep with folds, of a job array, or of one run; not the directories in a run."""
    for name in ("a/fold-1", "a/fold-2", "b", "c/d/e/f"):
        make_run(tmp_path / name)
    (tmp_path / "b" / "checkpoints").mkdir()
    found = [path.relative_to(tmp_path) for path in _find_runs(tmp_path)]
    assert found == [Path("a/fold-1"), Path("a/fold-2"), Path("b")]
    assert _find_runs(tmp_path / "b") == [tmp_path / "b"]
    assert _find_runs(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("environment", "is_ascii"),
    [
        ({}, True),
        ({"LANG": "C"}, True),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, True),  # Python has set it itself
        ({"LANG": "en_US.UTF-8"}, False),
        ({"LANG": "C.utf8"}, False),
        ({"LANG": "en_US.UTF-8", "LC_CTYPE": "C.UTF-8"}, False),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "C"}, True),
        ({"LANG": "C", "LC_CTYPE": "de_DE.UTF-8"}, False),
        ({"LANG": "en_US.UTF-8", "LC_CTYPE": "de_DE.ISO-8859-1"}, True),
    ],
)
def test_the_locale_decides_on_unicode(monkeypatch, environment, is_ascii):
    class Stream:
        encoding = "utf-8"

    monkeypatch.setattr(watch_command.sys, "stdout", Stream())
    assert _is_ascii(WatchOptions(), environment) == is_ascii
    assert _is_ascii(WatchOptions(ascii=False), environment) is False


def test_no_run_and_too_many_looks(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")  # the folder of a test may have a long name
    with pytest.raises(ConfigError, match="none does not exist"):
        WATCH.run(WATCH.parse([str(tmp_path / "none")]))
    with pytest.raises(ConfigError, match="has no runs in it"):
        WATCH.run(WATCH.parse([str(tmp_path)]))
    with pytest.raises(ConfigError, match="at least"):
        WATCH.run(WATCH.parse([str(tmp_path), "--every", "0"]))
    run = make_run(tmp_path / "run", state="finished")
    assert WATCH.run(WATCH.parse([str(run.folder), "--once"])) == 0
    assert "finished" in capsys.readouterr().out
    make_run(tmp_path / "other", state="failed")
    assert WATCH.run(WATCH.parse([str(tmp_path)])) == 1
