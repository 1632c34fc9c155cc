"""A checkpoint: one HDF5 file with all that a run needs to go on.

    about                  uint8 JSON: network, data, config, progress, versions
    history                uint8 text: the lines of metrics.jsonl
    layers/1/w, layers/1/b …      weights (n_l, n_{l-1}) and biases (n_l,)
    optimizer/NAME         (P,): the optimizer's state, in the order of θ
    scaling/shift, scaling/scale  what the network's input is made of

It is a model too: `load` needs no other file. It holds nothing else, or it is
refused, and it is read only if all its bytes are those that were written. A
`RunFolder` keeps a run's checkpoints: `checkpoints/step-*.h5`, the newest also as
`last.h5` and the best as `best.h5`, under names of their own, so that neither
dangles when old ones are removed. Where `last.h5` is damaged, the newest of them
that is not takes its place.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from distbp import gate, hdf5, packed
from distbp.data import Scaling
from distbp.display import warn
from distbp.errors import CheckpointError, ConfigError
from distbp.network import Network, check, theta_size
from distbp.optimizers import OPTIMIZERS

FORMAT = "distbp-checkpoint"
VERSION = 2  # the first had the records in `about`
MOST_LAYERS = 10_000  # each costs memory beside its numbers

T = TypeVar("T")


@dataclass
class Checkpoint:
    """What a checkpoint file holds.

    Attributes
    ----------
    network : Network
    state : dict of (P,) arrays
        The optimizer's.
    scaling : Scaling
    about : dict
        network, task, classes, data (its identity), config, progress, machine and versions.
    history : list of str
        The lines of metrics.jsonl.
    """

    network: Network
    state: dict[str, np.ndarray]
    scaling: Scaling
    about: dict[str, Any]
    history: list[str] = field(default_factory=list)


def digest(theta: np.ndarray) -> str:
    """Return the SHA-256 of θ, little-endian, as 64 hexadecimal digits."""
    little = theta.astype(theta.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(little.data).hexdigest()


def describe_network(network: Network) -> dict[str, Any]:
    """Return the arguments that make a network of this shape again."""
    return {
        "sizes": list(network.sizes),
        "activation": network.activation,
        "cost": network.cost_name,
        "output": network.output,
        "dtype": network.dtype.name,
    }


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; it is whole and on the disk when this returns.

    Raises
    ------
    CheckpointError
        It cannot be written; an older file at `path` is unharmed.
    """
    with hdf5.create(path, FORMAT, VERSION, CheckpointError) as file:
        hdf5.write_json(file, "about", checkpoint.about)
        hdf5.write_text(file, "history", "".join(checkpoint.history))
        checkpoint.scaling.write(file)
        for name, array in places(checkpoint.network, checkpoint.state):
            hdf5.write_array(file, name, array)


