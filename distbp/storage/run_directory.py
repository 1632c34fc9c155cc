"""The directory of a run: its checkpoints, configuration and metrics.

    config.toml, metrics.jsonl, events.jsonl, status.json, lock
    checkpoints/step-*.h5  the latest ones
    last.h5, best.h5       the latest and the best one

`last.h5` and `best.h5` are hard links (or copies), so that they stay when older checkpoints
are removed. Where `last.h5` is damaged, the newest valid file in `checkpoints/` replaces it.
What is saved, and when, is up to `distbp.training`.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from distbp.errors import CheckpointError, DistbpWarning
from distbp.network.network import Network
from distbp.storage import atomic, hdf5_file
from distbp.storage.checkpoint import (
    CHECKPOINT_FORMAT,
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)

_T = TypeVar("_T")


def find_checkpoint(model: str | Path) -> Path:
    """Return the checkpoint file of `model`, a file or a run's directory.

    See `find_newest_checkpoint`, whose warnings are left out here.
    """
    return find_newest_checkpoint(model)[0]


def find_newest_checkpoint(model: str | Path) -> tuple[Path, list[str]]:
    """Return a run's newest checkpoint with a valid checksum.

    Parameters
    ----------
    model : path of a run's directory, or of a checkpoint
        A file is returned as it is; it is verified when it is read.

    Returns
    -------
    path : Path
    warnings : list of str
        What is wrong with each newer checkpoint, and at the end which is used instead.

    Raises
    ------
    CheckpointError
        There is no valid one.
    """

    def verified(path: Path) -> Path:
        hdf5_file.verify_checksum(path, CHECKPOINT_FORMAT, CheckpointError)
        return path

    path = Path(model)
    return _newest_valid(path, verified) if _is_directory(path) else (path, [])


def read_newest_checkpoint(model: str | Path) -> tuple[Checkpoint, list[str]]:
    """Read a checkpoint file, or the newest valid one of a run's directory.

    Returns warnings, too; see `find_newest_checkpoint`.
    """
    path = Path(model)
    if _is_directory(path):
        return _newest_valid(path, read_checkpoint)
    return read_checkpoint(path), []


def _newest_valid(folder: Path, open_one: Callable[[Path], _T]) -> tuple[_T, list[str]]:
    """Return the result of `open_one` for the newest checkpoint that it accepts."""
    errors: list[str] = []
    for path in list_checkpoints(folder):
        # A damaged file must not make the run unusable as long as an older one is valid.
        try:
            found = open_one(path)
        except CheckpointError as error:
            errors.append(str(error))
            continue
        if errors:
            errors[-1] += f" {path} is used instead."
        return found, errors
    if errors:
        raise CheckpointError(f"{folder} has no valid checkpoint. {' '.join(errors)}")
    raise CheckpointError(f"{folder} has no checkpoint: there is no last.h5 in it.")


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the paths of a run's checkpoints, newest first, each file once."""
    with wrap_os_errors(f"{folder} cannot be read"):
        found: dict[tuple[int, int], Path] = {}
        for path in (folder / "last.h5", *reversed(_list_by_step(folder / "checkpoints"))):
            if path.exists():
                status = path.stat()  # hard links to one file have the same inode
                found.setdefault((status.st_dev, status.st_ino), path)
        return list(found.values())


def _list_by_step(checkpoints: Path) -> list[Path]:
    """Return the files of a run's `checkpoints`, oldest first."""
    # Names of more than 9 digits are longer, and come later.
    return sorted(checkpoints.glob("step-*.h5"), key=lambda path: (len(path.name), path.name))


def _is_directory(path: Path) -> bool:
    with wrap_os_errors(f"{path} cannot be read"):
        return path.is_dir()


