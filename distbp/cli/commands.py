"""The verbs of the command line: their options, and what each of them does.

The options of `train` are the fields of `Config`, so they are listed once. A verb's
`run_…` returns the exit status.
"""

import argparse
import json
import math
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from distbp.cli.parser import Parser, add_options, add_verb, given_options
from distbp.cli.rank_options import add_ranks, is_to_start_ranks, start_ranks
from distbp.cli.train_command import add_train, train_config
from distbp.errors import ConfigError

MANY_CLASSES = 100  # more often are quantities


def add_import(verbs: Any) -> None:
    parser = add_verb(verbs, "import", "Make a data set of files of other formats.", run_import)
    parser.add_argument("source", help="a folder of IDX files, or a .npz, .csv or HDF5 file")
    parser.add_argument("out", metavar="OUT.h5", help="the data set to write")
    add = parser.add_argument
    add("--label", help="CSV: the label's column, by name or number; several for a regression")
    add(
        "--header",
        action=argparse.BooleanOptionalAction,
        help="CSV: the first line names the columns (default: as it looks)",
    )
    for split in ("", "-test", "-validation"):
        for part, what in (("x", "rows"), ("y", "labels")):
            where = f"the {split[1:]} {what}" if split else f"the training {what}"
            add(f"--{part}{split}", metavar="NAME", help=f"HDF5: name of the dataset with {where}")
    add(
        "--task",
        choices=("classification", "regression"),
        help="default: names and whole numbers are classes",
    )
    add(
        "--scaling",
        choices=("auto", "bytes", "standardize", "none"),
        default="auto",
        help="of the network's input (default: auto: bytes, x/255, for uint8; else standardize)",
    )
    add("--test-fraction", type=float, metavar="F", help="part set aside as test, class by class")
    add("--seed", type=int, help="of the rows that --test-fraction picks (default: 0)")
    add("--quiet", action="store_true", help="print nothing but errors")


def run_import(arguments: argparse.Namespace) -> int:
    from distbp.console import file_progress
    from distbp.data.importing import import_data
    from distbp.data.tables import ImportOptions

    given = {one.name: getattr(arguments, one.name) for one in fields(ImportOptions)}
    options = ImportOptions(**given)
    with file_progress("importing", is_shown=not arguments.quiet) as progress:
        about = import_data(arguments.source, arguments.out, options, progress)
    if not arguments.quiet:
        rows = ", ".join(f"{name} {n:,} rows" for name, n in about["rows"].items())
        print(f"{arguments.out}: {rows}; {describe_import(about)}")
        print(f"next   distbp train {shlex.quote(arguments.out)} --out RUN")
    return 0


def describe_import(about: dict[str, Any]) -> str:
    """Return how the numbers of a new data set were understood."""
    columns = math.prod(about["shape"])
    text = f"{columns:,} number{'s' * (columns != 1)} a row, scaling {about['scaling']}; "
    classes = about["classes"]
    if not classes:
        return f"{text}a regression"
    names = ", ".join(classes[:10]) + ", …" * (len(classes) > 10)
    hint = "; if they are quantities, use --task regression"
    return f"{text}{len(classes):,} classes: {names}{hint * (len(classes) > MANY_CLASSES)}"


def add_model(parser: Parser) -> None:
    parser.add_argument("model", help="a checkpoint, or a run's directory: its last one")


def add_data_and_split(parser: Parser) -> None:
    parser.add_argument("data", help="a data set")
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), default="test", help="default: test"
    )
    add_ranks(parser)


