"""What a file holds, in a few lines: a data set, a checkpoint, a prediction, a run."""

import json
from pathlib import Path
from typing import Any

from distbp.data import dataset
from distbp.data.dataset import DataSet
from distbp.errors import CheckpointError, DataError
from distbp.network.parameters import digest
from distbp.storage import atomic, checkpoint, checksum, hdf5_checks, hdf5_file, run_directory


def describe(path: Path) -> str:
    """Return a description of the file, or of the run's last checkpoint.

    Raises
    ------
    DistbpError
        It is none of distbp's files.
    """
    path, troubles = run_directory.find_newest_checkpoint(path)
    if kind_of(path) == checkpoint.CHECKPOINT_FORMAT:
        kind, found = checkpoint.CHECKPOINT_FORMAT, checkpoint.read_checkpoint(path)
        with hdf5_file.wrap_read_errors(
            path, kind, CheckpointError
        ):  # a valid checksum proves nothing about the author
            rows = [*checkpoint_lines(found), *(("damaged", text) for text in troubles)]
    else:
        kind, rows = dataset.DATA_FORMAT, data_lines(DataSet(path))
    width = max(len(name) for name, _ in rows)
    return "\n".join([f"{path}: {kind}", *(f"  {name:{width}}  {value}" for name, value in rows)])


def kind_of(path: Path) -> str:
    """Return the kind of file that the checksum header names; '' if there is none."""
    with (
        hdf5_file.wrap_read_errors(path, "a file of distbp", DataError),
        hdf5_checks.open_regular_file(path) as raw,
    ):
        found = checksum.read_checksum_header(raw)
        return "" if found is None else found.kind


def checksum_state(path: Path) -> str:
    """Return whether the checksum of a file is valid; all its bytes are read."""
    try:
        with hdf5_checks.open_regular_file(path) as raw:
            checksum.verify_content(raw)
    except (OSError, ValueError) as failure:
        return atomic.failure_reason(failure)
    return "valid: all bytes are as they were written"


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
    rows.append(("checksum", checksum_state(found.path)))
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
    if found.history:
        last = json.loads(found.history[-1])
        scores = {
            k: v for k, v in last.items() if k.endswith(("cost", "accuracy")) and v is not None
        }
        rows.append(("last epoch", ", ".join(f"{k} {v:.4f}" for k, v in scores.items())))
    return rows
