"""The verb `sweep`: train many trials, each with other options, and compare them.

    distbp sweep DATA.h5 --out FOLDER --vary learning-rate=0.01,0.1 hidden=50,100x50

`--vary` says which options vary, the others are those of `train` and the same in all trials;
whether all combinations are trained, some random ones or those that a study asks for is another
option (`--random`, `--optuna`). So what varies reads the same for each of them, and is typed
without quotes: see `distbp.training.search_space`.
"""

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from distbp.cli.parser import Parser, Verb, add_options, given_options
from distbp.cli.rank_options import RankOptions, should_start_ranks
from distbp.cli.train_command import RunOptions, resume_arguments, should_restart
from distbp.errors import ConfigError, DistbpError
from distbp.options import as_arguments, flag, option

_NOTES = """\
what varies:
  learning-rate=0.01,0.1    some values
  hidden=50,100x50          one layer of 50 units, or two of 100 and 50
  clip-norm=none,1          without a value, or 1
  learning-rate=1e-4..0.1   a range, logarithmic if it spans more than a decade
  dropout=0..0.5:linear     or as :log or :linear says

Without --random or --optuna, all combinations of the values are trained. Each
trial is a run in FOLDER/trial-0001, …; its output is in output.txt there. The
same command continues a sweep that was stopped or killed, and tries again what
failed (not with --optuna); finished runs are not repeated. With more --epochs
they are trained longer; --random and --optuna can be raised.
With --kfold N, a trial is N runs in trial-0001/fold-1, …, and its score their
mean; the folds are chosen by --seed.
The score is that of --monitor in its best epoch; values are drawn by --seed.
The exit status is 0 if any trial has finished.

distbp slurm … sweep … writes a job array with a task for each run."""


@dataclass(frozen=True)
class SweepOptions:
    """Options of `sweep` that are not those of a training."""

    random: int | None = option(
        None, "train N trials with random values of what varies", int, group="sweep", least=1,
        below=10_000, is_common=True,
    )  # fmt: skip
    optuna: int | None = option(
        None, "train N trials of an Optuna study, kept in FOLDER/study.log", int, group="sweep",
        least=1, below=10_000, is_common=True,
    )  # fmt: skip
    kfold: int | None = option(
        None, "train each trial N times, with each of N folds of the training rows held out once",
        int, group="sweep", least=2, below=10_000, is_common=True,
    )  # fmt: skip
    jobs: int | None = option(
        None, "runs at the same time on this host", int, group="sweep", least=1, is_common=True,
        default_text="1",
    )  # fmt: skip
    table: str | None = option(
        None, "only print the results in a folder, those so far included", group="results",
        metavar="FOLDER",
    )  # fmt: skip
    csv: bool = option(False, "print the results as CSV, with whole digests", group="results")


def _declare(parser: Parser) -> None:
    from distbp.training.config import GROUPS, Config

    group = parser.group("sweep")
    group.add_argument(
        "data", metavar="DATA.h5", nargs="?", help="data set, written by distbp import"
    )
    group.add_argument(
        "--vary", metavar="NAME=VALUES", nargs="+", action="extend", default=argparse.SUPPRESS,
        help="options of train that vary, each with its values or range (default: none)",
    )  # fmt: skip
    parser.group("results")
    for title in GROUPS:
        parser.group(title)
    skipped = ("data", "resume", "fold", "profile")
    add_options(parser, SweepOptions, Config, RunOptions, RankOptions, skip=skipped)
    parser.epilog = f"{parser.epilog}\n\n{_NOTES}"


def _run_sweep(arguments: argparse.Namespace) -> int:
    options = _sweep_options(arguments)
    if options.table is not None:
        _print_table(Path(options.table), options.csv)
        return 0
    from distbp.launch.sweep import Sweep

    plan, choices = _planned(arguments, options)
    sweep = Sweep(
        plan,
        choices if choices is not None else _study(arguments, options, plan),
        options.jobs or 1,
        _launch_words(arguments),
        # Without the directory, which is another one for each run.
        resume_arguments("", _train_options(arguments))[3:],
    )
    sweep.run()
    return 0 if _print_table(plan.folder, options.csv) else DistbpError.status


def _sweep_options(arguments: argparse.Namespace) -> SweepOptions:
    from distbp.options import check_option

    options = SweepOptions(**given_options(arguments, SweepOptions))
    for one in fields(options):
        check_option(flag(one.name), getattr(options, one.name), one.metadata)
    if options.random and options.optuna:
        raise ConfigError("--random and --optuna contradict each other: use one of them.")
    return options


def _train_options(arguments: argparse.Namespace) -> dict[str, Any]:
    from distbp.training.config import Config

    return given_options(arguments, Config)


def _launch_words(arguments: argparse.Namespace) -> list[str]:
    """Return the options that say how each run's ranks are started.

    Raises
    ------
    ConfigError
        They contradict each other, or this process is one of several ranks.
    """
    from distbp.parallel.environment import LaunchEnvironment

    if LaunchEnvironment.from_environ().ranks_started > 1:
        raise ConfigError(
            "distbp sweep starts the ranks of its runs itself. Start it without a launcher, and "
            "with --ranks and --jobs; on a cluster, write a job array with distbp slurm sweep."
        )
    ranks, restarts = getattr(arguments, "ranks", None), getattr(arguments, "restarts", None)
    should_start_ranks(ranks)
    should_restart(restarts, ranks)
    given = {"--ranks": ranks, "--restarts": restarts}
    found = ((name, value) for name, value in given.items() if value is not None)
    return [word for name, value in found for word in as_arguments(name, value)]


