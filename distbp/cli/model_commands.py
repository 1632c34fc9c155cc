"""The verbs that use a model: `evaluate` and `predict`, on a data set or on files of new rows.

What NumPy, HDF5, MPI or pyarrow is needed for is imported by the functions, as in `commands`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from distbp.cli.parser import Parser, Verb, add_options, given_options
from distbp.cli.rank_options import RankOptions, run_on_ranks
from distbp.data.table_options import STANDARD_STREAM
from distbp.errors import ConfigError
from distbp.options import flag

_SPLITS = ("train", "validation", "test")


def declare_model(parser: Parser) -> None:
    """Declare the argument MODEL."""
    parser.group("model and data").add_argument(
        "model", metavar="MODEL", help="checkpoint, or directory of a run: its newest checkpoint"
    )


def _declare_model_and_rows(parser: Parser) -> None:
    from distbp.data.row_options import RowOptions
    from distbp.data.table_options import TableOptions

    group = parser.group("model and data")
    group.add_argument(
        "models", metavar="MODEL", nargs="+",
        help="checkpoint, or directory of a run: its newest checkpoint; several are an ensemble, "
        "as are those of a cross-validation, trial-0001 of a sweep: the mean of their outputs",
    )  # fmt: skip
    group.add_argument(
        "data", metavar="DATA",
        help="data set, written by distbp import; or a table, such as new.csv, whose columns are "
        "found by their names; - is standard input",
    )  # fmt: skip
    group.add_argument(
        "--split", choices=_SPLITS, default=argparse.SUPPRESS,
        help="part of a data set (default: test)",
    )  # fmt: skip
    for title in ("output", "new rows"):  # before the many options of tables
        parser.group(title)
    add_options(parser, RowOptions, TableOptions)


class _Rows(NamedTuple):
    """What the rows are, by `kind_of_rows`, with their RowOptions and TableOptions."""

    kind: str
    options: Any
    table_options: Any


def _rows_of(arguments: argparse.Namespace, kind: str) -> _Rows:
    """Return how the rows are read; ConfigError if an option does not apply to their kind."""
    from distbp.data.row_options import RowOptions
    from distbp.data.table_options import TableOptions

    rows, table = given_options(arguments, RowOptions), given_options(arguments, TableOptions)
    # The options that do not apply to this kind of data.
    given = {"table": ["split", "y"], "arrays": ["split", "unknown", "id", *table]}.get(
        kind, ["unknown", "id", "y", *table]
    )
    for name in given:
        if getattr(arguments, name, None) is not None:
            what = {"split": "a data set", "y": "a file of arrays"}.get(name, "a table")
            raise ConfigError(
                f"`{flag(name)}` is for {what}, which {arguments.data} is not. Leave it out."
            )
    return _Rows(kind, RowOptions(**rows), TableOptions(**table))


def _find_kind(arguments: argparse.Namespace) -> str:
    """Return what the data are; called on rank 0, whose files count."""
    from distbp.data.row_options import RowOptions
    from distbp.training.row_sources import kind_of_rows

    options = RowOptions(**given_options(arguments, RowOptions))
    return kind_of_rows(arguments.data, options)


def _declare_evaluate(parser: Parser) -> None:
    _declare_model_and_rows(parser)
    parser.group("new rows").add_argument(
        "--y", metavar="NAME",
        help="array with the labels, in an HDF5 or .npz file that is not a data set (default: y)",
    )  # fmt: skip
    parser.group("output").add_argument(
        "--json", action="store_true", help="print one JSON object (default: off)"
    )
    add_options(parser, RankOptions)


def _run_evaluate(arguments: argparse.Namespace) -> int:
    if (status := run_on_ranks(arguments)) is not None:
        return status
    from distbp.parallel import host
    from distbp.parallel.rank_errors import abort_on_error, run_on_rank_0
    from distbp.parallel.topology import connect

    comm = connect()
    with host.preserve_blas_threads(), abort_on_error(comm):
        # Rank 0 decides, as only it can see a pipe, or a file that is not on all hosts.
        kind = run_on_rank_0(comm, partial(_find_kind, arguments))
        rows = _rows_of(arguments, kind)  # checks the options before anything large is read
        evaluate = _evaluate_data_set if kind == "data set" else _evaluate_table
        found = evaluate(arguments, rows, comm)
    if comm.rank == 0:
        _print_score(arguments, kind, found)
    return 0


def _evaluate_data_set(arguments: argparse.Namespace, rows: _Rows, comm: Any) -> dict[str, Any]:
    """Return the score on a split of a data set, as JSON has it."""
    from distbp.training.ensemble import open_models_and_data
    from distbp.training.evaluation import Evaluator
    from distbp.training.model import describe_score, metrics_of

    checkpoint, data = open_models_and_data(arguments.models, arguments.data, comm)
    split = data.split(_split_of(arguments))
    evaluator = Evaluator(
        comm, checkpoint.network, split, checkpoint.scaling, data.task, checkpoint.target,
        data.preprocessing,
    )  # fmt: skip
    score = evaluator.score(metrics_of(checkpoint), has_parts=True)
    return describe_score(score, checkpoint)


def _evaluate_table(arguments: argparse.Namespace, rows: _Rows, comm: Any) -> dict[str, Any]:
    """Return the score on the rows of a table or of arrays with labels, as JSON has it."""
    from distbp.training.ensemble import open_models_for_rows
    from distbp.training.model import describe_score, metrics_of
    from distbp.training.row_sources import labelled_array_rows, table_rows
    from distbp.training.table_prediction import EvaluationTask, run_in_rounds

    checkpoint = open_models_for_rows(arguments.models, comm)
    task = EvaluationTask(checkpoint, metrics_of(checkpoint))

    with _reading_progress(arguments.data, comm.rank == 0) as advance:
        source = partial(
            table_rows, arguments.data, checkpoint, rows.table_options,
            unknown=rows.options.unknown, has_labels=True, say=_printer(to_stderr=arguments.json),
            advance=advance,
        )  # fmt: skip
        if rows.kind == "arrays":
            source = partial(
                labelled_array_rows, arguments.data, rows.options.x, arguments.y, checkpoint
            )
        run_in_rounds(comm, task, source)
    return describe_score(task.score(comm), checkpoint)


def _print_score(arguments: argparse.Namespace, kind: str, found: dict[str, Any]) -> None:
    from distbp.cli.score_table import score_lines

    is_split = kind == "data set"
    name = _split_of(arguments) if is_split else arguments.data
    if arguments.json:
        print(json.dumps({"split" if is_split else "data": name, **found}))
        return
    name = "standard input" if name == STANDARD_STREAM else name
    print("\n".join(score_lines(name, found)))


def _split_of(arguments: argparse.Namespace) -> str:
    return str(getattr(arguments, "split", "test"))


def _printer(to_stderr: bool) -> Callable[[str], None]:
    """Return a function that prints a line for the user, where it is not mixed with output."""

    def say(text: str) -> None:
        stream = sys.stderr if to_stderr else sys.stdout
        stream.write(f"{text}\n")
        stream.flush()

    return say


@contextmanager
def _reading_progress(data: str, is_shown: bool) -> Iterator[Callable[[float], None] | None]:
    """Yield a function that draws how many bytes of a file were read, or None."""
    from distbp.console import file_progress

    path = Path(data)
    # The size of a pipe is not known.
    is_file = data != STANDARD_STREAM and path.is_file()
    with file_progress("reading", is_shown=is_shown and is_file) as draw:
        if draw is None:
            yield None
            return
        total, done = path.stat().st_size, [0.0]

        def advance(count: float) -> None:
            done[0] += count
            draw(int(done[0]), total)

        yield advance


def _declare_predict(parser: Parser) -> None:
    _declare_model_and_rows(parser)
    parser.group("new rows").add_argument(
        "--id", metavar="NAME", help="column that identifies the rows (default: their numbers)"
    )
    group = parser.group("output")
    group.add_argument(
        "--out", required=True, metavar="FILE",
        help="file to write, by its name: .csv, .tsv, .parquet, .feather or .h5; - is CSV on "
        "standard output (required)",
    )  # fmt: skip
    group.add_argument(
        "--force", action="store_true",
        help="overwrite FILE even if distbp may not have written it (default: off)",
    )  # fmt: skip
    add_options(parser, RankOptions)


def _run_predict(arguments: argparse.Namespace) -> int:
    if (status := run_on_ranks(arguments)) is not None:
        return status
    from distbp.parallel import host
    from distbp.parallel.rank_errors import abort_on_error, run_on_rank_0
    from distbp.parallel.topology import connect

    comm = connect()
    with host.preserve_blas_threads(), abort_on_error(comm):
        # As in `evaluate`; the output is checked, too, before anything large is read.
        kind = run_on_rank_0(comm, partial(_find_kind, arguments))
        rows = _rows_of(arguments, kind)
        is_plain = run_on_rank_0(comm, partial(_check_output, arguments, kind))
        predict = _predict_data_set if is_plain else _predict_rows
        count = predict(arguments, rows, comm)
    if comm.rank == 0:
        is_stream = arguments.out == STANDARD_STREAM
        name = "standard output" if is_stream else arguments.out
        _printer(to_stderr=is_stream)(f"{name}: {count:,} rows")
    return 0


def _check_output(arguments: argparse.Namespace, kind: str) -> bool:
    """Check the name of the output; return whether it is the HDF5 file of a data set's split.

    Raises
    ------
    ConfigError
        It is one of the inputs, a file that distbp may not have written, or of no known format.
    """
    from distbp.data.table_writer import check_format, check_overwrite, table_format
    from distbp.storage.run_directory import find_checkpoint
    from distbp.training.ensemble import expand_models

    out, data, models = arguments.out, arguments.data, expand_models(arguments.models)
    # Outputs of a split in HDF5 may have any name, as in the first version.
    is_one = len(models) == 1
    is_plain = is_one and kind == "data set" and table_format(out) in ("hdf5", None)
    if not is_plain:
        check_format(out)
    if out == STANDARD_STREAM:
        return is_plain
    inputs = [*map(find_checkpoint, models), *[Path(data)] * (data != STANDARD_STREAM)]
    if any(Path(out).resolve() == path.resolve() for path in inputs):
        raise ConfigError(f"`--out {out}` would overwrite an input. Name another file.")
    check_overwrite(Path(out), arguments.force)
    return is_plain


def _predict_data_set(arguments: argparse.Namespace, rows: _Rows, comm: Any) -> int:
    """Write the outputs for a split to an HDF5 file; return the number of rows."""
    from distbp.training.ensemble import open_models_and_data
    from distbp.training.prediction import write_predictions

    checkpoint, data = open_models_and_data(arguments.models, arguments.data, comm)
    name = _split_of(arguments)
    write_predictions(comm, checkpoint, data, name, Path(arguments.out))
    return len(data.split(name))


def _predict_rows(arguments: argparse.Namespace, rows: _Rows, comm: Any) -> int:
    """Write a table of predictions; return the number of rows."""
    from distbp.data.table_writer import table_format
    from distbp.training.ensemble import (
        EnsembleNetwork,
        EnsemblePrediction,
        open_models_and_data,
        open_models_for_rows,
    )
    from distbp.training.row_sources import array_rows, split_rows, table_rows
    from distbp.training.table_prediction import PredictionTask, run_in_rounds

    if rows.kind == "data set":
        checkpoint, data = open_models_and_data(arguments.models, arguments.data, comm)
        source: Any = partial(split_rows, data.split(_split_of(arguments)))
    else:
        checkpoint = open_models_for_rows(arguments.models, comm)
        source = partial(array_rows, arguments.data, rows.options.x, checkpoint)
    is_ensemble = isinstance(checkpoint.network, EnsembleNetwork)
    make_task = EnsemblePrediction if is_ensemble else PredictionTask
    task = make_task(checkpoint, arguments.out, arguments.id)
    is_stream = arguments.out == STANDARD_STREAM
    with _reading_progress(arguments.data, comm.rank == 0 and not is_stream) as advance:
        if rows.kind == "table":
            source = partial(
                table_rows, arguments.data, checkpoint, rows.table_options,
                unknown=rows.options.unknown, id_column=arguments.id,
                keeps_integers=table_format(arguments.out) != "csv",
                say=_printer(to_stderr=is_stream), advance=advance,
            )  # fmt: skip
        run_in_rounds(comm, task, source)
    return int(comm.world.broadcast(task.count))


EVALUATE = Verb(
    "evaluate",
    "Print cost, accuracy and other metrics on rows with labels.",
    "MODEL [MODEL …] DATA [OPTIONS]",
    "distbp evaluate run digits.h5 --split validation --json",
    _declare_evaluate,
    _run_evaluate,
)
PREDICT = Verb(
    "predict",
    "Write predictions of a model, for a table or a data set.",
    "MODEL [MODEL …] DATA --out FILE [OPTIONS]",
    "distbp predict run new.csv --out predictions.csv",
    _declare_predict,
    _run_predict,
)
