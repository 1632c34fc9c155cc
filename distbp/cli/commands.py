"""The verbs of the command line that have no file of their own, and the table of all.

A verb is a `Verb` with a function that declares its options and one that runs it. What
NumPy, HDF5 or MPI is needed for is imported by these functions, so that no verb loads
what it does not use. Verbs only connect the packages: none of them computes anything.
"""

import argparse
import logging
import math
import shlex
import sys
from pathlib import Path
from typing import Any

from distbp.cli.completion_command import completion_verb
from distbp.cli.diff_command import DIFF
from distbp.cli.doctor_command import DOCTOR
from distbp.cli.export_command import EXPORT
from distbp.cli.import_model_command import IMPORT_MODEL
from distbp.cli.model_commands import EVALUATE, PREDICT, declare_model
from distbp.cli.parser import Parser, Verb, add_options, given_options
from distbp.cli.rank_options import RankOptions, run_on_ranks
from distbp.cli.report_command import REPORT
from distbp.cli.sweep_command import SWEEP, parse_sweep
from distbp.cli.train_command import TRAIN, parse_training
from distbp.cli.verify_command import VERIFY
from distbp.cli.watch_command import WATCH
from distbp.terminal import printable_list

logger = logging.getLogger(__name__)

# Labels with more values than this are more often quantities than classes.
_MANY_CLASSES = 100
_CLASSES_SHOWN = 10


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
    from distbp.data.dataset import WEIGHTS

    columns = math.prod(about["shape"])
    text = f"{columns:,} number{'s' * (columns != 1)} per row, scaling {about['scaling']}; "
    text += "weighted; " * (WEIGHTS in about["arrays"])
    classes = about["classes"]
    if about["task"] == "regression":
        how = about.get("target_scaling")
        is_log = about.get("preprocessing", {}).get("target_transform") == "log"
        what = "regression" + " of the logarithm" * is_log
        return f"{text}{what}{f', target scaling {how}' if how else ''}"
    names = printable_list(classes, _CLASSES_SHOWN)
    if about["task"] == "multilabel":
        return f"{text}{len(classes):,} labels a row: {names}"
    hint = "; if these are quantities, use --task regression"
    return f"{text}{len(classes):,} classes: {names}{hint * (len(classes) > _MANY_CLASSES)}"


def _declare_info(parser: Parser) -> None:
    parser.group("files").add_argument(
        "file", metavar="FILE", help="data set, checkpoint, or directory of a run"
    )


def _run_info(arguments: argparse.Namespace) -> int:
    from distbp.cli.describe import describe

    print(describe(Path(arguments.file)))
    return 0


def _run_digest(arguments: argparse.Namespace) -> int:
    from distbp.storage.run_directory import read_newest_checkpoint

    checkpoint, messages = read_newest_checkpoint(arguments.model)
    for text in messages:
        logger.warning("%s", text)
    print(checkpoint.digest)
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
        help="the training or sweep, as it would be started here: train, or sweep, and its "
        "arguments",
    )  # fmt: skip
    parser.group("resources")
    add_options(parser, BatchOptions)
    parser.epilog = f"{parser.epilog}\n\n{BATCH_JOB_NOTES}"


def _run_slurm(arguments: argparse.Namespace) -> int:
    from distbp.launch.slurm import BatchOptions, make_array_script, make_batch_script

    batch = BatchOptions(**given_options(arguments, BatchOptions))
    if arguments.train[:1] == ["sweep"]:
        plan, tasks = parse_sweep(arguments.train)
        print(make_array_script(batch, sys.executable, plan.config, tasks), end="")
        return 0
    print(make_batch_script(batch, sys.executable, arguments.train, parse_training), end="")
    return 0


VERBS: dict[str, Verb] = {
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
        WATCH,
        SWEEP,
        EVALUATE,
        PREDICT,
        EXPORT,
        IMPORT_MODEL,
        REPORT,
        Verb(
            "info",
            "Describe a data set, checkpoint or run, and verify its checksum.",
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
            declare_model,
            _run_digest,
        ),
        DIFF,
        VERIFY,
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
        DOCTOR,
        completion_verb(lambda: VERBS),
    )
}
