"""The rows that are held out of the training rows for validation: a fraction, or a fold."""

from collections.abc import Callable

import numpy as np

from distbp.data.dataset import DataSet, Split
from distbp.errors import ConfigError
from distbp.network import rng
from distbp.parallel.shared_array import filled_shared_array
from distbp.parallel.topology import Topology
from distbp.training.config import Config
from distbp.training.folds import fold_of_rows, parse_fold


def split_validation(config: Config, data: DataSet, comm: Topology) -> tuple[Split, Split | None]:
    """Return the training rows and the validation rows, held out of train if asked for.

    By the seed alone, so that it does not depend on the ranks; each part in the order of the
    file, because rows that are close in it are read together. Collective.

    Raises
    ------
    ConfigError
        There is a validation set already, or a part would be empty.
    """
    train = data.split("train")
    if not config.validation and config.fold is None:
        return train, data.splits.get("validation")
    n = len(train)
    count = _held_fraction(config, n) if config.fold is None else _held_fold(config.fold, n)
    what = f"--validation {config.validation}" if config.fold is None else f"--fold {config.fold}"
    if "validation" in data.splits:
        raise ConfigError(f"{what}: {data.name} has a validation split.")
    if not 0 < count < n:
        raise ConfigError(
            f"{what} of {n} rows leaves {n - count} to train on and {count} to validate with; both "
            "need at least 1."
        )
    is_held = _fraction(config, n, count) if config.fold is None else _fold(config, data, train)

    def choose(rows: np.ndarray) -> None:
        held = is_held()
        rows[: n - count], rows[n - count :] = np.flatnonzero(~held), np.flatnonzero(held)

    rows = filled_shared_array(comm, (n,), np.dtype(np.int64), choose)
    return train.subset(rows[: n - count]), train.subset(rows[n - count :])


def _held_fraction(config: Config, n: int) -> int:
    return round(n * config.validation)


def _held_fold(fold: str, n: int) -> int:
    k, folds = parse_fold(fold)
    return len(range(k - 1, n, folds))


def _fraction(config: Config, n: int, count: int) -> Callable[[], np.ndarray]:
    """Return a function that returns whether each row is held out: `count` rows at random."""

    def is_held() -> np.ndarray:
        held = np.zeros(n, np.bool_)
        held[rng.permutation(n, config.seed, rng.HOLDOUT)[:count]] = True
        return held

    return is_held


def _fold(config: Config, data: DataSet, train: Split) -> Callable[[], np.ndarray]:
    """Return a function that returns whether each row is held out: those of a fold."""
    k, folds = parse_fold(config.fold or "")

    def is_held() -> np.ndarray:
        labels = train.targets()[:, 0] if data.task == "classification" else None
        held: np.ndarray = fold_of_rows(len(train), folds, config.seed, labels) == k - 1
        return held

    return is_held
