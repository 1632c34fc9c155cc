"""The choices of a sweep by an Optuna study, which learns from the scores of earlier trials.

The study is kept in `study.log`, an Optuna journal, in the folder of the sweep; its trial n is the
directory trial-(n + 1). With one run at a time, the choices depend on the seed and the scores
alone, also when the sweep was interrupted: each is made by a TPE sampler with a seed of its own.
Optuna is only imported when a study is used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distbp.errors import ConfigError
from distbp.launch.sweep import Trial
from distbp.training.search_space import Choice, Dimension, Range

_STUDY_NAME = "distbp"


class OptunaChoices:
    """Choices by a study.

    Parameters
    ----------
    folder : Path
        Of the sweep.
    space : sequence of Dimension
    count : int
        Trials in all, those that failed included.
    seed : int
    is_maximized : bool
        Whether more of the score is better.

    Raises
    ------
    ConfigError
        Optuna is not installed, or the study cannot be opened.
    """

    def __init__(
        self, folder: Path, space: Sequence[Dimension], count: int, seed: int, is_maximized: bool
    ) -> None:
        try:
            import optuna
            from optuna.storages.journal import JournalFileBackend
        except ImportError as error:
            raise ConfigError(
                "--optuna needs Optuna, which is not installed. Install it: pip install "
                "'distbp[optuna]'."
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna: Any = optuna
        self._space, self._count, self._seed = space, count, seed
        path = folder / "study.log"
        try:
            backend = JournalFileBackend(str(path))
            self._study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name=_STUDY_NAME,
                direction="maximize" if is_maximized else "minimize",
                load_if_exists=True,
            )
        # Optuna raises errors of many classes, for whatever is wrong with a file.
        except Exception as error:
            raise ConfigError(f"{path} cannot be opened: {error}.") from error
        state = optuna.trial.TrialState.RUNNING  # of a sweep that was interrupted
        self._interrupted = [one for one in self._study.get_trials() if one.state == state]

    def next_trial(self) -> Trial | None:
        """Return an interrupted trial, or a new one."""
        if self._interrupted:
            trial = self._interrupted.pop(0)
            return Trial(trial.number + 1, self._choice(trial.params))
        number = len(self._study.get_trials(deepcopy=False))
        if number >= self._count:
            return None
        self._study.sampler = self._optuna.samplers.TPESampler(seed=(self._seed + number) % 2**32)
        asked = self._study.ask({one.name: self._distribution(one) for one in self._space})
        return Trial(asked.number + 1, self._choice(asked.params))

    def report(self, trial: Trial, score: float | None) -> None:
        """Tell the study the score of a trial."""
        failed = self._optuna.trial.TrialState.FAIL
        if score is None:
            self._study.tell(trial.number - 1, state=failed)
        else:
            self._study.tell(trial.number - 1, score)

    def _distribution(self, one: Dimension) -> Any:
        of = self._optuna.distributions
        if not isinstance(one, Range):
            return of.CategoricalDistribution(one.texts)
        if one.is_integer:
            return of.IntDistribution(int(one.low), int(one.high), log=one.is_log)
        return of.FloatDistribution(one.low, one.high, log=one.is_log)

    def _choice(self, params: dict[str, Any]) -> Choice:
        """Return the values of options for the parameters of the study."""
        return {
            one.name: one.value(params[one.name])
            if isinstance(one, Range)
            else one.values[one.texts.index(params[one.name])]
            for one in self._space
        }
