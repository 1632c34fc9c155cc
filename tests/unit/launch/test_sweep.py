"""Sweeps without training: plans, choices and what is refused; tests/system runs real ones."""

import json

import pytest

from distbp.cli import sweep_command
from distbp.cli.main import parse_command_line, run_verb
from distbp.errors import ConfigError
from distbp.launch.optuna_study import OptunaChoices
from distbp.launch.sweep import FixedChoices, Sweep, SweepPlan, Trial, varied_names
from distbp.training.config import Config
from distbp.training.run_summary import summarize_folder
from distbp.training.search_space import parse_space


def plan(folder, *vary, method="grid", folds=None, **options):
    config = Config(data="d.h5", out=str(folder), quiet=True, **options)
    return SweepPlan(config, vary, method, folds)


def finish(folder, score=1.0):
    """Write what a finished run leaves behind."""
    folder.mkdir(parents=True)
    config = Config(data="d.h5", out=str(folder), monitor="validation_cost")
    (folder / "config.toml").write_text(config.to_toml())
    (folder / "metrics.jsonl").write_text(f'{{"epoch": 1, "validation_cost": {score}}}\n')
    (folder / ".done").write_text("done 0\n")


def test_a_folder_belongs_to_one_sweep(tmp_path):
    """Options that a run may change on resume, and the number of choices, may change."""
    first = plan(tmp_path / "s", "l2=0,1", epochs=3)
    first.write()
    plan(tmp_path / "s", "l2=0,1", epochs=5).write()
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["config"]["epochs"] == 5
    for other, text in (
        (plan(tmp_path / "s", "l2=0,2"), "has a sweep with --vary l2=0,1, not l2=0,2"),
        (plan(tmp_path / "s", "l2=0,1", method="random"), "with the method grid, not random"),
        (plan(tmp_path / "s", "l2=0,1", folds=3), "with --kfold None, not 3"),
        (plan(tmp_path / "s", "l2=0,1", seed=1), "with --seed 0, not 1"),
    ):
        with pytest.raises(ConfigError, match=text):
            other.write()
    (tmp_path / "s" / "sweep.json").write_text("{}")
    with pytest.raises(ConfigError, match="does not describe a sweep"):
        first.write()


def test_finished_trials_are_not_repeated(tmp_path):
    """Nothing is started if all are: what is there is enough."""
    one = plan(tmp_path, "l2=0,1")
    finish(tmp_path / "trial-0001")
    finish(tmp_path / "trial-0002", 0.5)
    Sweep(one, FixedChoices([{"l2": 0.0}, {"l2": 1.0}]), jobs=2).run()
    trials = summarize_folder(tmp_path)
    assert [trial.name for trial in trials] == ["trial-0002", "trial-0001"]
    assert varied_names(tmp_path, trials) == ["l2"]


def test_values_that_do_not_fit_each_other(tmp_path):
    """They are a trial that fails, with a reason, and no end of the sweep."""
    Sweep(plan(tmp_path), FixedChoices([{"shards": 8, "batch_size": 4}]), jobs=1).run()
    (trial,) = summarize_folder(tmp_path)
    assert trial.state == "failed"
    assert "--shards 8 cuts a batch of 4 rows too small" in trial.runs[0].message


def test_runs_without_a_sweep_are_compared_by_what_differs(tmp_path):
    for name, l2 in (("a", 0.0), ("b", 1.0)):
        finish(tmp_path / name)
        text = Config(data="d.h5", out=name, l2=l2, monitor="validation_cost").to_toml()
        (tmp_path / name / "config.toml").write_text(text)
    assert varied_names(tmp_path, summarize_folder(tmp_path)) == ["l2"]


SPACE = ["learning-rate=1e-3..1", "hidden=5..40", "optimizer=sgd,adam", "clip-norm=none,1"]


def study(folder, count, is_maximized=False):
    return OptunaChoices(folder, parse_space(SPACE), count, 0, is_maximized)


