"""What a file holds, in a few lines: a data set, a checkpoint, a prediction, a run."""

from pathlib import Path
from typing import Any

import h5py

from distbp import checkpoint, data, hdf5
from distbp.checkpoint import digest
from distbp.data import DataSet
from distbp.errors import DataError


def describe(path: Path) -> str:
    """Return a description of the file, or of the run's last checkpoint.

    Raises
    ------
    DistbpError
        It is none of distbp's files.
    """
    path = checkpoint.find(path)
    kind = format_of(path)
    if kind == data.FORMAT:
        rows = data_lines(DataSet(path))
    elif kind == checkpoint.FORMAT:
        rows = checkpoint_lines(checkpoint.read(path))
    else:
        raise DataError(f"{path} is neither a data set nor a checkpoint of distbp.")
    width = max(len(name) for name, _ in rows)
    return "\n".join([f"{path}: {kind}", *(f"  {name:{width}}  {value}" for name, value in rows)])


def format_of(path: Path) -> str:
    """Return what the file says it is, or ''."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            is_ours = hdf5.has_plain_attribute(file, "format", "S")
            return bytes(file.attrs["format"]).decode("ascii", "replace") if is_ours else ""
    except OSError as failure:
        raise DataError(f"{path} cannot be read: {hdf5.reason(failure)}.") from failure


def data_lines(found: DataSet) -> list[tuple[str, Any]]:
    about = found.about
    rows: list[tuple[str, Any]] = [("task", found.task)]
    if found.classes:
        rows.append((f"{len(found.classes)} classes", ", ".join(found.classes)))
    for name, split in found.splits.items():
        shape = "×".join(map(str, about["shape"]))
        rows.append((name, f"{len(split):,} rows of {shape} {split.x_dtype}"))
    rows += [("split", about["split"]), ("scaling", about["scaling"])]
    rows += [("source", ", ".join(about["source"]["files"])), ("digest", about["digest"])]
    return rows


def checkpoint_lines(found: checkpoint.Checkpoint) -> list[tuple[str, Any]]:
    about, network = found.about, found.network
    config, progress = about["config"], about["progress"]
    rows: list[tuple[str, Any]] = [
        ("network", "-".join(map(str, network.sizes))),
        ("layers", f"{network.activation} … {network.output}, {network.cost_name}"),
        ("parameters", f"{network.theta.size:,} {network.dtype}"),
        ("digest", digest(network.theta)),
        (
            "position",
            f"{progress['epoch']} epochs, {progress['step']} steps, {progress['steps']} in all",
        ),
        ("trained on", config["data"]),
        ("optimizer", f"{config['optimizer']}, learning rate {config['learning_rate']:g}"),
        ("batch", f"{config['batch_size']} rows in {config['shards']} shards"),
        ("machine", ", ".join(f"{key} {value}" for key, value in about["machine"].items())),
        ("versions", ", ".join(f"{key} {value}" for key, value in about["versions"].items())),
    ]
    if about["history"]:
        last = about["history"][-1]
        scores = {
            k: v for k, v in last.items() if k.endswith(("cost", "accuracy")) and v is not None
        }
        rows.append(("last epoch", ", ".join(f"{k} {v:.4f}" for k, v in scores.items())))
    return rows
