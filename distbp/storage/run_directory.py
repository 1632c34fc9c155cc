"""The directory of a run."""

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
from distbp.storage.checkpoint import FORMAT, Checkpoint, read, write

T = TypeVar("T")


def find(model: str | Path) -> Path:
    """Return the checkpoint file that `model`, a file or a run's directory, stands for.

    Of a directory it is the newest that is not damaged.
    """
    return newest(model)[0]


def newest(model: str | Path) -> tuple[Path, list[str]]:
    """Return a run's newest checkpoint whose seal is right, and what is wrong with newer ones.

    The list has a sentence, fit for a warning, on each. A file is what it is: it is looked
    at when it is read.

    Raises
    ------
    CheckpointError
        There is none.
    """

    def verified(path: Path) -> Path:
        hdf5_file.verify_checksum(path, FORMAT, CheckpointError)
        return path

    path = Path(model)
    return newest_valid(path, verified) if is_folder(path) else (path, [])


def read_newest(model: str | Path) -> tuple[Checkpoint, list[str]]:
    """Read a checkpoint file, or of a run's directory the newest that is whole; see `newest`."""
    path = Path(model)
    return newest_valid(path, read) if is_folder(path) else (read(path), [])


def newest_valid(folder: Path, look: Callable[[Path], T]) -> tuple[T, list[str]]:
    """Return what `look` makes of a run's newest checkpoint that it does not refuse."""
    troubles: list[str] = []
    for path in list_checkpoints(folder):
        try:
            found = look(path)
        except CheckpointError as error:
            troubles.append(str(error))
            continue
        if troubles:
            troubles[-1] += f" {path} is used instead."
        return found, troubles
    if troubles:
        raise CheckpointError(f"{folder} has no checkpoint that is whole. {' '.join(troubles)}")
    raise CheckpointError(f"{folder} has no checkpoint: there is no last.h5 in it.")


def list_checkpoints(folder: Path) -> list[Path]:
    """Return a run's checkpoints, the newest first, each of them once."""
    with system_fails(f"{folder} cannot be read"):
        found: dict[tuple[int, int], Path] = {}
        for path in (folder / "last.h5", *reversed(numbered(folder / "checkpoints"))):
            if path.exists():
                about = path.stat()
                found.setdefault((about.st_dev, about.st_ino), path)
        return list(found.values())


def numbered(checkpoints: Path) -> list[Path]:
    """Return the files of a run's `checkpoints`, the oldest first."""
    return sorted(checkpoints.glob("step-*.h5"), key=lambda path: (len(path.name), path.name))


def is_folder(path: Path) -> bool:
    with system_fails(f"{path} cannot be read"):
        return path.is_dir()


def load(model: str | Path) -> Network:
    """Return the network in a checkpoint file, or the last one of a run's directory.

    Its input has to be scaled as the checkpoint's `scaling` says: (x - shift) * scale.
    Where the last one is damaged the newest that is not takes its place, with a warning.
    """
    checkpoint, troubles = read_newest(model)
    for text in troubles:
        warnings.warn(text, DistbpWarning, stacklevel=2)
    return checkpoint.network


@contextmanager
def system_fails(what: str) -> Iterator[None]:
    """Turn what the system refuses into a CheckpointError: `what`, and why."""
    try:
        yield
    except OSError as failure:
        raise CheckpointError(f"{what}: {atomic.reason(failure)}.") from failure


class RunDirectory:
    """The directory of a run: checkpoints, best and last, configuration, metrics.

    Parameters
    ----------
    path : path of the directory
    keep : int
        How many of `checkpoints/` to keep.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path, self.keep = path, keep
        self.checkpoints = path / "checkpoints"

    def make(self) -> None:
        """Make the directory.

        Raises
        ------
        CheckpointError
            It cannot be made, or holds a run already.
        """
        if list_checkpoints(self.path):
            raise CheckpointError(
                f"{self.path} holds a run already. Go on with it by --resume {self.path}, "
                f"or choose another --out."
            )
        with system_fails(f"{self.path} cannot be made"):
            self.checkpoints.mkdir(parents=True, exist_ok=True)

    def clean(self) -> None:
        """Remove what a killed process has left unfinished."""
        with system_fails(f"{self.path} cannot be tidied up"):
            for folder in (self.path, self.checkpoints):
                for stray in folder.glob(".*.tmp"):
                    stray.unlink(missing_ok=True)

    def save(self, checkpoint: Checkpoint, is_best: bool) -> None:
        """Write a checkpoint and let `last.h5`, and `best.h5` if it is, be it."""
        path = self.checkpoints / f"step-{checkpoint.about['progress']['steps']:09d}.h5"
        write(path, checkpoint)
        for name in ("last.h5", "best.h5") if is_best else ("last.h5",):
            with atomic.atomic_write(self.path / name, CheckpointError) as temporary:
                link(path, temporary)
        with system_fails(f"{self.checkpoints} cannot be tidied up"):
            self._remove_old(path)

    def _remove_old(self, path: Path) -> None:
        """Keep `path` and those before it; later ones are of a past that was gone back on."""
        found = numbered(self.checkpoints)
        end = found.index(path) + 1
        for old in found[: max(end - self.keep, 0)] + found[end:]:
            old.unlink(missing_ok=True)

    def save_best(self, checkpoint: Checkpoint) -> None:
        """Write `best.h5` alone, when no checkpoint is due."""
        write(self.path / "best.h5", checkpoint)

    def add_line(self, name: str, line: str) -> bool:
        """Add a line to a text file that is there, all or nothing; return whether it has it.

        It may be lost with the machine, as it is not forced to the disk.
        """
        content = line.encode()
        try:
            with (self.path / name).open("r+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if file.write(content) == len(content):
                    return True
                file.truncate(end)  # for which there is room on a full disk, too
        except OSError:
            pass
        return False

    def write_text(self, name: str, text: str) -> None:
        """Write a text file; it is whole or absent."""
        with atomic.atomic_write(self.path / name, CheckpointError) as temporary:
            temporary.write_text(text, encoding="utf-8")


def link(path: Path, name: Path) -> None:
    """Give a file a second name, or a copy where the file system has no links."""
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)