def load(model: str | Path) -> Network:
    """Return the network of a checkpoint file, or of the last checkpoint of a run.

    Its input must be scaled as the checkpoint's `scaling` says: (x - shift) * scale; its output
    is scaled likewise if the checkpoint has a `target`. `distbp.predict` does both. If the
    last checkpoint is damaged, the newest valid one is loaded, with a DistbpWarning.

    Parameters
    ----------
    model : path of a checkpoint or of a run's directory

    Raises
    ------
    CheckpointError
        There is no valid checkpoint.
    """
    return load_checkpoint(model, stacklevel=2).network


def load_checkpoint(model: str | Path, stacklevel: int) -> Checkpoint:
    """Return what `read_newest_checkpoint` finds, with a DistbpWarning for each damaged one.

    `stacklevel` is that of `warnings.warn` in the function that calls this one.
    """
    checkpoint, messages = read_newest_checkpoint(model)
    for text in messages:
        warnings.warn(text, DistbpWarning, stacklevel=stacklevel + 1)
    return checkpoint


@contextmanager
def wrap_os_errors(what: str) -> Iterator[None]:
    """Raise an OSError in the block as a CheckpointError: `what`, and the reason."""
    try:
        yield
    except OSError as failure:
        raise CheckpointError(f"{what}: {atomic.failure_reason(failure)}.") from failure


class RunDirectory:
    """Writes to the directory of a run.

    Parameters
    ----------
    path : Path
    keep : int
        How many files to keep in `checkpoints/`.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path, self.keep = path, keep
        self.checkpoints = path / "checkpoints"

    def create(self) -> None:
        """Create the directory.

        Raises
        ------
        CheckpointError
            It cannot be created, or has checkpoints already.
        """
        if list_checkpoints(self.path):
            raise CheckpointError(
                f"{self.path} already contains a run. Continue it with --resume {self.path}, "
                f"or choose another --out."
            )
        with wrap_os_errors(f"{self.path} cannot be created"):
            self.checkpoints.mkdir(parents=True, exist_ok=True)

    def remove_temporary_files(self) -> None:
        """Remove the unfinished files of a killed process."""
        with wrap_os_errors(f"{self.path} cannot be cleaned up"):
            for folder in (self.path, self.checkpoints):
                for stray in folder.glob(".*.tmp"):
                    stray.unlink(missing_ok=True)

    def save(self, checkpoint: Checkpoint, is_best: bool) -> None:
        """Write a checkpoint; link it as `last.h5`, and also as `best.h5` if it is the best."""
        path = self.checkpoints / f"step-{checkpoint.about['progress']['steps']:09d}.h5"
        write_checkpoint(path, checkpoint)
        # Only now, so that a process killed in between leaves the older ones. The best one first:
        # a run that resumes from last.h5 would not reach it again.
        for name in ("best.h5", "last.h5") if is_best else ("last.h5",):
            with atomic.atomic_write(self.path / name, CheckpointError) as temporary:
                _link_or_copy(path, temporary)
        with wrap_os_errors(f"{self.checkpoints} cannot be cleaned up"):
            self._remove_old(path)

    def _remove_old(self, path: Path) -> None:
        """Keep the last files up to `path`; remove older ones and those of later steps."""
        found = _list_by_step(self.checkpoints)
        # Later steps are left over if the run was rolled back: a new history replaces them.
        end = found.index(path) + 1
        for old in found[: max(end - self.keep, 0)] + found[end:]:
            old.unlink(missing_ok=True)

    def save_best(self, checkpoint: Checkpoint) -> None:
        """Write only `best.h5`, when no regular checkpoint is due."""
        write_checkpoint(self.path / "best.h5", checkpoint)

    def append_text(self, name: str, text: str) -> bool:
        """Append lines to an existing text file, all or nothing; return whether they are there.

        They are not forced to the disk: a power failure may lose them.
        """
        content = text.encode()
        try:
            with (self.path / name).open("r+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if file.write(content) == len(content):
                    return True
                file.truncate(end)  # which works on a full disk, too
        except OSError:
            pass
        return False

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically, as UTF-8."""
        with atomic.atomic_write(self.path / name, CheckpointError) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _link_or_copy(path: Path, name: Path) -> None:
    """Make a hard link to a file, or a copy where the file system has no hard links."""
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)
