"""A checkpoint: one HDF5 file with all that a run needs to go on.

    about                  uint8 JSON: network, data, config, progress, versions
    history                uint8 text: the lines of metrics.jsonl
    layers/1/w, layers/1/b …      weights (n_l, n_{l-1}) and biases (n_l,)
    optimizer/NAME         (P,): the optimizer's state, in the order of θ
    scaling/shift, scaling/scale  what the network's input is made of

It is a model too: `load` needs no other file. It holds nothing else, or it is
refused, and it is read only if all its bytes are those that were written. A
`RunDirectory` keeps a run's checkpoints: `checkpoints/step-*.h5`, the newest also as
`last.h5` and the best as `best.h5`, under names of their own, so that neither
dangles when old ones are removed. Where `last.h5` is damaged, the newest of them
that is not takes its place.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distbp.errors import CheckpointError, ConfigError
from distbp.network.network import Network, check
from distbp.network.optimizers import OPTIMIZERS
from distbp.network.parameters import theta_size
from distbp.storage import hdf5_checks, hdf5_chunks, hdf5_file
from distbp.storage.scaling import Scaling

FORMAT = "distbp-checkpoint"
VERSION = 2  # the first had the records in `about`
MOST_LAYERS = 10_000  # each costs memory beside its numbers


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
    with hdf5_file.create(path, FORMAT, VERSION, CheckpointError) as file:
        hdf5_file.write_json(file, "about", checkpoint.about)
        hdf5_file.write_text(file, "history", "".join(checkpoint.history))
        checkpoint.scaling.write(file)
        for name, array in places(checkpoint.network, checkpoint.state):
            hdf5_file.write_array(file, name, array)


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
    with hdf5_file.open_verified(path, FORMAT, VERSION, CheckpointError) as file:
        about = read_about(file)
        names = state_names(about["config"])
        network = empty_network(about["network"], len(names), file.id.get_filesize())
        state = {name: np.empty_like(network.theta) for name in names}
        arrays = dict(places(network, state))
        hdf5_checks.check_names(
            file, ("about", "history", "scaling/shift", "scaling/scale", *arrays)
        )
        for name, array in arrays.items():
            read_array(file, name, array)
        scaling = Scaling.read(file, network.sizes[0])
        return Checkpoint(network, state, scaling, about, read_history(file, about))


def read_about(file: h5py.File) -> dict[str, Any]:
    """Return `about`, once it is known to have what is asked of it."""
    about = hdf5_file.read_json(file, "about")
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
        return [f"{line}\n" for line in hdf5_file.read_text(file, "history").split("\n")[:-1]]
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
    found = hdf5_chunks.array(file, name)
    if found.shape != out.shape or found.dtype != out.dtype:
        raise ValueError(f"{name} is {found.dtype} {found.shape}; expected {out.dtype} {out.shape}")
    found.read_direct(out)