def add_evaluate(verbs: Any) -> None:
    parser = add_verb(verbs, "evaluate", "Cost and accuracy (or R²) of a split.", run_evaluate)
    add_model(parser)
    add_data_and_split(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")


def run_evaluate(arguments: argparse.Namespace) -> int:
    if is_to_start_ranks(arguments):
        return start_ranks(arguments)
    from distbp.parallel.rank_errors import abort_on_error
    from distbp.parallel.topology import connect
    from distbp.training.evaluation import Evaluator
    from distbp.training.inputs import open_model_and_data

    comm = connect()
    with abort_on_error(comm):
        checkpoint, data = open_model_and_data(arguments.model, arguments.data, comm)
        split = data.split(arguments.split)
        is_regression = data.task == "regression"
        evaluator = Evaluator(comm, checkpoint.network, split, checkpoint.scaling, is_regression)
        score = evaluator.score()
    if comm.rank == 0:
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
            share = (
                f"R² {score.accuracy:.4f}" if is_regression else f"accuracy {score.accuracy:.2%}"
            )
            print(f"{arguments.split}: {score.rows:,} rows, cost {score.cost:.6f}, {share}")
    return 0


def add_predict(verbs: Any) -> None:
    parser = add_verb(verbs, "predict", "Write what a model puts out for each row.", run_predict)
    add_model(parser)
    add_data_and_split(parser)
    parser.add_argument(
        "--out", required=True, metavar="P.h5", help="output and label, in row order"
    )


def run_predict(arguments: argparse.Namespace) -> int:
    if is_to_start_ranks(arguments):
        return start_ranks(arguments)
    from distbp.parallel.rank_errors import abort_on_error
    from distbp.parallel.topology import connect
    from distbp.training.inputs import open_model_and_data
    from distbp.training.prediction import write_predictions

    comm = connect()
    refuse_overwriting(arguments.out, arguments.model, arguments.data)
    with abort_on_error(comm):
        checkpoint, data = open_model_and_data(arguments.model, arguments.data, comm)
        write_predictions(comm, checkpoint, data, arguments.split, Path(arguments.out))
    if comm.rank == 0:
        print(f"{arguments.out}: {len(data.split(arguments.split)):,} rows")
    return 0


def refuse_overwriting(out: str, model: str, data: str) -> None:
    """Raise ConfigError if the predictions would replace what is not an output of distbp."""
    from distbp.storage.hdf5_file import check_replaceable
    from distbp.storage.run_directory import find_checkpoint

    for path in (find_checkpoint(model), Path(data)):
        if Path(out).resolve() == path.resolve():
            raise ConfigError(f"--out {out} would replace what is read; name another file.")
    check_replaceable(Path(out))


def add_info(verbs: Any) -> None:
    parser = add_verb(verbs, "info", "What a data set, checkpoint or run holds.", run_info)
    parser.add_argument("file")


def run_info(arguments: argparse.Namespace) -> int:
    from distbp.cli.describe import describe

    print(describe(Path(arguments.file)))
    return 0


def add_digest(verbs: Any) -> None:
    parser = add_verb(verbs, "digest", "SHA-256 of θ, and nothing else.", run_digest)
    add_model(parser)


def run_digest(arguments: argparse.Namespace) -> int:
    from distbp.network.parameters import digest
    from distbp.storage.run_directory import load

    print(digest(load(arguments.model).theta))
    return 0


def add_plan(verbs: Any) -> None:
    from distbp.training.config import parse_sizes

    parser = add_verb(verbs, "plan", "How many ranks pay, for a network and a batch.", run_plan)
    add = parser.add_argument
    add("--sizes", type=parse_sizes, required=True, help="of all layers, as in 784,100,10")
    add("--batch-size", type=int, default=256, help="default: 256")
    add("--shards", type=int, help="default: as train has it")
    add("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")
    add("--up-to", type=int, default=1000, metavar="N", help="ranks (default: 1000)")
    add("--ranks-a-node", type=int, metavar="N", help="default: the cores here")
    add("--latency", type=float, default=20.0, help="µs from node to node (default: 20)")
    add("--bandwidth", type=float, default=10.0, help="of a node, Gbit/s (default: 10)")
    add_ranks(parser)


def run_plan(arguments: argparse.Namespace) -> int:
    if is_to_start_ranks(arguments):
        return start_ranks(arguments)
    from distbp.launch.planner import PlanRequest, plan_report
    from distbp.parallel.rank_errors import abort_on_error
    from distbp.parallel.topology import connect

    comm = connect()
    with abort_on_error(comm):
        given = {one.name: getattr(arguments, one.name) for one in fields(PlanRequest)}
        lines = plan_report(PlanRequest(**given), comm)
    if comm.rank == 0:
        print("\n".join(lines))
    return 0


def add_slurm(verbs: Any) -> None:
    from distbp.launch.slurm import BATCH_JOB_NOTES, BatchOptions

    parser = add_verb(verbs, "slurm", "Write a batch script for SLURM that trains.", run_slurm)
    parser.usage = "distbp slurm [OPTIONS] train DATA.h5 --out RUN … > job.sbatch"
    parser.add_argument("train", nargs="...", help="the training, as it would be started here")
    parser.epilog = BATCH_JOB_NOTES
    add_options(parser, BatchOptions)


def run_slurm(arguments: argparse.Namespace) -> int:
    from distbp.launch.slurm import BatchOptions, make_batch_script

    batch = BatchOptions(**given_options(arguments, BatchOptions))
    print(make_batch_script(batch, sys.executable, arguments.train, train_config), end="")
    return 0


VERBS = (
    *(add_import, add_train, add_evaluate, add_predict, add_info, add_digest, add_plan),
    add_slurm,
)