def _planned(arguments: argparse.Namespace, options: SweepOptions) -> tuple[Any, Any]:
    """Return what is swept, and the choices, or None if an Optuna study makes them.

    Raises
    ------
    ConfigError
        An option is missing or not allowed.
    """
    from distbp.launch.sweep import FixedChoices, SweepPlan
    from distbp.training.config import Config
    from distbp.training.config_file import read_toml
    from distbp.training.search_space import draws, grid, parse_space

    given = _train_options(arguments)
    vary = tuple(getattr(arguments, "vary", ()))
    space = parse_space(vary)
    for one in space:
        if one.name in given:
            raise ConfigError(
                f"{flag(one.name)} is given, and is to vary as well. Leave out one of the two."
            )
    file = getattr(arguments, "config", None)
    from_file = read_toml(Path(file)) if file else {}
    config = Config(**from_file | given)
    if not config.data or not config.out:
        raise ConfigError(
            "distbp sweep needs a data set and a folder for the trials: distbp sweep DATA.h5 "
            "--out FOLDER --vary NAME=VALUE,VALUE."
        )
    if options.kfold:
        replace(config, fold=f"1/{options.kfold}")  # with which another option may not fit
    elif not space:
        raise ConfigError(
            "distbp sweep needs something that varies, such as --vary learning-rate=0.01,0.1; "
            "or --kfold 5."
        )
    method = "optuna" if options.optuna else "random" if options.random else "grid"
    plan = SweepPlan(config, vary, method, options.kfold)
    if options.optuna:
        return plan, None
    choices = draws(space, options.random, config.seed) if options.random else grid(space)
    _check_useful(given, from_file, choices)
    return plan, FixedChoices(choices)


def _check_useful(
    given: Mapping[str, Any], from_file: Mapping[str, Any], choices: Sequence[Mapping[str, Any]]
) -> None:
    """Raise ConfigError if an option of the command line has no effect in any of the trials."""
    from distbp.training.config_file import check_useful

    for choice in choices:
        try:
            check_useful({**given, **choice}, from_file)
        except ConfigError as error:
            useless = error
        else:
            return
    raise useless


def _study(arguments: argparse.Namespace, options: SweepOptions, plan: Any) -> Any:
    """Return the choices of an Optuna study in the folder of the sweep."""
    from distbp.launch.optuna_study import OptunaChoices
    from distbp.training.monitor import is_maximized
    from distbp.training.search_space import parse_space

    plan.write()
    monitor, space = plan.config.monitor, parse_space(plan.vary)
    is_max = monitor is not None and is_maximized(monitor)
    return OptunaChoices(plan.folder, space, options.optuna or 0, plan.config.seed, is_max)


def _print_table(folder: Path, as_csv: bool) -> bool:
    """Print the results in a folder; return whether any trial has finished."""
    from distbp.cli.trial_table import csv_rows, table_lines
    from distbp.launch.sweep import varied_names
    from distbp.training.run_summary import FINISHED, summarize_folder

    trials = summarize_folder(folder)
    names = varied_names(folder, trials)
    if as_csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows(csv_rows(trials, names))
    else:
        print("\n".join(table_lines(trials, names)))
    return any(one.state == FINISHED for one in trials)


SWEEP = Verb(
    "sweep",
    "Train many trials, each with other options, and compare them.",
    "DATA.h5 --out FOLDER --vary NAME=VALUES … [OPTIONS]\n--table FOLDER [--csv]",
    "distbp sweep digits.h5 --out sweep --vary learning-rate=0.01,0.1 l2=0,1",
    _declare,
    _run_sweep,
)


def parse_sweep(words: Sequence[str]) -> tuple[Any, list[Any]]:
    """Return what is swept, and a task of a job array for each of its runs.

    Parameters
    ----------
    words : sequence of str
        `sweep` and its arguments.

    Raises
    ------
    ConfigError
        An argument is not allowed, or does not apply to a job array.
    """
    from distbp.launch.slurm import ArrayTask, check_task

    arguments = SWEEP.parse(words[1:])
    options = _sweep_options(arguments)
    for name in ("optuna", "jobs", "ranks", "restarts", "table"):
        if getattr(arguments, name, None) is not None:
            why = "needs the results of earlier trials" if name == "optuna" else "is for one host"
            raise ConfigError(f"--{name} does not apply to a job array: it {why}. Leave it out.")
    plan, choices = _planned(arguments, options)
    tasks: list[Any] = []
    while (trial := choices.next_trial()) is not None:
        for config in plan.runs(trial):
            changes = trial.choice | ({"fold": config.fold} if config.fold else {})
            words = [
                word
                for name, value in changes.items()
                if value is not None
                for word in as_arguments(flag(name), value)
            ]
            check_task(plan.config, replace(config, out=plan.config.out), words)
            folder = str(Path(config.out).relative_to(plan.folder))
            tasks.append(ArrayTask(len(tasks) + 1, words, folder))
    return plan, tasks
