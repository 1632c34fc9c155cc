"""What a run leaves behind and shows: checkpoints, metrics, lines and a bar.

All the work of a `RunRecorder` is rank 0's, and none of it needs a message. Checkpoints are
written by a thread while the training goes on. A save that fails in the middle of a run
is announced and tried again when the next one is due; the last one has to succeed.
"""

import logging
import math
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from distbp.console import ProgressBar
from distbp.data.dataset import DataSet
from distbp.errors import CheckpointError, DivergedError, FencedError
from distbp.network.network import Network
from distbp.network.update import Update
from distbp.parallel import host
from distbp.storage.background_writer import BackgroundWriter
from distbp.storage.checkpoint import Checkpoint, describe_network
from distbp.storage.lock import RunLock
from distbp.storage.run_directory import RunDirectory, read_newest_checkpoint
from distbp.training.config import Config
from distbp.training.state import EpochRecord, Progress, score_of

logger = logging.getLogger(__name__)

BEST_INTERVAL_S = 1.0  # seconds: where epochs are short, to write each new best would take longest


class RunRecorder:
    """Keeps and shows a run.

    Parameters
    ----------
    config, data, network, update, progress : parts of the run, as they change
    steps : int
        Of an epoch.
    is_writer : bool
        Whether this is the rank that does it.
    """

    def __init__(
        self,
        config: Config,
        data: DataSet,
        network: Network,
        update: Update,
        progress: Progress,
        steps: int,
        is_writer: bool,
    ) -> None:
        self.config, self.data, self.network, self.update = config, data, network, update
        self.progress = progress
        self.is_writer = is_writer
        self.folder = RunDirectory(Path(config.out), config.keep)
        self._bar = ProgressBar(config.epochs, steps, is_writer and not config.quiet)
        self._every, self._unit = config.interval()
        self._saver = BackgroundWriter()
        self._lock = RunLock(self.folder.path)
        self._saved_at = time.monotonic()
        self._saved: tuple[int, int] | None = None
        self._recorded = 0  # epochs in metrics.jsonl
        self._best_at = -math.inf
        self.saves, self.checkpoint_wait_s = (
            0,
            0.0,
        )  # checkpoints, and seconds that they were waited for

    def open(self, is_new: bool, is_saved: bool = True) -> None:
        """Make the run's directory, or bring it to where the checkpoint was.

        `is_saved` says whether that is on the disk.
        """
        if not self.is_writer:
            return
        if is_new:
            self.folder.create()
        elif is_saved:
            self._saved = self._position()
        self._lock.acquire()
        try:
            if not is_new and is_saved:
                self._check_nobody_went_on()
            self.folder.remove_temporary_files()
            self.folder.write_text("config.toml", self.config.to_toml())
            self._write_metrics()
        except BaseException:
            self._lock.release()
            raise

    def _check_nobody_went_on(self) -> None:
        """Refuse to begin at an old checkpoint, if another run has ended since it was read."""
        newest, _ = read_newest_checkpoint(self.folder.path)
        if newest.about["progress"]["steps"] != self.update.steps:
            raise CheckpointError(
                f"{self.folder.path} has gone on while this run was starting. Resume it again."
            )

    def _write_metrics(self) -> None:
        """Write all epochs; on the disk when this returns."""
        self._lock.check_not_fenced()
        lines = self.progress.history.lines
        self.folder.write_text("metrics.jsonl", "".join(lines))
        self._recorded = len(lines)

    def _add_metrics(self) -> None:
        """Write the newest epoch, or all of them where that is not the next one there."""
        self._lock.check_not_fenced()
        lines = self.progress.history.lines
        is_next, self._recorded = self._recorded == len(lines) - 1, -1
        if is_next and self.folder.append_line("metrics.jsonl", lines[-1]):
            self._recorded = len(lines)
        else:
            self._write_metrics()

    def _position(self) -> tuple[int, int]:
        return self.progress.epoch, self.progress.step

    def info(self, text: str) -> None:
        """Log a line, on the rank that does it, unless the run is to be quiet."""
        if self.is_writer and not self.config.quiet:
            logger.info("%s", text)

    def warn(self, text: str) -> None:
        """Log a warning, on the rank that does it."""
        if self.is_writer:
            logger.warning("%s", text)

    def begin_epoch(self, rows: int) -> None:
        """Start the epoch's clock; `rows` of it were done before."""
        self._began, self._rows_before = time.monotonic(), rows

    def after_step(self, rows: int) -> None:
        """Show what is to be shown after a step; `rows` of the epoch are done."""
        if self.is_writer and self._bar.wants_step():
            self._bar.step(self.progress.epoch, self.progress.step, self._numbers(rows))

    def after_epoch(self) -> None:
        """Show, record and save what is due after an epoch."""
        if not self.is_writer:
            return
        record = self.progress.history.records[-1]
        self.info(self._describe(record))
        try:
            self._add_metrics()
        except FencedError:
            raise
        except CheckpointError as error:
            self._complain(error)
        if self._unit == "epoch" and self.progress.epoch % self._every == 0:
            self.save()
        else:
            self._keep_best()

    def _keep_best(self) -> None:
        """Write the best, when no checkpoint is due: at once, or held back if one just was."""
        is_best = self.progress.history.is_best and np.isfinite(self.network.theta).all()
        if time.monotonic() - self._best_at < BEST_INTERVAL_S:
            if is_best:
                self._saver.defer(self.checkpoint())
        elif is_best:
            self._saver.pop_deferred()  # was the best before
            self._write_best(self.checkpoint())
        else:
            self._write_held()

    def _write_held(self) -> None:
        """Write the best that was held back, if one is.

        Before any checkpoint: a run that goes on from that one does not come by here again.
        """
        held = self._saver.pop_deferred()
        if held:
            self._write_best(held)

    def _write_best(self, checkpoint: Checkpoint) -> None:
        self._best_at = time.monotonic()
        self._start(checkpoint, self.folder.save_best)

    def close(self) -> None:
        """Save the last state, if it is not saved yet.

        Raises
        ------
        CheckpointError
            It cannot be saved.
        DivergedError
            It is not worth it.
        """
        if not self.is_writer:
            return
        self._write_metrics()
        self._collect()
        self._write_held()
        self._saver.wait()
        if self._saved != self._position():
            self.save()
            self._saver.wait()
        if self._saved != self._position():
            raise DivergedError(
                "A parameter is not a finite number after the last step, which is not saved. Use "
                f"a lower --learning-rate (now {self.config.learning_rate:g}) or --clip-norm."
            )

    def end(self) -> None:
        """Leave nothing under way."""
        try:
            self.flush()
        finally:
            self._lock.release()
            self._bar.close()

    def flush(self) -> None:
        """Return when what was saved is on the disk."""
        if self.is_writer:
            self._write_held()
            self._collect()

    def is_due_by_steps(self) -> bool:
        """Return whether a checkpoint is due that all ranks know of."""
        return self._unit == "step" and self.update.steps % self._every == 0

    def is_due_by_time(self) -> bool:
        """Return whether a checkpoint is due that only this rank knows of."""
        return (
            self._unit == "s"
            and self.is_writer
            and time.monotonic() - self._saved_at >= self._every
        )

    def save(self) -> None:
        """Begin to save where the run is."""
        if not self.is_writer or not np.isfinite(self.network.theta).all():
            return  # of what is not finite the next step will tell
        self._write_held()
        is_new_best = self.progress.step == 0 and self.progress.history.is_best
        self._start(self.checkpoint(), lambda checkpoint: self.folder.save(checkpoint, is_new_best))
        self._saved, self._saved_at = self._position(), time.monotonic()

    def _start(self, checkpoint: Checkpoint, write: Callable[[Checkpoint], None]) -> None:
        """Let a thread write a checkpoint, once the one before is written."""

        def write_unless_fenced(checkpoint: Checkpoint) -> None:
            self._lock.check_not_fenced()
            write(checkpoint)

        began = time.perf_counter()
        self._collect()
        self._saver.start(checkpoint, write_unless_fenced)
        self.saves += 1
        self.checkpoint_wait_s += time.perf_counter() - began

    def _collect(self) -> None:
        """Wait for the save that is under way, and complain if it has failed."""
        try:
            self._saver.wait()
        except FencedError:
            raise
        except CheckpointError as error:
            self._saved = None
            self._complain(error)

    def _complain(self, error: CheckpointError) -> None:
        self.warn(f"{error} The run goes on and tries again at the next checkpoint.")

    @cached_property
    def _about(self) -> dict[str, Any]:
        """What a checkpoint says of itself that does not change in a run."""
        return {
            "network": describe_network(self.network),
            "task": self.data.task,
            "classes": self.data.classes,
            "shape": self.data.about["shape"],
            "data": self.data.identity,
            "config": self.config.to_dict(),
            "machine": host.numeric_platform() | {"threads": self.config.threads},
            "versions": host.software_versions(),
        }

    def checkpoint(self) -> Checkpoint:
        """Return where the run is, with arrays that change as it goes on."""
        return Checkpoint(
            network=self.network,
            state=self.update.state,
            scaling=self.data.scaling,
            about=self._about
            | {"progress": self.progress.position() | {"steps": self.update.steps}},
            history=list(self.progress.history.lines),  # which grow while this is written
        )

    # What a person reads.

    def _numbers(self, rows: int) -> str:
        speed = (rows - self._rows_before) / (time.monotonic() - self._began)
        rows = max(rows - self.progress.skipped, 1)
        text = f"cost {self.progress.cost / rows:.4f}"
        if self.data.classes:
            text += f" accuracy {self.progress.correct / rows:.2%}"
        return f"{text} {speed:,.0f} samples/s"

    def _describe(self, record: EpochRecord) -> str:
        name = "accuracy" if self.data.classes else "R²"
        width = len(str(self.config.epochs))
        text = f"epoch {record['epoch']:{width}d}/{self.config.epochs}"
        for split in ("train", "validation", "test"):
            cost, accuracy = record[f"{split}_cost"], record[f"{split}_accuracy"]
            if cost is not None or accuracy is not None:
                cost = score_of(cost)
                text += f" | {split} cost {cost:.4f}"
                text += "" if accuracy is None else f" {name} {_share(accuracy, name)}"
        return f"{text} | {record['seconds']:.1f} s, {record['samples_per_s']:,.0f} samples/s"


def _share(value: float, name: str) -> str:
    return f"{value:.4f}" if name == "R²" else f"{value:.2%}"
