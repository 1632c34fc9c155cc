"""From the state of a run to checkpoint files.

A `CheckpointBuilder`, on every rank, puts together what a checkpoint holds: it is also how the
state passes to the surviving ranks after a rank failure. A `CheckpointWriter`, on rank 0, copies
it and writes it in a background thread while training continues. A write that fails is logged
and repeated when the next checkpoint is due, at the end of the run at once; only the last attempt
has to succeed.

By default, one is due after each epoch, but written at most once a second: where epochs are
short, the others are deferred, as copies in memory. So while the run trains, last.h5 and best.h5
are up to that second, and the time of a write, behind. What is deferred is written at the end of
the run, when it stops by a signal, a time limit or an error, and before it is rolled back: then
they are as if each epoch had been written. A process that is killed leaves the files as they are.
A better best.h5 is written before a later last.h5, unless that write fails: so the run that resumes
from there reaches that best epoch, and all epochs since, again.
"""

import logging
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

from distbp.data.dataset import DataSet
from distbp.errors import CheckpointError, FencedError
from distbp.network.network import Network
from distbp.network.parameter_store import AVERAGE
from distbp.network.update import Update
from distbp.parallel import host, mpi
from distbp.storage.background_writer import BackgroundWriter, DeferredCheckpoints
from distbp.storage.checkpoint import Checkpoint, describe_network
from distbp.storage.lock import RunLock
from distbp.storage.run_directory import RunDirectory
from distbp.training.checkpoint_schedule import CheckpointSchedule
from distbp.training.config import Config
from distbp.training.messages import retry_message
from distbp.training.state import Lines, Progress

logger = logging.getLogger(__name__)


