"""What came out of runs, and tables of it."""

import json

import pytest

from distbp.cli.trial_table import csv_rows, table_lines
from distbp.errors import ConfigError
from distbp.training.config import Config
from distbp.training.monitor import is_maximized
from distbp.training.run_summary import summarize_folder, summarize_run


def write_run(folder, scores, *, done="done 0", monitor="validation_cost", **options):
    """Write what a run leaves behind, but for checkpoints."""
    folder.mkdir(parents=True)
    config = Config(data="d.h5", out=str(folder), monitor=monitor, epochs=3, **options)
    (folder / "config.toml").write_text(config.to_toml())
    lines = (json.dumps({"epoch": n, monitor: one}) for n, one in enumerate(scores, 1))
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if done:
        (folder / ".done").write_text(f"{done}\n")


def test_the_score_is_that_of_the_best_epoch(tmp_path):
    """The first of several; an undefined one is never the best."""
    write_run(tmp_path / "a", [None, 2.0, 1.0, 1.0])
    write_run(tmp_path / "b", [0.5, 0.75, None], monitor="validation_f1")
    a, b = summarize_run(tmp_path / "a"), summarize_run(tmp_path / "b")
    assert (a.score, a.epoch, a.state) == (1.0, 3, "finished")
    assert (b.score, b.epoch) == (0.75, 2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train_cost", False),
        ("validation_cost", False),
        ("validation_standardized_cost", False),
        ("train_accuracy", True),
        ("validation_f1_weighted", True),
        ("validation_f1:a:b", True),
        ("validation_rmse", False),
    ],
)
def test_what_is_better_if_it_is_more(name, expected):
    assert is_maximized(name) == expected


@pytest.mark.parametrize(
    ("done", "scores", "state"),
    [
        ("done 0", [1.0], "finished"),  # stopped early
        ("refused 1\nIt diverged.", [1.0, 2.0], "failed"),
        ("failed 137\nended with status 137", [], "failed"),
        ("stopped 75\nwas stopped", [1.0, 2.0], "unfinished"),
        ("", [1.0], "unfinished"),
        ("", [1.0, 2.0, 3.0], "finished"),  # without a completion file
    ],
)
def test_the_state_of_a_run(done, scores, state, tmp_path):
    write_run(tmp_path / "run", scores, done=done)
    assert summarize_run(tmp_path / "run").state == state


def test_a_damaged_record_ends_them(tmp_path):
    """A line may be incomplete while it is being written."""
    write_run(tmp_path / "run", [3.0])
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "validation_')
    assert summarize_run(tmp_path / "run").score == 3.0


def test_a_table_is_sorted_by_score(tmp_path):
    """The best first, whatever that is; then what has not finished, and why it failed."""
    write_run(tmp_path / "trial-0001", [0.5], monitor="validation_f1", l2=1.0)
    write_run(tmp_path / "trial-0002", [0.75, 0.5], monitor="validation_f1", hidden=(3, 4))
    write_run(tmp_path / "trial-0003", [0.9], done="", monitor="validation_f1")
    write_run(tmp_path / "trial-0004", [], done="refused 1\nIt diverged.", clip_norm=None)
    (tmp_path / "trial-0005").mkdir()
    (tmp_path / "trial-0005" / ".done").write_text("refused 2\nNo such shards.\n")
    trials = summarize_folder(tmp_path)
    names = ["l2", "hidden", "clip_norm"]
    lines = [line.split() for line in table_lines(trials, names)]
    assert lines[0] == [
        "trial", "l2", "hidden", "clip-norm", "validation_f1", "epoch", "digest", "state",
    ]  # fmt: skip
    assert lines[1] == ["trial-0002", "0", "3x4", "none", "0.7500", "1", "finished"]
    assert [line[0] for line in lines[2:6]] == [
        "trial-0001", "trial-0003", "trial-0004", "trial-0005",
    ]  # fmt: skip
    assert lines[5][1:] == ["–", "–", "–", "–", "–", "failed"]
    assert " ".join(lines[6]) == "trial-0004 failed: It diverged."
    rows = csv_rows(trials, names)
    assert rows[1] == [
        "trial-0002", "0", "3x4", "none", "validation_f1", 0.75, None, "1", "finished", "",
    ]  # fmt: skip
    assert len({len(row) for row in rows}) == 1


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(ConfigError, match="has no runs in it"):
        summarize_folder(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        summarize_folder(tmp_path / "nowhere")


def test_the_score_of_folds_is_their_mean(tmp_path):
    """And has a standard deviation; a fold that has not been started is missing."""
    for trial, scores in (("trial-0001", (1.0, 2.0, 6.0)), ("trial-0002", (1.0, 2.0))):
        for k, score in enumerate(scores, 1):
            write_run(tmp_path / trial / f"fold-{k}", [9.0, score], fold=f"{k}/3")
    first, second = summarize_folder(tmp_path)
    assert (first.score, first.state) == (3.0, "finished")
    assert first.deviation == pytest.approx((14 / 3) ** 0.5)
    assert (second.score, second.deviation, second.state) == (None, None, "unfinished")
    lines = table_lines([first, second], [])
    assert lines[0].split() == ["trial", "validation_cost", "±", "epoch", "state"]
    assert lines[1].split() == ["trial-0001", "3.0000", "2.1602", "2,2,2", "finished"]


def test_a_score_of_the_training_rows_comes_with_a_caution(tmp_path):
    write_run(tmp_path / "trial-0001", [1.0], monitor="train_cost")
    lines = table_lines(summarize_folder(tmp_path), [])
    assert lines[2].startswith("train_cost is of the rows that were trained on: to compare")
    assert len(lines) == 3
