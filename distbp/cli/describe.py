"""The output of `distbp info`: what a data set, a checkpoint or a run contains."""

import json
from pathlib import Path
from typing import Any

from distbp.data import dataset
from distbp.data.dataset import SPLIT_NAMES, DataSet
from distbp.errors import CheckpointError, DataError
from distbp.storage import atomic, checkpoint, checksum, hdf5_checks, hdf5_file, run_directory
from distbp.storage.preprocessing import Preprocessing
from distbp.storage.scaling import TargetScaling
from distbp.terminal import printable
from distbp.training.messages import format_cost

_Row = tuple[str, Any]
# A table may have thousands of columns, or of categories in one.
_SHOWN_FEATURES, _SHOWN_CATEGORIES = 40, 8


def describe(path: Path) -> str:
    """Return a description of a file, or of the newest valid checkpoint of a run.

    Raises
    ------
    DistbpError
        It is not a file of distbp, or is damaged.
    """
    path, problems = run_directory.find_newest_checkpoint(path)
    if _format_of(path) == checkpoint.CHECKPOINT_FORMAT:
        kind, found = checkpoint.CHECKPOINT_FORMAT, checkpoint.read_checkpoint(path)
        # A valid checksum does not mean that distbp wrote the file: anybody can compute it.
        with hdf5_file.wrap_read_errors(path, kind, CheckpointError):
            rows = [*_checkpoint_rows(found), *(("damaged", text) for text in problems)]
    else:
        kind, rows = dataset.DATA_FORMAT, _data_rows(DataSet(path))
    width = max(len(name) for name, _ in rows)
    return "\n".join([f"{path}: {kind}", *(f"  {name:{width}}  {value}" for name, value in rows)])


def _format_of(path: Path) -> str:
    """Return the format that a file's checksum header names; '' without one."""
    with (
        hdf5_file.wrap_read_errors(path, "a file of distbp", DataError),
        hdf5_checks.open_regular_file(path) as raw,
    ):
        header = checksum.read_checksum_header(raw)
        return "" if header is None else header.kind


def _checksum_state(path: Path) -> str:
    """Return 'ok' if the file's bytes match its checksum, otherwise what is wrong."""
    try:
        with hdf5_checks.open_regular_file(path) as raw:
            checksum.verify_content(raw)
    except (OSError, ValueError) as error:
        return atomic.failure_reason(error)
    return "ok (SHA-256 of all bytes)"


def _data_rows(found: DataSet) -> list[_Row]:
    about = found.about
    rows: list[_Row] = [("task", found.task)]
    if found.classes:
        noun = "classes" if found.n_classes else "labels"
        rows.append((f"{len(found.classes)} {noun}", ", ".join(map(printable, found.classes))))
    for name, split in found.splits.items():
        shape = "×".join(map(str, about["shape"]))
        rows.append((name, f"{len(split):,} rows of {shape} {split.x_dtype}"))
    rows += _weight_rows(found)
    rows += [("split", about["split"]), ("scaling", about["scaling"])]
    rows += _target_rows(found.target) + _preprocessing_rows(found.preprocessing)
    files = about["source"].get("files")
    source = ", ".join(map(str, files)) if isinstance(files, list) else "not recorded"
    rows += [("source", source), ("digest", about["digest"])]
    rows.append(("checksum", _checksum_state(found.path)))
    return rows


def _weight_rows(found: DataSet) -> list[_Row]:
    """Return what weights the training rows have."""
    weights = found.splits["train"].weights if "train" in found.splits else None
    if weights is None:
        return []
    return [("weights", f"of the training rows, from {weights.min():g} to {weights.max():g}")]


def _target_rows(target: TargetScaling | None) -> list[_Row]:
    """Return how the targets of a regression are scaled."""
    if target is None:
        return []
    numbers = [
        f"mean {m:g}, deviation {s:g}" for m, s in zip(target.shift, target.units, strict=True)
    ]
    return [("targets", f"standardized: {'; '.join(numbers[:5])}{'; …' * (len(numbers) > 5)}")]


def _preprocessing_rows(found: Preprocessing | None) -> list[_Row]:
    """Return what columns of a table the inputs are made of."""
    if found is None:
        return []
    rows: list[_Row] = []
    for feature in found.features[:_SHOWN_FEATURES]:
        text = "number"
        if feature.categories is not None:
            shown = ", ".join(map(printable, feature.categories[:_SHOWN_CATEGORIES]))
            rest = len(feature.categories) - _SHOWN_CATEGORIES
            text = f"one of {shown}" + f", and {rest:,} more" * (rest > 0)
        if feature.fill is not None:
            number = isinstance(feature.fill, float)
            text += f"; if missing {format(feature.fill, 'g') if number else feature.fill}"
        rows.append(
            (
                "column",
                f"{printable(feature.name)}: {text}{'; an input says so' * feature.has_indicator}",
            )
        )
    if len(found.features) > _SHOWN_FEATURES:
        rows.append(("column", f"… and {len(found.features) - _SHOWN_FEATURES:,} more"))
    rows.append(("label", ", ".join(map(printable, found.labels))))
    if found.target_transform != "none":
        rows.append(("transform", f"{found.target_transform} of the targets"))
    return rows


def _origin_rows(about: dict[str, Any]) -> list[_Row]:
    """Return what a model was trained on, or the file of another program that it comes from."""
    if "imported" in about:
        imported = about["imported"]
        return [("imported", f"{printable(imported['file'])} ({imported['format']})")]
    config = about["config"]
    return [
        ("trained on", config["data"] or "arrays"),
        ("optimizer", f"{config['optimizer']}, learning rate {config['learning_rate']:g}"),
        ("batch", f"{config['batch_size']} rows in {config['shards']} shards"),
    ]


def _average_rows(found: checkpoint.Checkpoint) -> list[_Row]:
    """Return what the model is, if that is not θ in training, whose digest is shown."""
    if found.averaged_from is None:
        return []
    return [
        ("model", f"exponential moving average of the weights, β {found.about['config']['ema']:g}")
    ]


def _checkpoint_rows(found: checkpoint.Checkpoint) -> list[_Row]:
    about, network = found.about, found.network
    config, progress = about["config"], about["progress"]
    rows: list[_Row] = [
        ("network", "-".join(map(str, network.sizes))),
        ("layers", f"{network.activation} … {network.output}, {network.cost_name}"),
        ("parameters", f"{network.theta.size:,} {network.dtype}"),
        ("digest", found.digest),
        (
            "position",
            f"{progress['epoch']} epochs, {progress['step']} steps, {progress['steps']} in all",
        ),
        *_origin_rows(about),
        *_target_rows(found.target),
        *_preprocessing_rows(found.preprocessing),
        *_average_rows(found),
        ("kernels", config.get("kernels", "not recorded")),
        ("machine", ", ".join(f"{key} {value}" for key, value in about["machine"].items())),
        ("versions", ", ".join(f"{key} {value}" for key, value in about["versions"].items())),
    ]
    if found.history:
        last = json.loads(found.history[-1])
        splits = tuple(f"{name}_" for name in SPLIT_NAMES)
        scores = {k: v for k, v in last.items() if k.startswith(splits) and type(v) is float}
        rows.append(("last epoch", ", ".join(f"{k} {format_cost(v)}" for k, v in scores.items())))
    return rows
