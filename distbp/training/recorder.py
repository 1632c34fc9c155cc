"""What a run writes and shows: checkpoints, metrics, log lines and a progress bar.

Only rank 0 records: it has a `RunRecorder`, the others a `NullRecorder`, so that the loop
need not ask which rank it is on. Neither sends a message. `on_step`, `on_epoch` and `on_end`
get the progress of the run.
"""

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distbp.console import ProgressBar
from distbp.errors import CheckpointError, DivergedError, FencedError
from distbp.network.network import Network
from distbp.storage.background_writer import copy_checkpoint
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.lock import RunLock
from distbp.storage.run_directory import RunDirectory, read_newest_checkpoint
from distbp.training.checkpoint_schedule import CheckpointSchedule
from distbp.training.checkpoint_writer import CheckpointBuilder, CheckpointWriter
from distbp.training.config import Config
from distbp.training.event_log import EventLog
from distbp.training.messages import diverged_message, epoch_line, retry_message, step_status
from distbp.training.metrics_file import MetricsFile
from distbp.training.state import Progress
from distbp.training.status_file import StatusFile
from distbp.training.tensorboard_file import TensorBoardFile

logger = logging.getLogger(__name__)


class NullRecorder:
    """Records nothing: for all ranks but rank 0.

    Attributes
    ----------
    saves : int
        Checkpoints of the whole run, once it has ended.
    checkpoint_wait_s : float
        Seconds for which training waited for them.
    kept, best : Checkpoint, optional
        The last and the best one, if they are in memory and not on the disk.
    """

    saves = 0
    checkpoint_wait_s = 0.0
    kept: Checkpoint | None = None
    best: Checkpoint | None = None

    def open(self, progress: Progress, is_new: bool, is_on_disk: bool = True) -> None:
        """Make the run's directory, or bring it to the state of `progress`, and lock it.

        `is_on_disk` says whether this state was read from there.
        """

    def on_epoch_start(self, progress: Progress) -> None:
        """Start the clock of an epoch, of which some steps may have been done before."""

    def on_step(self, progress: Progress) -> None:
        """Show what is due after a step."""

    def on_epoch(self, progress: Progress) -> None:
        """Show, record and save what is due after an epoch."""

    def on_end(self, progress: Progress) -> None:
        """Save the last state, unless it is saved already.

        Raises
        ------
        CheckpointError
            It cannot be saved.
        DivergedError
            It has a parameter that is not finite.
        """

    def save(self, progress: Progress, may_defer: bool = False) -> None:
        """Start to save a checkpoint of the current state.

        With `may_defer` it is kept in memory if the last one was written a short time ago.
        """

    def flush(self) -> None:
        """Return when all checkpoints that were started are on the disk."""

    def close(self) -> None:
        """Flush, and release the run's directory and the terminal."""

    def info(self, text: str) -> None:
        """Log a line, unless the run is to be quiet."""

    def warn(self, text: str) -> None:
        """Log a warning."""

    def record(self, event: str, **values: Any) -> None:
        """Add an event to those in the run's directory."""


class MemoryRecorder(NullRecorder):
    """Logs a run that has no directory, and keeps checkpoints in memory; each rank has its own.

    The last one is kept if it may be rolled back to, the best one with `--patience`.

    Parameters
    ----------
    config, network, builder, schedule : parts of the run
    is_logging : bool
        Whether this is the rank that logs.
    has_classes : bool
    """

    def __init__(
        self,
        config: Config,
        network: Network,
        builder: CheckpointBuilder,
        schedule: CheckpointSchedule,
        is_logging: bool,
        has_classes: bool,
    ) -> None:
        self._config, self._network, self._builder = config, network, builder
        self._schedule, self._is_logging, self._has_classes = schedule, is_logging, has_classes

    def on_epoch(self, progress: Progress) -> None:
        if self._is_logging and not self._config.quiet:  # the line takes as long as a small step
            record = progress.history.records[-1]
            self.info(epoch_line(record, self._config.epochs, self._has_classes))
        if self._config.patience is not None and progress.history.is_best:
            self.best = copy_checkpoint(self._builder.build(progress), self.best)
        if self._schedule.is_due_after_epoch(progress.position.epoch):
            self.save(progress)

    def on_end(self, progress: Progress) -> None:
        if not np.isfinite(self._network.theta).all():
            raise DivergedError(diverged_message(self._config.learning_rate or 0.0))

    def save(self, progress: Progress, may_defer: bool = False) -> None:
        if self._config.on_nan == "rollback" and np.isfinite(self._network.theta).all():
            self.kept = copy_checkpoint(self._builder.build(progress), self.kept)
            self._schedule.note_save()

    def info(self, text: str) -> None:
        if self._is_logging and not self._config.quiet:
            logger.info("%s", text)

    def warn(self, text: str) -> None:
        if self._is_logging:
            logger.warning("%s", text)


