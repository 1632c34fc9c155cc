"""Importing: from a source to a data set in one HDF5 file.

`import_data` lets `labels` interpret the labels and `splits` divide the rows, says what is odd
about them, and lets `dataset_writer` write the file. The formats of sources are known to
`sources` alone.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from distbp.data.background_calls import BackgroundCalls
from distbp.data.dataset import DATA_FORMAT, SPLIT_NAMES, version_for
from distbp.data.dataset_writer import FileOutput, OutputSplit, write_splits
from distbp.data.labels import InferredTask, infer_task
from distbp.data.profile import class_warnings, column_warnings, target_warnings
from distbp.data.sources import COMPRESSED_SUFFIXES, SOURCE_FORMATS, SourceFormat
from distbp.data.splits import check_split_options, divide
from distbp.data.tables import (
    FILE_ERRORS,
    SCALINGS,
    TARGET_SCALINGS,
    TASKS,
    ImportOptions,
    Source,
    Table,
    TableContent,
    wrap_source_errors,
)
from distbp.data.weights import check_some_weight, check_weights
from distbp.errors import ConfigError, DataError
from distbp.options import check_option, flag
from distbp.storage import hdf5_file
from distbp.storage.preprocessing import Preprocessing

_HASH_BYTES = 1 << 20
_SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
_GENERAL_OPTIONS = {
    "scaling",
    "target_scaling",
    "test_fraction",
    "validation_fraction",
    "seed",
}  # those of every format
_DEFAULT_OPTIONS = ImportOptions()

logger = logging.getLogger(__name__)

_ProgressReport = Callable[[int, int], None]


class _ProgressMeter:
    """Adds up the bytes processed, by reading, hashing or copying, for a progress bar."""

    def __init__(self, report: _ProgressReport | None, total: int) -> None:
        self.report = report or (lambda done, total: None)
        self.total = total
        self.done = 0.0

    def advance(self, amount: float) -> None:
        self.done = min(self.done + amount, self.total)
        self.report(int(self.done), self.total)


def import_data(
    source: str | Path,
    out: str | Path,
    options: ImportOptions = _DEFAULT_OPTIONS,
    progress: _ProgressReport | None = None,
) -> dict[str, Any]:
    """Write the data set `out` from `source`, atomically.

    Parameters
    ----------
    source : path of a folder of IDX files, or of an .npz or HDF5 file, or a table
    out : path of the HDF5 file to write; an older output of distbp is replaced
    options : ImportOptions
    progress : function of (done, total), optional
        Called with the bytes processed so far.

    Returns
    -------
    dict
        `about` of the file, and `rows`: the number of rows of each split; for a table `profile`:
        lines of text that show its columns.

    Raises
    ------
    ConfigError
        Options contradict one another, or do not apply to the source.
    DataError
        The source cannot be read or is invalid, or `out` cannot be written.
    """
    source, out = Path(source), Path(out)
    form = _find_format(source)
    # All that can be refused early is, as reading a large source takes minutes.
    check_options(options, str(source), form.name, form.options)
    files = form.files(source)
    _check_output(out, files)
    size = _total_bytes(files)
    meter = _ProgressMeter(progress, size * (form.effort + 1))  # to read and copy
    origin = {
        # Names need not be UTF-8, but JSON must be.
        "files": [os.fsencode(file.name).decode("utf-8", "replace") for file in files],
    }
    scratch = (out.parent,) if form.is_table else ()

    def advance(part: float) -> None:
        meter.advance(part * form.effort)

    with _BackgroundHash(files) as hashing, ExitStack() as reading:
        found = reading.enter_context(form.read(source, options, advance, *scratch))
        splits, about = interpret(found, options, origin)
        target_scaling = choose_target_scaling(about["task"], options.target_scaling)
        row_bytes = size / sum(len(one) for one in splits)
        # Inside the block: x of an HDF5 source is read from its file while it is copied.
        transform = about.get("preprocessing", {}).get("target_transform", "none")
        version = version_for(
            about["task"], target_scaling is not None or transform != "none",
            has_weights=splits[0].weights is not None,
        )  # fmt: skip
        with (
            BackgroundCalls(reading.close) as close_source,
            hdf5_file.create_file(out, DATA_FORMAT, version, DataError) as file,
        ):
            stored, scaling, target = write_splits(
                FileOutput(file), splits, options.scaling, target_scaling,
                lambda rows: meter.advance(rows * row_bytes),
            )  # fmt: skip
            about |= stored
            scaling.write(file)
            if target is not None:
                target.write(file)
            about["source"]["sha256"] = hashing.result()
            hdf5_file.write_json(file, "about", about)
            # Removing a large temporary file takes a while, in which `file` is verified.
            close_source()
    meter.advance(meter.total)
    profile = {} if found.content is None else {"profile": found.content.profile.lines()}
    return {**about, **profile, "rows": {one.name: len(one) for one in splits}}


def _find_format(source: Path) -> SourceFormat:
    """Return the format of a source, by the suffix of its name."""
    with wrap_source_errors(source, FILE_ERRORS):
        source.stat()
    if not source.is_dir() and not source.is_file():
        raise DataError(f"{source} is neither a file nor a folder.")
    suffix = "" if source.is_dir() else source.suffix.lower()
    if suffix in COMPRESSED_SUFFIXES:
        suffix = Path(source.stem).suffix.lower()
    if suffix in _SPREADSHEETS:
        raise DataError(f"{source} is a spreadsheet. Save the sheet as .csv.")
    if suffix not in SOURCE_FORMATS or (not suffix and source.is_file()):
        suffixes = ", ".join(filter(None, SOURCE_FORMATS))
        raise DataError(
            f"{source}: expected a name that ends in {suffixes}, or a folder of IDX files. "
            "Rename the file, or name its folder."
        )
    return SOURCE_FORMATS[suffix]


def check_options(options: ImportOptions, source: str, form: str, allowed: Collection[str]) -> None:
    """Refuse options that contradict one another, or do not apply to the source.

    Parameters
    ----------
    options : ImportOptions
    source, form : str
        Its name and its kind, for messages.
    allowed : names of options
        That it takes besides those of every source.
    """
    for field in fields(options):
        name, value = field.name, getattr(options, field.name)
        if value is not None and name not in _GENERAL_OPTIONS.union(allowed):
            given = "no-header" if value is False else name.replace("_", "-")
            raise ConfigError(f"`--{given}` does not apply to {form}: {source}. Leave it out.")
    if options.scaling not in SCALINGS:
        raise ConfigError(f"`--scaling {options.scaling}`: expected one of {', '.join(SCALINGS)}.")
    if options.target_scaling not in TARGET_SCALINGS:
        raise ConfigError(
            f"`--target-scaling {options.target_scaling}`: expected one of "
            f"{', '.join(TARGET_SCALINGS)}."
        )
    if options.task not in (None, *TASKS):
        raise ConfigError(f"`--task {options.task}`: expected one of {', '.join(TASKS)}.")
    for name in ("missing", "target_transform", "max_categories"):
        metadata = next(one.metadata for one in fields(options) if one.name == name)
        check_option(flag(name), getattr(options, name), metadata)
    if options.missing_indicator and options.missing not in ("mean", "median"):
        raise ConfigError(
            "`--missing-indicator` is for `--missing mean` or `--missing median`. Give one of them."
        )
    check_split_options(options)


def _check_output(out: Path, files: list[Path]) -> None:
    """Refuse a path that cannot be written to, or is the source itself."""
    if not os.path.isdir(out.parent):
        raise DataError(
            f"{out} cannot be written: there is no folder {out.parent}. Create it first."
        )
    # For the effective user, who will write the file.
    if not os.access(out.parent, os.W_OK, effective_ids=True):
        raise DataError(f"{out} cannot be written: Permission denied.")
    if os.path.isdir(out):
        raise DataError(f"{out} is a folder; expected the name of a file to write.")
    if os.path.exists(out) and any(out.samefile(file) for file in files):
        raise ConfigError(f"{out} is the source itself. Give the output another name.")
    hdf5_file.check_replaceable(out, DATA_FORMAT)


def _total_bytes(files: list[Path]) -> int:
    """Return the size of the files together; DataError if one cannot be opened."""
    total = 0
    for path in files:
        with wrap_source_errors(path, FILE_ERRORS), path.open("rb") as file:
            total += os.fstat(file.fileno()).st_size
    return total


class _BackgroundHash:
    """Computes the SHA-256 of files in a thread, while they are read; a context manager."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._pool = ThreadPoolExecutor(1)
        self._is_over = threading.Event()

    def __enter__(self) -> Self:
        self._hash = self._pool.submit(self._run)
        return self

    def __exit__(self, *failure: object) -> None:
        self._is_over.set()  # nobody waits for the rest of a large file that cannot be imported
        self._pool.shutdown()

    def result(self) -> str:
        """Return the hash of the files' bytes, one after the other, in hex."""
        return self._hash.result()

    def _run(self) -> str:
        digest = hashlib.sha256()
        for path in self._files:
            with wrap_source_errors(path, FILE_ERRORS), path.open("rb") as file:
                while not self._is_over.is_set() and (block := file.read(_HASH_BYTES)):
                    digest.update(block)
        return digest.hexdigest()


