"""The verbs of the command line but for `train`, and the table of all of them.

A verb is a `Verb` with a function that declares its options and one that runs it. What
NumPy, HDF5 or MPI is needed for is imported by these functions, so that no verb loads
what it does not use. Verbs only connect the packages: none of them computes anything.
"""

import argparse
import json
import logging
import math
import shlex
import sys
from pathlib import Path
from typing import Any

from distbp.cli.parser import Parser, Verb, add_options, given_options
from distbp.cli.rank_options import RankOptions, run_on_ranks
from distbp.cli.train_command import TRAIN, parse_training
from distbp.errors import ConfigError

# Labels with more values than this are more often quantities than classes.
_MANY_CLASSES = 100


def _declare_import(parser: Parser) -> None:
    from distbp.data.tables import ImportOptions

    files = parser.group("files")
    files.add_argument(
        "source",
        metavar="SOURCE",
        help="table (CSV, Parquet, Arrow, JSON lines; also .gz or .zst), HDF5 or .npz file, "
        "or folder of IDX files",
    )
    files.add_argument("out", metavar="OUT.h5", help="data set to write")
    parser.group("data set")
    add_options(parser, ImportOptions)
    parser.group("output").add_argument(
        "--quiet", action="store_true", help="print only warnings and errors (default: off)"
    )


def _run_import(arguments: argparse.Namespace) -> int:
    from distbp.console import file_progress
    from distbp.data.importing import import_data
    from distbp.data.tables import ImportOptions

    options = ImportOptions(**given_options(arguments, ImportOptions))
    if arguments.quiet:
        logging.getLogger("distbp").setLevel(logging.WARNING)
    with file_progress("importing", is_shown=not arguments.quiet) as progress:
        about = import_data(arguments.source, arguments.out, options, progress)
    if not arguments.quiet:
        for line in about.get("profile", ()):
            print(line)
        rows = ", ".join(f"{name} {n:,} rows" for name, n in about["rows"].items())
        print(f"{arguments.out}: {rows}; {_describe_import(about)}")
        print(f"next   distbp train {shlex.quote(arguments.out)} --out RUN")
    return 0


def _describe_import(about: dict[str, Any]) -> str:
    """Return how the rows and labels of a new data set were interpreted."""
    columns = math.prod(about["shape"])
    text = f"{columns:,} number{'s' * (columns != 1)} per row, scaling {about['scaling']}; "
    classes = about["classes"]
    if about["task"] == "regression":
        how = about.get("target_scaling")
        return f"{text}regression{f', target scaling {how}' if how else ''}"
    names = ", ".join(classes[:10]) + ", …" * (len(classes) > 10)
    if about["task"] == "multilabel":
        return f"{text}{len(classes):,} labels a row: {names}"
    hint = "; if these are quantities, use --task regression"
    return f"{text}{len(classes):,} classes: {names}{hint * (len(classes) > _MANY_CLASSES)}"


def _declare_model(parser: Parser) -> None:
    parser.group("model and data").add_argument(
        "model", metavar="MODEL", help="checkpoint, or directory of a run: its newest checkpoint"
    )


def _declare_model_and_split(parser: Parser) -> None:
    _declare_model(parser)
    group = parser.group("model and data")
    group.add_argument("data", metavar="DATA.h5", help="data set, written by distbp import")
    group.add_argument(
        "--split", choices=("train", "validation", "test"), default="test",
        help="part of the data set (default: test)",
    )  # fmt: skip


def _declare_evaluate(parser: Parser) -> None:
    _declare_model_and_split(parser)
    parser.group("output").add_argument(
        "--json", action="store_true", help="print one JSON object (default: off)"
    )
    add_options(parser, RankOptions)


def _run_evaluate(arguments: argparse.Namespace) -> int:
    if (status := run_on_ranks(arguments)) is not None:
        return status
    from distbp.parallel import host
    from distbp.parallel.rank_errors import abort_on_error
    from distbp.parallel.topology import connect
    from distbp.training.evaluation import Evaluator
    from distbp.training.inputs import open_model_and_data
    from distbp.training.messages import format_cost

    comm = connect()
    with host.preserve_blas_threads(), abort_on_error(comm):
        checkpoint, data = open_model_and_data(arguments.model, arguments.data, comm)
        split = data.split(arguments.split)
        evaluator = Evaluator(
            comm, checkpoint.network, split, checkpoint.scaling, data.task, checkpoint.target
        )
        score = evaluator.score()
    if comm.rank == 0:
        is_regression = data.task == "regression"
        name = "r2" if is_regression else "accuracy"
        values = {
            "split": arguments.split,
            "rows": score.rows,
            "cost": score.cost,
            name: score.accuracy,
        }
        if arguments.json:
            print(json.dumps(values))
        else:
            accuracy = (
                f"R² {score.accuracy:.4f}" if is_regression else f"accuracy {score.accuracy:.2%}"
            )
            cost = format_cost(score.cost, 6)
            print(f"{arguments.split}: {score.rows:,} rows, cost {cost}, {accuracy}")
    return 0


def _declare_predict(parser: Parser) -> None:
    _declare_model_and_split(parser)
    parser.group("output").add_argument(
        "--out", required=True, metavar="P.h5",
        help="HDF5 file to write: the network's output for each row, in order, and the "
        "predicted class (required)",
    )  # fmt: skip
    add_options(parser, RankOptions)