class RunRecorder(NullRecorder):
    """Records and shows a run.

    Parameters
    ----------
    config : Config
    network : Network
    builder : CheckpointBuilder
    schedule : CheckpointSchedule
    rows : int
        Of the training set.
    labels_per_row : int
        That of `DataSet`; 0 for a regression, which has no accuracy.
    """

    def __init__(
        self,
        config: Config,
        network: Network,
        builder: CheckpointBuilder,
        schedule: CheckpointSchedule,
        rows: int,
        labels_per_row: int,
    ) -> None:
        self._config, self._network, self._builder = config, network, builder
        self._schedule, self._rows, self._labels_per_row = schedule, rows, labels_per_row
        self.directory = RunDirectory(Path(config.out), config.keep)
        self._lock = RunLock(self.directory.path)
        self._metrics = MetricsFile(self.directory, self._lock)
        self._tensorboard = TensorBoardFile(self.directory.path) if config.tensorboard else None
        self._log = EventLog(self.directory, self._lock)
        self._writer = CheckpointWriter(self.directory, self._lock, schedule)
        steps = -(-rows // config.batch_size)
        self._bar = ProgressBar(config.epochs, steps, not config.quiet)
        self._status = StatusFile(self.directory, self._lock, config.epochs, steps)

    def open(self, progress: Progress, is_new: bool, is_on_disk: bool = True) -> None:
        if is_new:
            self.directory.create()
        elif is_on_disk:
            self._writer.saved = progress.position.batch
        self._lock.acquire()
        # From here to `close` no other run writes here; the newest checkpoint is read again,
        # because one may have done so since the ranks read theirs.
        try:
            if not is_new and is_on_disk:
                self._check_is_newest(progress)
            self.directory.remove_temporary_files()
            self.directory.write_text("config.toml", self._config.to_toml())
            self._metrics.rewrite(progress.history.lines)
            self._log.open(is_new)
            if self._tensorboard:
                self._tensorboard.start(progress.history.records)
        except BaseException:
            self._lock.release()
            raise
        self._outer_exception = sys.exc_info()[1]
        self._status.start(progress)

    def _check_is_newest(self, progress: Progress) -> None:
        """Refuse to resume if another run wrote a checkpoint after this one read its own."""
        newest, _ = read_newest_checkpoint(self.directory.path)
        if newest.about["progress"]["steps"] != progress.position.updates:
            raise CheckpointError(
                f"{self.directory.path}: another run has written a newer checkpoint since this "
                f"one started. Resume it again."
            )

    def on_epoch_start(self, progress: Progress) -> None:
        self._began, self._rows_before = time.monotonic(), self._rows_done(progress)

    def _rows_done(self, progress: Progress) -> int:
        return min(progress.position.step * self._config.batch_size, self._rows)

    def on_step(self, progress: Progress) -> None:
        has_bar, has_status = self._bar.wants_step(), time.monotonic() >= self._status.next_write
        if has_bar or has_status:
            rows = self._rows_done(progress)
            speed = (rows - self._rows_before) / (time.monotonic() - self._began)
            if has_status:
                self._status.write_step(progress, speed)
            if has_bar:
                text = step_status(progress, rows, speed, self._labels_per_row)
                self._bar.step(progress.position.epoch, progress.position.step, text)

    def on_epoch(self, progress: Progress) -> None:
        history = progress.history
        if not self._config.quiet:  # the line takes as long as a small step
            has_classes = self._labels_per_row > 0
            self.info(epoch_line(history.records[-1], self._config.epochs, has_classes))
        self._write_metrics(lambda: self._metrics.append(history.lines))
        if (tensorboard := self._tensorboard) is not None:
            self._write_metrics(lambda: tensorboard.append(history.records[-1]))
        if self._schedule.is_due_after_epoch(progress.position.epoch):
            self.save(progress, may_defer=True)
        elif history.is_best and np.isfinite(self._network.theta).all():
            self._writer.save_best(self._builder.build(progress, copies_history=False))
        else:
            self._writer.write_due_best()

    def _write_metrics(self, write: Callable[[], None]) -> None:
        """Call what writes records of epochs; log a failure, for it is going to be repeated."""
        try:
            write()
        except FencedError:  # another run owns the directory: this one has to end
            raise
        except CheckpointError as error:
            self.warn(retry_message(error))

    def on_end(self, progress: Progress) -> None:
        self._status.note_position(progress)
        lines = progress.history.lines
        # Forced to the disk, unlike appended lines. What fails here is repeated below.
        self._write_metrics(lambda: self._metrics.rewrite(lines))
        self._writer.flush()
        if self._writer.saved != progress.position.batch:
            self.save(progress)
        self._writer.finish()
        self._metrics.flush()
        if self._writer.saved != progress.position.batch:  # `save` refused to: θ is not finite
            raise DivergedError(diverged_message(self._config.learning_rate or 0.0))
        self.saves, self.checkpoint_wait_s = self._writer.saves, self._writer.wait_s

    def save(self, progress: Progress, may_defer: bool = False) -> None:
        # A checkpoint with a NaN would be useless, and the next step is going to report it.
        if not np.isfinite(self._network.theta).all():
            return
        is_new_best = progress.position.step == 0 and progress.history.is_best
        is_late = may_defer and not self._schedule.may_write()
        write = self._writer.defer if is_late else self._writer.save
        write(self._builder.build(progress, copies_history=False), is_new_best)

    def flush(self) -> None:
        self._writer.flush()
        self._writer.forget()

    def close(self) -> None:
        try:
            self._write_metrics(self._metrics.flush)
            self.flush()
        finally:
            self._status.end(_exception_in_flight(self._outer_exception))
            self._lock.release()
            self._bar.close()

    def info(self, text: str) -> None:
        if not self._config.quiet:
            logger.info("%s", text)

    def warn(self, text: str) -> None:
        self._status.note_warning(text)
        logger.warning("%s", text)
        self.record("warning", text=text)

    def record(self, event: str, **values: Any) -> None:
        self._log.add(event, **values)


def _exception_in_flight(outer: BaseException | None) -> BaseException | None:
    """Return what ends a run whose `finally` is running; `outer` was being handled before it."""
    found = sys.exc_info()[1]
    return None if found is outer else found
