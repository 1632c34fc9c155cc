"""A checkpoint: one HDF5 file with all that a run needs to go on.

    about                  uint8 JSON: network, data, config, progress, history, versions
    layers/1/w, layers/1/b …      weights (n_l, n_{l-1}) and biases (n_l,)
    optimizer/NAME         (P,): the optimizer's state, in the order of θ
    scaling/shift, scaling/scale  what the network's input is made of

It is a model too: `load` needs no other file. A `RunFolder` keeps a run's
checkpoints: `checkpoints/step-*.h5`, the newest also as `last.h5` and the best
as `best.h5`, under names of their own, so that neither dangles when old ones are
removed.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distbp import hdf5
from distbp.data import Scaling
from distbp.errors import CheckpointError, ConfigError
from distbp.network import Network, theta_size

FORMAT = "distbp-checkpoint"
VERSION = 1


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
        network, task, classes, data (its identity), config, progress, history,
        machine and versions.
    """

    network: Network
    state: dict[str, np.ndarray]
    scaling: Scaling
    about: dict[str, Any]


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
        checkpoint.scaling.write(file)
        network = checkpoint.network
        for l, (b, w) in enumerate(zip(network.biases, network.weights, strict=True), 1):
            hdf5.write_array(file, f"layers/{l}/w", w)
            hdf5.write_array(file, f"layers/{l}/b", b)
        for name, array in checkpoint.state.items():
            hdf5.write_array(file, f"optimizer/{name}", array)


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    CheckpointError
        There is none, or it is not what it should be.
    """
    with hdf5.opened(path, FORMAT, VERSION, CheckpointError) as file:
        about = read_about(file, path)
        network = empty_network(path, about["network"])
        for l, (b, w) in enumerate(zip(network.biases, network.weights, strict=True), 1):
            read_array(file, f"layers/{l}/w", w)
            read_array(file, f"layers/{l}/b", b)
        state = {name: np.empty_like(network.theta) for name in file.get("optimizer", ())}
        for name, array in state.items():
            read_array(file, f"optimizer/{name}", array)
        return Checkpoint(network, state, Scaling.read(file), about)


def read_about(file: h5py.File, path: Path) -> dict[str, Any]:
    """Return `about`, once it is known to have what is asked of it."""
    about = hdf5.read_json(file, "about")
    for name, kind in (
        ("network", dict), ("task", str), ("classes", list), ("data", dict), ("config", dict),
        ("progress", dict), ("history", list), ("machine", dict), ("versions", dict),
    ):  # fmt: skip
        if not isinstance(about, dict) or not isinstance(about.get(name), kind):
            raise CheckpointError(f"{path}: 'about' has no {name!r}, or not as a {kind.__name__}.")
    return about


def empty_network(path: Path, arguments: dict[str, Any]) -> Network:
    """Return a network of the shape that a checkpoint says it has."""
    try:
        theta = np.empty(theta_size(arguments["sizes"]), arguments["dtype"])
        return Network(**arguments, theta=theta)
    except ConfigError as failure:
        raise CheckpointError(f"{path} describes no network: {failure}") from failure


def read_array(file: h5py.File, name: str, out: np.ndarray) -> None:
    """Fill `out` with a dataset of exactly its shape and dtype."""
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise CheckpointError(f"{file.filename}: {name!r} is not a dataset.")
    if dataset.shape != out.shape or dataset.dtype != out.dtype:
        raise CheckpointError(
            f"{file.filename}: {name!r} is {dataset.dtype} {dataset.shape}; "
            f"expected {out.dtype} {out.shape}."
        )
    if out.size:
        dataset.read_direct(out)


def find(model: str | Path) -> Path:
    """Return the checkpoint file that `model`, a file or a run's directory, stands for."""
    path = Path(model)
    if not path.is_dir():
        return path
    if not (path / "last.h5").exists():
        raise CheckpointError(f"{path} has no checkpoint: there is no last.h5 in it.")
    return path / "last.h5"


def load(model: str | Path) -> Network:
    """Return the network in a checkpoint file, or the last one of a run's directory.

    Its input has to be scaled as the checkpoint's `scaling` says: (x - shift) * scale.
    """
    return read(find(model)).network


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
        if (self.path / "last.h5").exists():
            raise CheckpointError(
                f"{self.path} holds a run already. Go on with it by --resume {self.path}, "
                f"or choose another --out."
            )
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as failure:
            raise CheckpointError(
                f"{self.path} cannot be made: {hdf5.reason(failure)}."
            ) from failure

    def clean(self) -> None:
        """Remove what a killed process has left unfinished."""
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
        for old in sorted(self.checkpoints.glob("step-*.h5"))[: -self.keep]:
            old.unlink(missing_ok=True)

    def save_best(self, checkpoint: Checkpoint) -> None:
        """Write `best.h5` alone, when no checkpoint is due."""
        write(self.path / "best.h5", checkpoint)

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