def _run_predict(arguments: argparse.Namespace) -> int:
    if (status := run_on_ranks(arguments)) is not None:
        return status
    from distbp.parallel import host
    from distbp.parallel.rank_errors import abort_on_error
    from distbp.parallel.topology import connect
    from distbp.training.inputs import open_model_and_data
    from distbp.training.prediction import write_predictions

    comm = connect()
    _refuse_overwriting(arguments.out, arguments.model, arguments.data)
    with host.preserve_blas_threads(), abort_on_error(comm):
        checkpoint, data = open_model_and_data(arguments.model, arguments.data, comm)
        write_predictions(comm, checkpoint, data, arguments.split, Path(arguments.out))
    if comm.rank == 0:
        print(f"{arguments.out}: {len(data.split(arguments.split)):,} rows")
    return 0


def _refuse_overwriting(out: str, model: str, data: str) -> None:
    """Raise ConfigError if `out` is one of the inputs, or no file that distbp wrote."""
    from distbp.storage.hdf5_file import check_replaceable
    from distbp.storage.run_directory import find_checkpoint

    for path in (find_checkpoint(model), Path(data)):
        if Path(out).resolve() == path.resolve():
            raise ConfigError(f"--out {out} would overwrite an input. Name another file.")
    check_replaceable(Path(out))


def _declare_info(parser: Parser) -> None:
    parser.group("files").add_argument(
        "file", metavar="FILE", help="data set, checkpoint, or directory of a run"
    )


def _run_info(arguments: argparse.Namespace) -> int:
    from distbp.cli.describe import describe

    print(describe(Path(arguments.file)))
    return 0


def _run_digest(arguments: argparse.Namespace) -> int:
    from distbp.network.parameters import digest
    from distbp.storage.run_directory import load

    print(digest(load(arguments.model).theta))
    return 0


def _declare_plan(parser: Parser) -> None:
    from distbp.launch.planner import PlanRequest

    for title in ("network and batch", "cluster"):
        parser.group(title)
    add_options(parser, PlanRequest, RankOptions)


def _run_plan(arguments: argparse.Namespace) -> int:
    if (status := run_on_ranks(arguments)) is not None:
        return status
    from distbp.launch.planner import PlanRequest, plan_report
    from distbp.parallel.rank_errors import abort_on_error
    from distbp.parallel.topology import connect

    comm = connect()
    with abort_on_error(comm):
        lines = plan_report(PlanRequest(**given_options(arguments, PlanRequest)), comm)
    if comm.rank == 0:
        print("\n".join(lines))
    return 0


def _declare_slurm(parser: Parser) -> None:
    from distbp.launch.slurm import BATCH_JOB_NOTES, BatchOptions

    parser.group("training").add_argument(
        "train", metavar="train …", nargs=argparse.REMAINDER,
        help="the training, as it would be started here: train and its arguments",
    )  # fmt: skip
    parser.group("resources")
    add_options(parser, BatchOptions)
    parser.epilog = f"{parser.epilog}\n\n{BATCH_JOB_NOTES}"


def _run_slurm(arguments: argparse.Namespace) -> int:
    from distbp.launch.slurm import BatchOptions, make_batch_script

    batch = BatchOptions(**given_options(arguments, BatchOptions))
    print(make_batch_script(batch, sys.executable, arguments.train, parse_training), end="")
    return 0


VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "import",
            "Convert files of another format to a data set.",
            "SOURCE OUT.h5 [OPTIONS]",
            "distbp import iris.csv iris.h5 --label species --test-fraction 0.2",
            _declare_import,
            _run_import,
        ),
        TRAIN,
        Verb(
            "evaluate",
            "Print cost and accuracy (R² for a regression) of a model on a split.",
            "MODEL DATA.h5 [OPTIONS]",
            "distbp evaluate run digits.h5 --split validation --json",
            _declare_evaluate,
            _run_evaluate,
        ),
        Verb(
            "predict",
            "Write the output of a model for each row of a split.",
            "MODEL DATA.h5 --out P.h5 [OPTIONS]",
            "distbp predict run/best.h5 digits.h5 --out predictions.h5",
            _declare_predict,
            _run_predict,
        ),
        Verb(
            "info",
            "Describe a data set, a checkpoint or a run, and verify its checksum.",
            "FILE",
            "distbp info run",
            _declare_info,
            _run_info,
        ),
        Verb(
            "digest",
            "Print the SHA-256 of a model's parameters.",
            "MODEL",
            "distbp digest run",
            _declare_model,
            _run_digest,
        ),
        Verb(
            "plan",
            "Predict the time per step on more ranks, and how many pay off.",
            "--sizes LIST [OPTIONS]",
            "distbp plan --sizes 784,1000,10 --batch-size 1024 --ranks-a-node 64 --ranks 4",
            _declare_plan,
            _run_plan,
        ),
        Verb(
            "slurm",
            "Print a SLURM batch script that trains and requeues itself.",
            "[OPTIONS] train DATA.h5 --out RUN … > job.sbatch",
            "distbp slurm --nodes 2 --time 2:00:00 train digits.h5 --out run > job.sbatch",
            _declare_slurm,
            _run_slurm,
        ),
    )
}
