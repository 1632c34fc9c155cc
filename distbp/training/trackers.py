"""Callbacks that report a run to an experiment tracker: MLflow, or Weights & Biases.

    pip install mlflow-skinny
    distbp train digits.h5 --out run --callbacks distbp.training.trackers:MLflow
    pip install wandb
    distbp train digits.h5 --out run --callbacks distbp.training.trackers:WandB

They report the options of the run once, and the numbers of each epoch's record with the epoch as
their step, from rank 0. Where to, and in which experiment or project, is set as always: by
MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME, or WANDB_PROJECT, WANDB_MODE and so on. A tracker
that does not answer is warned about, and does not end the run. A run that is resumed goes on with
its run in the tracker, whose identifier is in its directory; epochs that are repeated because an
older checkpoint was resumed have the same numbers as before.

MLflow is tested with its file and SQLite stores, W&B in offline mode only.
"""

import importlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distbp.errors import ConfigError
from distbp.network.network import Network
from distbp.training.callbacks import Callback
from distbp.training.config import Config

logger = logging.getLogger(__name__)


class Tracker(Callback):
    """What both trackers have in common.

    Attributes
    ----------
    package : str
        That has the tracker's client.
    """

    package = ""

    def __init__(self) -> None:
        # Before the run starts, and on all ranks: a package may be missing on one host only.
        try:
            self.client: Any = importlib.import_module(self.package)
        except ImportError as error:
            raise ConfigError(
                f"The callback {type(self).__name__} needs the package {self.package}, which "
                f"cannot be imported: {error}. Install it with pip install "
                f"'distbp[{self.package}]'."
            ) from error
        self._is_reporting = False

    def start(self, config: Config, rank: int) -> None:
        """Begin a run in the tracker, or go on with that of a run that is resumed."""
        if rank == 0 and not self._is_reporting:
            path = Path(config.out) / f"{self.package}-run" if config.out else None
            self._is_reporting = True
            self._attempt(lambda: self._begin_and_note(config, path))

    def _begin_and_note(self, config: Config, path: Path | None) -> None:
        before = path.read_text("utf-8").strip() if path and path.exists() else None
        identifier = self.begin(Path(config.out).name or None, before, config.to_dict())
        if path:
            path.write_text(f"{identifier}\n", encoding="utf-8")

    def __call__(self, record: Mapping[str, Any], network: Network) -> None:
        """Report the numbers of a record."""
        if self._is_reporting:
            numbers = {
                # The names of classes may have characters that MLflow does not accept.
                "".join(c if c.isalnum() or c in "_-. /" else "_" for c in key): float(value)
                for key, value in record.items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
            self._attempt(lambda: self.log(numbers, record["epoch"]))

    def _attempt(self, report: Callable[[], None]) -> None:
        try:
            report()
        except Exception as error:
            logger.warning("%s cannot be reported to: %s", type(self).__name__, error)

    def begin(self, name: str | None, before: str | None, options: dict[str, Any]) -> str:
        """Begin a run, or go on with the one that has the identifier `before`; return its own."""
        raise NotImplementedError

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        """Report the numbers of an epoch."""
        raise NotImplementedError


class MLflow(Tracker):
    """Reports to MLflow, in a run that is active already if there is one."""

    package = "mlflow"

    def begin(self, name: str | None, before: str | None, options: dict[str, Any]) -> str:
        """Start a run."""
        run = self.client.active_run() or self.client.start_run(run_id=before, run_name=name)
        if before is None:  # options that changed on resume: MLflow does not let them change
            self.client.log_params(options)
        return str(run.info.run_id)

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        """Log metrics."""
        self.client.log_metrics(numbers, step=epoch)


class WandB(Tracker):
    """Reports to Weights & Biases."""

    package = "wandb"

    def begin(self, name: str | None, before: str | None, options: dict[str, Any]) -> str:
        """Initialize a run."""
        run = self.client.init(
            id=before, name=name, resume="allow", config=options, dir=options["out"] or None
        )
        return str(run.id)

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        """Log metrics."""
        self.client.log(numbers, step=epoch)