def places(network: Network, state: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name in the file and the array of everything that is as large as θ."""
    for l, (b, w) in enumerate(zip(network.biases, network.weights, strict=True), 1):
        yield f"layers/{l}/w", w
        yield f"layers/{l}/b", b
    for name, array in state.items():
        yield f"optimizer/{name}", array


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    CheckpointError
        There is none, it is damaged, or it is not what it should be.
    """
    with hdf5.sealed(path, FORMAT, VERSION, CheckpointError) as file:
        about = read_about(file)
        names = state_names(about["config"])
        network = empty_network(about["network"], len(names), file.id.get_filesize())
        state = {name: np.empty_like(network.theta) for name in names}
        arrays = dict(places(network, state))
        gate.check_names(file, ("about", "history", "scaling/shift", "scaling/scale", *arrays))
        for name, array in arrays.items():
            read_array(file, name, array)
        scaling = Scaling.read(file, network.sizes[0])
        return Checkpoint(network, state, scaling, about, read_history(file, about))


def read_about(file: h5py.File) -> dict[str, Any]:
    """Return `about`, once it is known to have what is asked of it."""
    about = hdf5.read_json(file, "about")
    for name, kind in (
        ("network", dict), ("task", str), ("classes", list), ("data", dict), ("config", dict),
        ("progress", dict), ("machine", dict), ("versions", dict),
    ):  # fmt: skip
        if not isinstance(about, dict) or not isinstance(about.get(name), kind):
            raise ValueError(f"'about' has no {name!r}, or not as a {kind.__name__}")
    return about


def read_history(file: h5py.File, about: dict[str, Any]) -> list[str]:
    """Return the lines of `history`, which version 1 has in `about`."""
    if "history" not in about:
        return [f"{line}\n" for line in hdf5.read_text(file, "history").split("\n")[:-1]]
    records = about.pop("history")
    if not isinstance(records, list):
        raise ValueError("'about' has a 'history' that is not a list")
    return [f"{json.dumps(record)}\n" for record in records]


def state_names(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the arrays that a run's optimizer keeps, if it is one of distbp's."""
    name, threads = config.get("optimizer"), config.get("threads")
    if not isinstance(threads, int):
        raise ValueError(f"'about' has {threads!r} threads")
    if not isinstance(name, str) or name not in OPTIMIZERS:
        raise ValueError(f"'about' has an unknown optimizer, {name!r}")
    return OPTIMIZERS[name].state_names


def empty_network(arguments: dict[str, Any], states: int, size: int) -> Network:
    """Return a network of the shape that a file of `size` bytes says it has, with its `states`."""
    if set(arguments) != {"sizes", "activation", "cost", "output", "dtype"}:
        raise ValueError(f"'about' describes a network by {', '.join(arguments) or 'nothing'}")
    try:
        check(**arguments, init="scaled", seed=0)
    except ConfigError as failure:
        raise ValueError(f"it describes no network: {failure}") from failure
    numbers, dtype = theta_size(arguments["sizes"]), np.dtype(arguments["dtype"])
    if len(arguments["sizes"]) > MOST_LAYERS or numbers * dtype.itemsize * (1 + states) > size:
        raise ValueError(f"its {size:,} bytes are too few for sizes {arguments['sizes'][:99]}")
    return Network(**arguments, theta=np.empty(numbers, dtype))


def read_array(file: h5py.File, name: str, out: np.ndarray) -> None:
    """Fill `out` with a dataset of exactly its shape and dtype."""
    found = packed.array(file, name)
    if found.shape != out.shape or found.dtype != out.dtype:
        raise ValueError(f"{name} is {found.dtype} {found.shape}; expected {out.dtype} {out.shape}")
    found.read_direct(out)


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
        hdf5.check_seal(path, FORMAT, CheckpointError)
        return path

    path = Path(model)
    return first_good(path, verified) if is_folder(path) else (path, [])


def read_newest(model: str | Path) -> tuple[Checkpoint, list[str]]:
    """Read a checkpoint file, or of a run's directory the newest that is whole; see `newest`."""
    path = Path(model)
    return first_good(path, read) if is_folder(path) else (read(path), [])


def first_good(folder: Path, look: Callable[[Path], T]) -> tuple[T, list[str]]:
    """Return what `look` makes of a run's newest checkpoint that it does not refuse."""
    troubles: list[str] = []
    for path in generations(folder):
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


def generations(folder: Path) -> list[Path]:
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
        warn(text)
    return checkpoint.network


@contextmanager
def system_fails(what: str) -> Iterator[None]:
    """Turn what the system refuses into a CheckpointError: `what`, and why."""
    try:
        yield
    except OSError as failure:
        raise CheckpointError(f"{what}: {hdf5.reason(failure)}.") from failure


class RunFolder:
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
        if generations(self.path):
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
            with hdf5.atomic(self.path / name, CheckpointError) as temporary:
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
        with hdf5.atomic(self.path / name, CheckpointError) as temporary:
            temporary.write_text(text, encoding="utf-8")


def link(path: Path, name: Path) -> None:
    """Give a file a second name, or a copy where the file system has no links."""
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)
