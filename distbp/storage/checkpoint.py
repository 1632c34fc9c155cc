"""A checkpoint: one HDF5 file with all that a run needs to continue.

It is a trained model, too: nothing else is needed to evaluate it. The layout of the file is
in the docstring of `distbp.storage`; a file that holds anything else, or whose checksum is
invalid, is refused. Where a run keeps its checkpoints is known to `run_directory`, what
`config` and `progress` mean to `distbp.training`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distbp import own_parts
from distbp.errors import CheckpointError, ConfigError
from distbp.network.activations import find_activation
from distbp.network.costs import RegressionCost, find_cost
from distbp.network.network import Network, check_network_arguments
from distbp.network.optimizers import find_optimizer
from distbp.network.parameters import digest, theta_size
from distbp.storage import hdf5_checks, hdf5_chunks, hdf5_file
from distbp.storage.preprocessing import Preprocessing, read_preprocessing
from distbp.storage.scaling import TARGET_NAMES, Scaling, TargetScaling

CHECKPOINT_FORMAT = "distbp-checkpoint"
CHECKPOINT_VERSION = 4  # the newest; see `_version_of`
_MAX_LAYERS = 10_000  # a layer takes memory beside its numbers


@dataclass
class Checkpoint:
    """What a checkpoint file holds.

    Attributes
    ----------
    network : Network
        The model: with `config.ema`, that of the averaged parameters.
    state : dict of (P,) arrays
        State of the optimizer, by name.
    scaling : Scaling
    about : dict
        network, task, classes, data (its identity), config, progress, machine and versions;
        preprocessing, if it was trained on a table.
    history : sequence of str
        The lines of metrics.jsonl.
    target : TargetScaling, optional
        Of a regression that was trained on standardized targets.
    averaged_from : (P,) array, optional
        θ in training, if the network has an average of it.
    """

    network: Network
    state: dict[str, np.ndarray]
    scaling: Scaling
    about: dict[str, Any]
    history: Sequence[str] = ()
    target: TargetScaling | None = None
    averaged_from: np.ndarray | None = None

    @property
    def theta(self) -> np.ndarray:
        """θ in training, (P,): that of the network, unless this has an average of it."""
        return self.network.theta if self.averaged_from is None else self.averaged_from

    @property
    def digest(self) -> str:
        """The digest of θ in training, which a run prints."""
        return digest(self.theta)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How rows of a table become the network's input; None if it takes rows of numbers."""
        return read_preprocessing(self.about, self.network.sizes[0])


def describe_network(network: Network) -> dict[str, Any]:
    """Return the arguments of `Network` that give one of the same shape and kind."""
    return {
        "sizes": list(network.sizes),
        "activation": network.activation,
        "cost": network.cost_name,
        "output": network.output,
        "dtype": network.dtype.name,
    }


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically; it is on the disk when this returns.

    Raises
    ------
    CheckpointError
        It cannot be written; an older file at `path` is unharmed.
    """
    version = _version_of(checkpoint)
    with hdf5_file.create_file(path, CHECKPOINT_FORMAT, version, CheckpointError) as file:
        hdf5_file.write_json(file, "about", checkpoint.about)
        hdf5_file.write_text(file, "history", "".join(checkpoint.history))
        checkpoint.scaling.write(file)
        if checkpoint.target is not None:
            checkpoint.target.write(file)
        for name, array in _named_arrays(
            checkpoint.network, checkpoint.state, checkpoint.averaged_from
        ):
            hdf5_file.write_array(file, name, array)


def _version_of(checkpoint: Checkpoint) -> int:
    """Return the oldest version of the format whose readers understand a checkpoint.

    Version 1 had the history in `about`; only version 3 knows scaled or transformed targets and
    multilabel, only version 4 averaged parameters.
    """
    if checkpoint.averaged_from is not None:
        return 4
    preprocessing = checkpoint.about.get("preprocessing", {})
    is_new = (
        checkpoint.target is not None
        or checkpoint.about.get("task") == "multilabel"
        or preprocessing.get("target_transform", "none") != "none"
    )
    return 3 if is_new else 2


def _named_arrays(
    network: Network, state: Mapping[str, np.ndarray], averaged_from: np.ndarray | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name in the file and array of the parameters and of the optimizer's state."""
    if averaged_from is not None:
        yield "training/theta", averaged_from
    for l, (b, w) in enumerate(zip(network.biases, network.weights, strict=True), 1):
        yield f"layers/{l}/w", w
        yield f"layers/{l}/b", b
    for name, array in state.items():
        yield f"optimizer/{name}", array


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    CheckpointError
        There is none, it is damaged, or it is not what a checkpoint has to be.
    ConfigError
        It needs a user's own part that this process may not run.
    """
    with hdf5_file.open_verified(
        path, CHECKPOINT_FORMAT, CHECKPOINT_VERSION, CheckpointError
    ) as file:
        about = _read_checkpoint_about(file)
        _find_own_parts(about)
        names, has_average = _state_names(about["config"]), bool(about["config"].get("ema"))
        n_states = len(names) + has_average
        network = _allocate_network(about["network"], n_states, file.id.get_filesize())
        state = {name: np.empty_like(network.theta) for name in names}
        averaged_from = np.empty_like(network.theta) if has_average else None
        arrays = dict(_named_arrays(network, state, averaged_from))
        # Anything else means that another program, or a newer distbp, has written the file.
        read_preprocessing(about, network.sizes[0])  # raises an error unless it is valid
        target = _read_target(file, about, network)
        hdf5_checks.check_no_other_names(
            file,
            ("about", "history", "scaling/shift", "scaling/scale", *arrays)
            + (TARGET_NAMES if target else ()),
        )
        for name, array in arrays.items():
            _read_array_into(file, name, array)
        scaling = Scaling.read(file, network.sizes[0])
        history = _read_history(file, about)
        return Checkpoint(network, state, scaling, about, history, target, averaged_from)


def read_progress_unverified(path: Path) -> dict[str, Any]:
    """Return where a run was when it wrote a checkpoint, without reading all of the file.

    Raises
    ------
    CheckpointError
        It cannot be read.
    """
    with hdf5_file.open_unverified(
        path, CHECKPOINT_FORMAT, CHECKPOINT_VERSION, CheckpointError
    ) as (file, _):
        progress: dict[str, Any] = _read_checkpoint_about(file)["progress"]
        return progress


def read_about(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return `about` and `history` of a checkpoint, without its arrays.

    Raises
    ------
    CheckpointError
        There is none, or it is damaged.
    """
    with hdf5_file.open_verified(
        path, CHECKPOINT_FORMAT, CHECKPOINT_VERSION, CheckpointError
    ) as file:
        about = _read_checkpoint_about(file)
        return about, _read_history(file, about)


