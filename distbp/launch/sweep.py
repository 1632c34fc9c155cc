"""The trials of a sweep, each with other options, some at a time on this host.

A `Sweep` is a folder. `sweep.json` says what is swept; each trial is an ordinary run in
`trial-0001`, … or, with `--kfold K`, K runs in `trial-0001/fold-1`, … . A run's
`config.toml` is there before it starts, `output.txt` has what it prints, and `.done`, its
completion file, how it ended: these files are all that a sweep remembers. So whatever was killed,
the same command goes on: finished runs are not repeated, and the others resume from their newest
checkpoint, those that failed included. The failure of a run does not end the sweep.

A run is a process of its own, `distbp train`, which may start ranks in turn. Which options a
trial has is up to its `Choices`: a list (`FixedChoices`), or an Optuna study (`optuna_study`).
"""

import json
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from distbp.errors import CheckpointError, ConfigError, StoppedError
from distbp.launch.mpiexec import POLL_INTERVAL_S, MpiLaunch, StopSignals
from distbp.options import flag
from distbp.parallel.environment import Outcome
from distbp.storage.atomic import atomic_write
from distbp.storage.lock import RunLock
from distbp.storage.run_directory import wrap_os_errors
from distbp.training.config import Config
from distbp.training.config_file import read_toml
from distbp.training.messages import format_number
from distbp.training.run_summary import (
    COMPLETION_NAME,
    FINISHED,
    FOLD_PREFIX,
    TrialSummary,
    has_checkpoint,
    read_completion,
    summarize_trial,
)
from distbp.training.search_space import Choice, parse_space, value_text

logger = logging.getLogger(__name__)

DEFINITION_NAME = "sweep.json"
_FORMAT = "distbp-sweep"
_OUTPUT_NAME = "output.txt"
_STOP_TIMEOUT_S = 60.0  # for the runs to save a checkpoint and stop


class Trial(NamedTuple):
    """A choice of options, with its number in the sweep, counted from 1."""

    number: int
    choice: Choice

    @property
    def name(self) -> str:
        """The name of its directory."""
        return f"trial-{self.number:04d}"


class Choices(Protocol):
    """Where the options of trials come from."""

    def next_trial(self) -> Trial | None:
        """Return the next trial, finished before or not; None if there is no other."""

    def report(self, trial: Trial, score: float | None) -> None:
        """Take note of the score of a trial that has ended; None if it has failed."""