def _check_rows(found: Source) -> None:
    """Raise DataError unless all splits have rows of x and y, of the same shape and type."""
    first = found.splits["train"][0]
    for x, y in found.splits.values():
        for table, kinds in ((x, "iuf"), (y, "iufbUS")):
            if not len(table) or 0 in table.shape:
                raise DataError(f"{table.name} is empty; expected at least one row.")
            # Long doubles have padding bytes of any value, which would change the digest.
            if table.dtype.kind not in kinds or table.dtype.str[1:] == "f16":
                raise DataError(f"{table.name} is of type {table.dtype}; expected plain numbers.")
        if len(x) != len(y):
            raise DataError(f"{x.name} has {len(x)} rows, but {y.name} has {len(y)}.")
        if (x.shape, x.dtype) != (first.shape, first.dtype):
            raise DataError(
                f"{x.name} has rows of {x.dtype} {x.shape}, but {first.name} of {first.dtype} "
                f"{first.shape}; expected the same in every split."
            )
        if len(y.shape) > 1:
            raise DataError(f"{y.name} has rows of shape {y.shape}; expected one label per row.")


def interpret(
    found: Source,
    options: ImportOptions,
    origin: dict[str, Any],
    classes: Sequence[Any] | None = None,
) -> tuple[list[OutputSplit], dict[str, Any]]:
    """Return the splits to write, and what `about` says of them.

    `classes` are those of `infer_task`.
    """
    _check_rows(found)
    inferred = infer_task(found, options.task, classes)
    is_log = options.target_transform == "log"
    used = _transform_targets(found, inferred) if is_log else inferred
    splits, split = _divide(found, used, options)
    # Before the logarithm, as columns are compared with the labels.
    _warn(found, inferred, splits, is_log)
    about: dict[str, Any] = {
        "task": inferred.task, "classes": inferred.classes, "source": origin, "split": split,
    }  # fmt: skip
    if found.content is not None:
        splits, preprocessing = _encode(found.content, splits)
        about |= {
            "columns": preprocessing.input_names, "preprocessing": preprocessing.to_json(),
        }  # fmt: skip
    if found.weights is not None:
        splits[0] = replace(splits[0], weights=_read_weights(found.weights, splits[0]))
    return splits, about


