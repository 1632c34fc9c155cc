"""What a run, or a single checkpoint, has recorded: options, versions, epochs and checkpoints.

Read from the files of a run that may still be going, may be of an older version, or may have no
checkpoint yet. Nothing is written, and no lock is taken.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distbp.errors import CheckpointError, ConfigError
from distbp.storage.checkpoint import read_about
from distbp.training.config import Config
from distbp.training.config_file import read_toml
from distbp.training.run_records import read_epochs
from distbp.training.state import EpochRecord

Place = tuple[int, int]  # completed epochs, and steps of the epoch after them


@dataclass(frozen=True)
class RecordedRun:
    """What is known of a run.

    Attributes
    ----------
    name : str
        As the user calls it.
    config : Config or None
        None for a model of another program.
    about : dict
        Of its newest checkpoint; empty without one.
    records : dict of EpochRecord
        By epoch, counted from 1.
    checkpoints : dict of Path
        By the place in the run that they are of.
    problems : list of str
        What is wrong with files that cannot be read.
    """

    name: str
    config: Config | None
    about: dict[str, Any]
    records: dict[int, EpochRecord]
    checkpoints: dict[Place, Path]
    problems: list[str] = field(default_factory=list)

    @property
    def place(self) -> Place | None:
        """The place of the newest checkpoint; None without one."""
        return place_of(self.about) if self.about else None

    @property
    def sizes(self) -> list[int] | None:
        """The sizes of the layers; None without a checkpoint."""
        return list(self.about["network"]["sizes"]) if self.about else None


def place_of(about: Mapping[str, Any]) -> Place:
    """Return the place in its run that a checkpoint is of.

    Raises
    ------
    CheckpointError
        It holds none.
    """
    place = about["progress"].get("epoch"), about["progress"].get("step")
    if not all(type(one) is int for one in place):
        raise CheckpointError("The checkpoint holds no valid position of a run.")
    return place


def read_run(path: Path) -> RecordedRun:
    """Read what the directory of a run, or a checkpoint, has recorded.

    Raises
    ------
    CheckpointError
        It is neither, or cannot be read.
    ConfigError
        Its configuration is not valid.
    """
    if not path.is_dir():
        about, lines = read_about(path)
        return RecordedRun(
            str(path), _config_of(about, path), about, _by_epoch(_parsed(lines, path)),
            {place_of(about): path},
        )  # fmt: skip
    found: dict[Place, Path] = {}
    newest: dict[str, Any] = {}
    history: list[str] = []
    problems: list[str] = []
    for file in _checkpoint_files(path):
        try:
            about, lines = read_about(file)
            found.setdefault(place_of(about), file)
        except CheckpointError as error:
            if file.exists():  # a run that is going removes its oldest ones
                problems.append(str(error))
            continue
        if not newest:
            newest, history = about, lines
    records = read_epochs(path) or _parsed(history, path)
    config = _config_of(newest, path) if newest else _config_from_file(path)
    if config is None and not newest:
        reason = f" {problems[0]}" if problems else ""
        raise CheckpointError(f"{path} is neither a run nor a checkpoint.{reason}")
    return RecordedRun(str(path), config, newest, _by_epoch(records), found, problems)


def _checkpoint_files(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, each file once, newest first; the best one is the last."""
    # A run that is going may remove any of them meanwhile.
    by_step = sorted((folder / "checkpoints").glob("step-*.h5"), key=lambda p: (len(p.name), p))
    found: dict[tuple[int, int], Path] = {}
    for path in (folder / "last.h5", *reversed(by_step), folder / "best.h5"):
        with suppress(OSError):
            status = path.stat()  # hard links to one file have the same inode
            found.setdefault((status.st_dev, status.st_ino), path)
    return list(found.values())


def _config_of(about: Mapping[str, Any], path: Path) -> Config | None:
    return None if "imported" in about else Config.read(about["config"], str(path))


def _config_from_file(folder: Path) -> Config | None:
    """Return the configuration of a run without a checkpoint; None if it is no run."""
    path = folder / "config.toml"
    if not path.exists():
        return None
    return Config.read(read_toml(path), str(path))


def _parsed(lines: list[str], path: Path) -> list[EpochRecord]:
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise CheckpointError(f"{path}: the checkpoint's history is not valid.") from error


def _by_epoch(records: list[EpochRecord]) -> dict[int, EpochRecord]:
    try:
        return {int(record["epoch"]): record for record in records}
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError("A record of metrics.jsonl has no epoch.") from error