class FixedChoices:
    """Choices that are known before the first trial starts."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self._trials = iter(Trial(number, one) for number, one in enumerate(choices, 1))

    def next_trial(self) -> Trial | None:
        """Return the next one."""
        return next(self._trials, None)

    def report(self, trial: Trial, score: float | None) -> None:
        """Do nothing: nothing follows from a score."""


@dataclass(frozen=True)
class SweepPlan:
    """What is swept.

    Attributes
    ----------
    config : Config
        What all trials share; `out` is the folder of the sweep.
    vary : tuple of str
        The texts of `--vary`.
    method : {'grid', 'random', 'optuna'}
    folds : int or None
        Runs of a trial, each with another part of the training rows held out.
    """

    config: Config
    vary: tuple[str, ...]
    method: str
    folds: int | None = None

    @property
    def folder(self) -> Path:
        """The folder of the sweep."""
        return Path(self.config.out)

    def runs(self, trial: Trial) -> list[Config]:
        """Return the configurations of a trial's runs.

        Raises
        ------
        ConfigError
            A value is not allowed.
        """
        folder = self.folder / trial.name
        config = replace(self.config, **trial.choice, out=str(folder))
        if self.folds is None:
            return [config]
        return [
            replace(config, fold=f"{k}/{self.folds}", out=str(folder / f"{FOLD_PREFIX}{k}"))
            for k in range(1, self.folds + 1)
        ]

    def write(self) -> None:
        """Create the folder and write what is swept; a folder with the same sweep is kept.

        Raises
        ------
        ConfigError
            The folder has another sweep, or a run.
        CheckpointError
            It cannot be written.
        """
        path = self.folder / DEFINITION_NAME
        if path.exists():
            self._check_same(path)
        elif has_checkpoint(self.folder):
            raise ConfigError(f"{self.folder} contains a run. Choose another --out for the sweep.")
        about = {
            "format": _FORMAT, "version": 1, "vary": list(self.vary), "method": self.method,
            "kfold": self.folds, "config": self.config.to_dict(),
        }  # fmt: skip
        with wrap_os_errors(f"{self.folder} cannot be written"):
            self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, CheckpointError) as temporary:
            temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    def _check_same(self, path: Path) -> None:
        """Raise ConfigError if the folder has another sweep."""
        before = read_definition(path)
        config = Config.read(before.get("config", {}), str(path))
        changes = {
            "--vary": (" ".join(before["vary"]), " ".join(self.vary)),
            "the method": (before["method"], self.method),
            "--kfold": (before["kfold"], self.folds),
        } | {
            flag(one.name): (getattr(config, one.name), getattr(self.config, one.name))
            for one in fields(Config)
            if not one.metadata["may_change_on_resume"]
        }
        for name, (old, new) in changes.items():
            if old != new:
                raise ConfigError(
                    f"{self.folder} has a sweep with {name} {old}, not {new}. Give it the same "
                    "options to continue it, or choose another --out."
                )


def read_definition(path: Path) -> dict[str, Any]:
    """Return what a sweep.json holds.

    Raises
    ------
    ConfigError
        It does not describe a sweep.
    """
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    keys = {"vary", "method", "kfold", "config"}
    if not isinstance(about, dict) or about.get("format") != _FORMAT or not keys <= about.keys():
        raise ConfigError(f"{path} does not describe a sweep. Choose another --out.")
    return about


def varied_names(folder: Path, trials: Sequence[TrialSummary]) -> list[str]:
    """Return the names of the fields of Config that vary, or differ where there is no sweep."""
    path = folder / DEFINITION_NAME
    if path.exists():
        return [one.name for one in parse_space(read_definition(path)["vary"])]
    configs = [run.config for trial in trials for run in trial.runs if run.config]
    return [
        one.name
        for one in fields(Config)
        if one.name not in ("out", "fold")
        and any(getattr(config, one.name) != getattr(configs[0], one.name) for config in configs)
    ]


class _ActiveRun:
    """A run in a process of its own.

    Parameters
    ----------
    trial : Trial
    folder : Path
    words : list of str
        The arguments of `distbp`.
    """

    def __init__(self, trial: Trial, folder: Path, words: Sequence[str]) -> None:
        self.trial, self.folder = trial, folder
        with wrap_os_errors(f"{folder} cannot be written"):
            (folder / COMPLETION_NAME).unlink(missing_ok=True)
            self._log: TextIO = (folder / _OUTPUT_NAME).open("a", encoding="utf-8")
        self._is_killed = False
        self.launch = MpiLaunch(1, words, log=self._log)

    def has_ended(self) -> bool:
        """Return whether the run has ended, and if so, write down how."""
        status = self.launch.wait(0.0)
        if status is None:
            return False
        self.close()
        outcome, message = self.launch.outcome, self.launch.message
        if self._is_killed:
            outcome, status = Outcome.STOPPED, StoppedError.status
        elif not outcome:  # it was killed, or its own ranks have reported to it
            stopped = status == StoppedError.status
            outcome = Outcome.STOPPED if stopped else Outcome.FAILED
            message = self._last_message() or f"ended with status {status}"
        _write_completion(self.folder, f"{outcome} {status}\n{message}\n")
        return True

    def _last_message(self) -> str:
        """Return the last message of distbp in the output."""
        text = (self.folder / _OUTPUT_NAME).read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.startswith("distbp: ")]
        return lines[-1].removeprefix("distbp: ") if lines else ""

    def kill(self) -> None:
        """End the run, which can be resumed."""
        self._is_killed = True
        self.launch.terminate()

    def close(self) -> None:
        """Leave no process behind."""
        self.launch.terminate()
        self._log.close()


class Sweep:
    """Runs all trials of a plan.

    Parameters
    ----------
    plan : SweepPlan
    choices : Choices
    jobs : int
        Runs at the same time.
    launch_words : sequence of str
        Further arguments of each `distbp train`: how its ranks are started.
    resume_words : sequence of str
        Further ones of a run that is resumed: options that may change.
    """

    def __init__(
        self,
        plan: SweepPlan,
        choices: Choices,
        jobs: int,
        launch_words: Sequence[str] = (),
        resume_words: Sequence[str] = (),
    ) -> None:
        self._plan, self._choices, self._jobs = plan, choices, jobs
        self._launch_words, self._resume_words = list(launch_words), list(resume_words)
        self._waiting: list[tuple[Trial, Config]] = []
        self._active: list[_ActiveRun] = []
        self._remaining: dict[int, int] = {}  # runs of each trial that have not ended

    def run(self) -> None:
        """Run the trials until all have ended.

        Raises
        ------
        StoppedError
            It was asked to stop; the runs have saved checkpoints.
        DistbpError
            The folder has another sweep, is in use, or cannot be written.
        """
        self._plan.write()
        lock = RunLock(self._plan.folder)
        lock.acquire()
        with ExitStack() as stack:
            stack.callback(lock.release)
            signals = stack.enter_context(StopSignals())
            stack.callback(self._end_all)
            while self._start_next(signals) or self._active:
                self._collect()
                if signals:
                    self._stop(signals)
                time.sleep(POLL_INTERVAL_S)

    def _end_all(self) -> None:
        with ExitStack() as stack:  # all of them, even if one raises an error
            for run in self._active:
                stack.callback(run.close)

    def _start_next(self, signals: StopSignals) -> bool:
        """Start runs while there is room; return whether others may follow."""
        while not signals and len(self._active) < self._jobs:
            if not self._waiting and not self._take_trial():
                return False
            if not self._waiting:
                continue
            trial, config = self._waiting.pop(0)
            self._start(trial, config)
        return True

    def _take_trial(self) -> bool:
        """Have the runs of the next trial wait; return whether there is one."""
        trial = self._choices.next_trial()
        if trial is None:
            return False
        try:
            runs = [(trial, one) for one in self._plan.runs(trial) if not _is_finished(one)]
        except ConfigError as error:  # values that do not fit each other
            self._refuse(trial, error)
            return True
        self._waiting += runs
        self._remaining[trial.number] = len(runs)
        if runs:
            self._say("%s: %s", trial.name, _describe(trial.choice))
        else:
            self._end_trial(trial, is_new=False)
        return True

    def _say(self, text: str, *words: str) -> None:
        if not self._plan.config.quiet:
            logger.info(text, *words)

    def _refuse(self, trial: Trial, error: ConfigError) -> None:
        """Note that a trial cannot be started."""
        folder = self._plan.folder / trial.name
        with wrap_os_errors(f"{folder} cannot be written"):
            folder.mkdir(parents=True, exist_ok=True)
        _write_completion(folder, f"{Outcome.REFUSED} {error.status}\n{error}\n")
        logger.warning("%s failed: %s", trial.name, error)
        self._choices.report(trial, None)

    def _start(self, trial: Trial, config: Config) -> None:
        folder = Path(config.out)
        if has_checkpoint(folder):
            words = ["train", config.data, "--resume", config.out, *self._resume_words]
        else:
            with wrap_os_errors(f"{folder} cannot be written"):
                folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(folder / "config.toml", CheckpointError) as temporary:
                temporary.write_text(config.to_toml(), encoding="utf-8")
            words = ["train", "--config", str(folder / "config.toml")]
        self._active.append(_ActiveRun(trial, folder, [*words, *self._launch_words]))

    def _collect(self) -> None:
        """Take note of the runs that have ended."""
        for run in [one for one in self._active if one.has_ended()]:
            self._active.remove(run)
            outcome, message = read_completion(run.folder)
            name = run.folder.relative_to(self._plan.folder)
            if outcome == Outcome.STOPPED:
                self._say("%s stopped; it can be resumed", str(name))
            elif outcome != Outcome.DONE:
                logger.warning("%s failed: %s", name, message)
            self._remaining[run.trial.number] -= 1
            if not self._remaining[run.trial.number]:
                self._end_trial(run.trial)

    def _end_trial(self, trial: Trial, is_new: bool = True) -> None:
        summary = summarize_trial(self._plan.folder / trial.name)
        if any(read_completion(run.folder)[0] == Outcome.STOPPED for run in summary.runs):
            return  # it will be resumed
        score = summary.score if summary.state == FINISHED else None
        self._choices.report(trial, score)
        monitor = summary.runs[0].monitor
        if is_new and score is not None and monitor is not None:
            self._say("%s finished: %s %s", trial.name, monitor.name, format_number(score))

    def _stop(self, signals: StopSignals) -> None:
        """Have all runs save a checkpoint and stop, or kill them at a second signal."""
        deadline = signals.first_at + _STOP_TIMEOUT_S
        while self._active and not signals.forced and time.monotonic() < deadline:
            for run in self._active:
                if not run.launch.request_stop():  # it has not started to train
                    run.kill()
            self._collect()
            time.sleep(POLL_INTERVAL_S)
        raise StoppedError("The sweep was stopped. The same command continues it.")


def _describe(choice: Choice) -> str:
    """Return the values of options as they are shown."""
    texts = (f"{name.replace('_', '-')} {value_text(value)}" for name, value in choice.items())
    return ", ".join(texts) or "the options given"


def _write_completion(folder: Path, text: str) -> None:
    with atomic_write(folder / COMPLETION_NAME, CheckpointError) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _is_finished(config: Config) -> bool:
    """Return whether a run has ended well, with as many epochs as are wanted now."""
    folder = Path(config.out)
    if read_completion(folder)[0] != Outcome.DONE:
        return False
    path = folder / "config.toml"
    return not path.exists() or read_toml(path).get("epochs", config.epochs) >= config.epochs