def _read_weights(found: Table, train: OutputSplit) -> np.ndarray:
    """Return the weights of the rows of train: (n,) float64.

    Raises
    ------
    DataError
        There is not one valid number for each row.
    """
    if found.values.shape != (len(train.x),) or found.dtype.kind not in "iuf":
        raise DataError(
            f"{found.name} is {found.dtype} {found.values.shape}; expected a number for each of "
            f"the {len(train.x)} rows of train."
        )
    weights = np.asarray(found.values, np.float64)
    check_weights(weights, found.name, found.locate)
    kept = weights if train.keep is None else weights[train.keep]
    check_some_weight(kept, found.name)
    return kept


def _divide(
    found: Source, inferred: InferredTask, options: ImportOptions
) -> tuple[list[OutputSplit], str]:
    """Return the splits to write, and a description of where they come from."""
    splits = [
        OutputSplit(name, found.splits[name][0], inferred.y[name])
        for name in SPLIT_NAMES
        if name in found.splits
    ]
    for name in ("test", "validation"):
        fraction = getattr(options, f"{name}_fraction")
        if fraction is not None and name in found.splits:
            raise ConfigError(
                f"`--{name}-fraction {fraction}`: the source has a {name} set already. "
                "Leave it out."
            )
    train, keys = splits[0], found.content.keys if found.content else {}
    division = divide(train.y, inferred.task == "classification", options, keys)
    if division is None:
        return splits, "as in the source"
    by_name = {one.name: one for one in splits} | {
        name: OutputSplit(name, train.x, train.y[mask], mask)
        for name, mask in division.masks.items()
    }
    return [by_name[name] for name in SPLIT_NAMES if name in by_name], division.description