class CheckpointBuilder:
    """Puts together the checkpoints of a run.

    Parameters
    ----------
    config, data, network, update : parts of the run
    sources : dict of str, optional
        SHA-256 of the source of each of the user's own parts, by its name.
    """

    def __init__(
        self,
        config: Config,
        data: DataSet,
        network: Network,
        update: Update,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        self._config, self._data, self._sources = config, data, dict(sources or {})
        self._network, self._update = network, update

    @cached_property
    def _about(self) -> dict[str, Any]:
        """What does not change during a run."""
        about = {
            "network": describe_network(self._network),
            "task": self._data.task,
            "classes": self._data.classes,
            "shape": self._data.about["shape"],
            "data": self._data.identity,
            "config": self._config.to_dict(),
            "machine": host.numeric_platform() | {"threads": self._config.threads},
            "versions": host.software_versions() | {"mpi": mpi.running_version()},
        }
        if self._data.preprocessing is not None:
            about["preprocessing"] = self._data.about["preprocessing"]
        if "label_type" in self._data.about:  # of arrays
            about["label_type"] = self._data.about["label_type"]
        if self._sources:
            about["own_parts"] = self._sources
        return about

    def build(self, progress: Progress, copies_history: bool = True) -> Checkpoint:
        """Return the run's current state; the arrays are the run's own, not copies."""
        lines = progress.history.lines
        store = self._update.store
        state = store.state
        is_averaged = state.pop(AVERAGE, None) is not None
        return Checkpoint(
            network=store.averaged,
            state=state,
            scaling=self._data.scaling,
            about=self._about | {"progress": progress.to_dict()},
            history=list(lines) if copies_history else Lines(lines),  # those of the run grow
            target=self._data.target,
            averaged_from=self._network.theta if is_averaged else None,
        )


class CheckpointWriter:
    """Writes checkpoints to the run's directory, one at a time.

    Parameters
    ----------
    directory : RunDirectory
    lock : RunLock
    schedule : CheckpointSchedule

    Attributes
    ----------
    saved : (epoch, step), optional
        Position of the last checkpoint that was written, or is being written.
    saves : int
        Checkpoints so far.
    wait_s : float
        Seconds for which training waited for them.
    """

    def __init__(
        self, directory: RunDirectory, lock: RunLock, schedule: CheckpointSchedule
    ) -> None:
        self._directory, self._lock, self._schedule = directory, lock, schedule
        self._background, self._deferred = BackgroundWriter(), DeferredCheckpoints()
        self._is_best_under_way = False
        self.saved: tuple[int, int] | None = None
        self.saves, self.wait_s = 0, 0.0

    def save(self, checkpoint: Checkpoint, is_new_best: bool) -> None:
        """Start to write a checkpoint, as last.h5 and, if it is the best so far, as best.h5."""
        # First: a run that resumes from this checkpoint does not reach the deferred one again.
        if self._deferred.best is not None and not is_new_best:
            self._write_best(self._deferred.best)
        self._write_last(checkpoint, is_new_best)

    def defer(self, checkpoint: Checkpoint, is_new_best: bool) -> None:
        """Keep a checkpoint until `save` gets a newer one, or `flush` writes it."""
        self._deferred.put(checkpoint, is_last=True, is_best=is_new_best)

    def save_best(self, checkpoint: Checkpoint) -> None:
        """Start to write best.h5, or defer it if the one before was written just now."""
        if self._schedule.may_write_best():
            self._write_best(checkpoint)
        else:
            self._deferred.put(checkpoint, is_last=False, is_best=True)

    def write_due_best(self) -> None:
        """Start to write a best.h5 that was deferred, if it was long enough."""
        best = self._deferred.best
        if best is not None and self._schedule.may_write_best():
            self._write_best(best)

    def flush(self) -> None:
        """Write everything that is deferred or under way; log a failure."""
        self._wait_and_log()
        last, best = self._deferred.last, self._deferred.best
        if best is not None and best is not last:
            self._write_best(best)
        if last is not None:
            self._write_last(last, is_new_best=best is last)
        self._wait_and_log()

    def forget(self) -> None:
        """Drop what could not be written: of a run that ends, or returns to a checkpoint before it.

        A run that returns reaches it again, as the last.h5 that it returns to is older.
        """
        self._deferred.last = self._deferred.best = None

    def finish(self) -> None:
        """Wait for what is under way, after a `flush`, and repeat a best.h5 that failed in it.

        Raises
        ------
        CheckpointError
            One of them cannot be written.
        """
        self._background.wait()
        if self._deferred.best is not None:
            self._write_best(self._deferred.best)
            self._background.wait()

    def _write_best(self, checkpoint: Checkpoint) -> None:
        self._schedule.note_best()
        self._start(checkpoint, self._directory.save_best, is_best=True)

    def _write_last(self, checkpoint: Checkpoint, is_new_best: bool) -> None:
        write = partial(self._directory.save, is_best=is_new_best)
        self._start(checkpoint, write, is_new_best)
        self._deferred.last = None
        progress = checkpoint.about["progress"]
        self.saved = progress["epoch"], progress["step"]
        self._schedule.note_save()

    def _start(
        self, checkpoint: Checkpoint, write: Callable[[Checkpoint], None], is_best: bool
    ) -> None:
        """Let the thread write a copy, as soon as it has written the one before."""

        def write_unless_fenced(copy: Checkpoint) -> None:
            self._lock.check_not_fenced()
            write(copy)

        # There is one copy of θ and state: a write that takes longer than the interval makes the
        # training wait, instead of copies piling up in memory.
        began = time.perf_counter()
        self._wait_and_log()
        self._background.start(checkpoint, write_unless_fenced)
        if is_best:  # only now: the copy that is made may be of a deferred one
            self._deferred.best = None
        self._is_best_under_way = is_best
        self.saves += 1
        self.wait_s += time.perf_counter() - began

    def _wait_and_log(self) -> None:
        """Wait for the write under way and log its failure, unless it ends the run."""
        try:
            self._background.wait()
        except FencedError:
            raise
        except CheckpointError as error:
            self.saved = None  # so that `on_end` saves this position again
            failed = self._background.copy
            if self._is_best_under_way and self._deferred.best is None and failed is not None:
                self._deferred.put(failed, is_last=False, is_best=True)
            logger.warning("%s", retry_message(error))