def _read_target(file: h5py.File, about: dict[str, Any], network: Network) -> TargetScaling | None:
    """Return the scaling of the targets, and let the network's cost be in the user's units."""
    target = TargetScaling.read_if_any(file, network.sizes[-1])
    if target is not None:
        if about["task"] != "regression" or not isinstance(network.cost, RegressionCost):
            raise ValueError(f"it has scaled targets, but is a {about['task']}")
        network.use_target_units(target.units)
    return target


def _read_checkpoint_about(file: h5py.File) -> dict[str, Any]:
    """Return `about` after checking that its entries are there and of the right type."""
    about = hdf5_file.read_json(file, "about")
    for name, kind in (
        ("network", dict), ("task", str), ("classes", list), ("data", dict), ("config", dict),
        ("progress", dict), ("machine", dict), ("versions", dict),
    ):  # fmt: skip
        if not isinstance(about, dict) or not isinstance(about.get(name), kind):
            raise ValueError(f"'about' has no {name!r} that is a {kind.__name__}")
    return about


def _read_history(file: h5py.File, about: dict[str, Any]) -> list[str]:
    """Return the lines of `history`; version 1 has them as records in `about`."""
    if "history" not in about:
        return [f"{line}\n" for line in hdf5_file.read_text(file, "history").split("\n")[:-1]]
    records = about.pop("history")
    if not isinstance(records, list):
        raise ValueError("'about' has a 'history' that is not a list")
    return [f"{json.dumps(record)}\n" for record in records]


def _find_own_parts(about: dict[str, Any]) -> None:
    """Raise ConfigError if a user's own part is needed that this process may not run."""
    finders = (
        (about["network"].get("activation"), find_activation),
        (about["network"].get("cost"), find_cost),
        (about["config"].get("optimizer"), find_optimizer),
    )
    for name, find in finders:
        if isinstance(name, str) and own_parts.is_own(name):
            find(name)


def _state_names(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the state arrays of a run's optimizer."""
    name, threads = config.get("optimizer"), config.get("threads")
    if not isinstance(threads, int):
        raise ValueError(f"'about' has {threads!r} threads")
    try:
        return find_optimizer(str(name)).state_names
    except ConfigError as failure:
        raise ValueError(f"'about' has an unknown optimizer, {name!r}") from failure


def _allocate_network(arguments: dict[str, Any], n_states: int, file_bytes: int) -> Network:
    """Return a network of the given shape whose parameters are not initialized.

    Nothing is allocated unless the file is large enough for it and its optimizer's states.
    """
    if set(arguments) != {"sizes", "activation", "cost", "output", "dtype"}:
        raise ValueError(f"'about' describes a network by {', '.join(arguments) or 'nothing'}")
    try:
        check_network_arguments(**arguments, init="scaled", seed=0)
    except ConfigError as failure:
        raise ValueError(f"its network is invalid: {failure}") from failure
    numbers, dtype = theta_size(arguments["sizes"]), np.dtype(arguments["dtype"])
    n_layers, required = len(arguments["sizes"]), numbers * dtype.itemsize * (1 + n_states)
    if n_layers > _MAX_LAYERS or required > file_bytes:
        raise ValueError(
            f"its {file_bytes:,} bytes are too few for sizes {arguments['sizes'][:99]}"
        )
    return Network(**arguments, theta=np.empty(numbers, dtype))


def _read_array_into(file: h5py.File, name: str, out: np.ndarray) -> None:
    """Fill `out` with a dataset, which must have its shape and dtype."""
    found = hdf5_chunks.open_array(file, name)
    if found.shape != out.shape or found.dtype != out.dtype:
        raise ValueError(f"{name} is {found.dtype} {found.shape}; expected {out.dtype} {out.shape}")
    found.read_direct(out)