def _encode(
    content: TableContent, splits: list[OutputSplit]
) -> tuple[list[OutputSplit], Preprocessing]:
    """Return the splits of a table as the network gets them."""
    first = splits[0]
    keep = np.ones(len(first.x), bool) if first.keep is None else first.keep
    x, preprocessing = content.encode(keep)
    return [replace(one, x=x) for one in splits], preprocessing


def _transform_targets(found: Source, inferred: InferredTask) -> InferredTask:
    """Return the logarithm of the targets.

    Raises
    ------
    ConfigError, DataError
        There are no targets, or one has no logarithm.
    """
    if inferred.task != "regression":
        raise ConfigError(
            f"`--target-transform log` is for a regression; the task is {inferred.task}. "
            "Use --task regression, or leave it out."
        )
    y, table = inferred.y["train"], found.splits["train"][1]
    bad = np.argwhere(y <= 0)
    if len(bad):
        row, column = map(int, bad[0])
        raise DataError(
            f"{table.locate(row, column)}: expected a number above 0 for --target-transform log, "
            f"found {y[row, column]:g}. Correct it, or leave the option out."
        )
    return replace(inferred, y={"train": np.log(y)})


def _warn(found: Source, inferred: InferredTask, splits: list[OutputSplit], is_log: bool) -> None:
    """Log what is odd about the columns and labels."""
    train, content = splits[0].y, found.content
    texts: list[str] = []
    if content is not None:
        texts += column_warnings(content.spool, content.profile, inferred.y["train"])
    if content is not None and inferred.task == "regression" and not is_log:
        texts += target_warnings(train, content.labels)
    if inferred.task == "classification":
        texts += class_warnings(train, inferred.classes)
    for text in texts:
        logger.warning("%s", text)


def choose_target_scaling(task: str, wanted: str) -> str | None:
    """Return how targets are scaled, by `--target-scaling`; None if they are not.

    Raises
    ------
    ConfigError
        There are no targets.
    """
    if task != "regression" and wanted != "auto":
        raise ConfigError(
            f"`--target-scaling {wanted}` is for a regression; the task is {task}. Leave it out."
        )
    return "standardize" if task == "regression" and wanted != "none" else None