def test_a_study_makes_as_many_choices_as_asked(tmp_path):
    """Of values that the options take; a trial that was interrupted comes first again."""
    choices = study(tmp_path, 3)
    first, second = choices.next_trial(), choices.next_trial()
    assert (first.number, second.number) == (1, 2)
    assert 1e-3 <= first.choice["learning_rate"] <= 1
    assert 5 <= first.choice["hidden"][0] <= 40
    assert {first.choice["clip_norm"], second.choice["clip_norm"]} <= {None, 1.0}
    choices.report(first, 0.5)
    again = study(tmp_path, 3)
    assert again.next_trial() == second
    third = again.next_trial()
    assert third.number == 3
    again.report(second, None)  # it has failed
    again.report(third, 0.25)
    assert again.next_trial() is None
    assert study(tmp_path, 3).next_trial() is None
    assert study(tmp_path, 4).next_trial().number == 4


def test_a_study_is_a_function_of_seed_and_scores(tmp_path):
    """Also if it was interrupted."""
    chosen = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        trials: list[Trial] = []
        choices = study(tmp_path / name, 13)
        for number in range(13):
            if name == "b" and number % 4 == 3:
                choices = study(tmp_path / name, 13)
            trials.append(choices.next_trial())
            choices.report(trials[-1], abs(trials[-1].choice["learning_rate"] - 0.1))
        chosen.append(trials)
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["d.h5", "--out", "s"], "needs something that varies"),
        (["--out", "s", "--vary", "l2=0,1"], "needs a data set and a folder"),
        (["d.h5", "--vary", "l2=0,1"], "needs a data set and a folder"),
        (["d.h5", "--out", "s", "--vary", "l2=0,1", "--l2", "1"], "--l2 is given, and is to vary"),
        (["d.h5", "--out", "s", "--vary", "l2=0..1"], "a grid has no ranges"),
        (["d.h5", "--out", "s", "--vary", "l2=0", "--jobs", "0"], "--jobs 0: expected at least 1"),
        (["d.h5", "--out", "s", "--kfold", "1"], "--kfold 1: expected at least 2"),
        (["d.h5", "--out", "s", "--kfold", "2", "--validation", "0.1"], "contradict each other"),
        (["d.h5", "--out", "s", "--random", "1", "--optuna", "1"], "contradict each other"),
        (["d.h5", "--out", "s", "--vary", "momentum=0,0.5"], "--momentum has no effect"),
        (["d.h5", "--out", "s", "--vary", "l2=0,1", "--restarts", "1"], "needs --ranks"),
        (["--table", "nowhere"], "nowhere cannot be read"),
    ],
    ids=str,
)
def test_invalid_arguments_are_refused(words, text, tmp_path, monkeypatch):
    """Before anything is written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=text):
        run_verb(parse_command_line(["sweep", *words]))
    assert list(tmp_path.iterdir()) == []


def test_options_that_have_an_effect_in_some_trials(tmp_path, monkeypatch):
    """They may be given: here momentum, with one of two optimizers."""
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        finish(tmp_path / "s" / f"trial-000{number}")
    words = ["d.h5", "--out", "s", "--momentum", "0.5", "--vary", "optimizer=sgd,momentum"]
    assert run_verb(parse_command_line(["sweep", *words])) == 0


@pytest.mark.parametrize(
    "words", [[], ["--ranks", "2"], ["--ranks", "2", "--restarts", "0"]], ids=len
)
def test_runs_start_their_ranks_as_the_sweep_is_told(words):
    """No restarts are not the same as the default number."""
    parsed = parse_command_line(["sweep", "d.h5", "--out", "s", "--vary", "l2=0,1", *words])
    assert sweep_command._launch_words(parsed) == words


def test_a_sweep_starts_its_ranks_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(ConfigError, match="starts the ranks of its runs itself"):
        run_verb(parse_command_line(["sweep", "d.h5", "--out", "s", "--vary", "l2=0,1"]))
