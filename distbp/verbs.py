"""The verbs of the command line: their options, and what each of them does.

The options of `train` are the fields of `Config`, so they are listed once. A verb's
`run_…` returns the exit status.
"""

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from distbp.errors import ConfigError
from distbp.options import Parser as Parser
from distbp.options import add_options, given_options, spelled, without

MANY_CLASSES = 100  # more often are quantities


def add_verb(verbs: Any, name: str, help: str, run: Any) -> Parser:
    parser: Parser = verbs.add_parser(name, help=help, description=help)
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_ranks(parser: Parser) -> None:
    parser.add_argument("--ranks", type=int, metavar="N", help="start N ranks here, by MPI")


# import


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
    from distbp.display import file_progress
    from distbp.importing import import_data
    from distbp.tables import ImportOptions

    given = {one.name: getattr(arguments, one.name) for one in fields(ImportOptions)}
    options = ImportOptions(**given)
    with file_progress("importing", is_shown=not arguments.quiet) as progress:
        about = import_data(arguments.source, arguments.out, options, progress)
    if not arguments.quiet:
        rows = ", ".join(f"{name} {n:,} rows" for name, n in about["rows"].items())
        print(f"{arguments.out}: {rows}; {meant(about)}")
        print(f"next   distbp train {shlex.quote(arguments.out)} --out RUN")
    return 0


def meant(about: dict[str, Any]) -> str:
    """Return how the numbers of a new data set were understood."""
    columns = math.prod(about["shape"])
    text = f"{columns:,} number{'s' * (columns != 1)} a row, scaling {about['scaling']}; "
    classes = about["classes"]
    if not classes:
        return f"{text}a regression"
    names = ", ".join(classes[:10]) + ", …" * (len(classes) > 10)
    hint = "; if they are quantities, use --task regression"
    return f"{text}{len(classes):,} classes: {names}{hint * (len(classes) > MANY_CLASSES)}"


# train


def add_train(verbs: Any) -> None:
    from distbp.config import Config

    parser = add_verb(verbs, "train", "Train a network.", run_train)
    parser.add_argument("data", nargs="?", help="a data set, made by distbp import")
    parser.add_argument("--resume", metavar="RUN", help="go on where RUN stopped")
    parser.add_argument("--config", metavar="FILE", help="a TOML file with these options")
    add_ranks(parser)
    parser.add_argument(
        "--restarts", type=int, metavar="K",
        help="with --ranks: start again when ranks die, at most K times in a row without progress",
    )  # fmt: skip
    add_options(parser, Config)


def run_train(arguments: argparse.Namespace) -> int:
    from distbp.config import Config

    given = given_options(arguments, Config)
    if any([is_to_start_ranks(arguments), is_to_restart(arguments)]):  # both have checks
        return start_training(arguments, given)
    config = (
        resumed_config(arguments.resume, arguments.config, given)
        if arguments.resume
        else (new_config(arguments.config, given))
    )
    from distbp import tether
    from distbp.comm import connect
    from distbp.train import train

    comm = connect()
    if comm.rank == 0:
        tether.say_started()
    train(config, bool(arguments.resume), comm)
    return 0


def is_to_restart(arguments: argparse.Namespace) -> bool:
    """Return whether `--restarts` asks for somebody who starts the ranks again.

    Raises
    ------
    ConfigError
        Somebody else starts them.
    """
    restarts = arguments.restarts
    if restarts is None:
        return False
    if restarts < 0:
        raise ConfigError(f"--restarts {restarts}: expected at least 0.")
    if arguments.ranks is None:
        raise ConfigError(
            f"--restarts {restarts} needs --ranks N, which starts the ranks here and can start "
            f"them again. Under srun or mpirun the batch script does that, by --resume."
        )
    return True


def start_training(arguments: argparse.Namespace, given: dict[str, Any]) -> int:
    """Start this very command on several ranks, and again if it ends before its time."""
    from distbp.checkpoint import generations
    from distbp.parts import check_places
    from distbp.supervise import Job

    ranks, restarts = arguments.ranks, arguments.restarts or 0
    first = without(arguments.argv, "--ranks", "--restarts")
    if arguments.resume:
        return Job(ranks, restarts, arguments.resume, first, first).run()
    config = new_config(arguments.config, given)
    check_places(config)
    if generations(Path(config.out)):  # another run's: this one will be refused
        return Job(ranks, restarts, config.out, first, first).run()
    return Job(ranks, restarts, config.out, first, resuming(config.out, given)).run()


def resuming(run: str, given: dict[str, Any]) -> list[str]:
    """Return the arguments that go on with a run that was begun with the options `given`."""
    from distbp.config import Config, flag

    words = ["train", "--resume", run]
    for one in fields(Config):
        if one.metadata["same_mathematics"] and one.name in given.keys() - {"data", "out"}:
            words += spelled(flag(one.name), given[one.name])
    return words


def new_config(file: str | None, given: dict[str, Any]) -> Any:
    """Return the configuration of a new run, from a TOML file and the options given."""
    from distbp.config import Config, check_useful, read_toml

    check_useful(given, from_file := read_toml(Path(file)) if file else {})
    return Config(**from_file | given)


def resumed_config(run: str, file: str | None, given: dict[str, Any]) -> Any:
    """Return the configuration of a run that is resumed, with the changes given."""
    from distbp.checkpoint import find, read
    from distbp.config import Config

    for name, value in (("--config", file), ("--out", given.get("out"))):
        if value:
            raise ConfigError(
                f"--resume {run} and {name} {value} contradict each other: a resumed "
                f"run has its own."
            )
    if not Path(run).is_dir():
        raise ConfigError(f"--resume {run}: expected the directory of a run.")
    found = read(find(run))
    config: Config = Config.read(found.about["config"], run).resumed(given | {"out": run})
    if not os.path.exists(config.data):
        raise ConfigError(
            f"--resume {run}: its data set {config.data} is not there, seen from this folder. Say "
            f"where it is: distbp train DATA.h5 --resume {shlex.quote(run)}."
        )
    done = len(found.history)
    if config.epochs < done:
        raise ConfigError(
            f"--resume {run} --epochs {config.epochs}: {done} are done already. Say how many there "
            "are to be in all."
        )
    return config


def is_to_start_ranks(arguments: argparse.Namespace) -> bool:
    """Return whether `--ranks` asks for more than this process.

    Raises
    ------
    ConfigError
        A launcher has started ranks already.
    """
    from distbp.launched import ranks_started

    ranks, started = arguments.ranks, ranks_started(os.environ)
    if ranks is None:
        return False
    if ranks < 1:
        raise ConfigError(f"--ranks {ranks}: expected at least 1.")
    if started > 1:
        raise ConfigError(
            f"--ranks {ranks} starts ranks itself, but a launcher has started {started} already. "
            f"Use one of the two."
        )
    return bool(ranks > 1)


def start_ranks(arguments: argparse.Namespace) -> int:
    """Start this very command on several ranks."""
    from distbp.launch import run_ranks

    return run_ranks(arguments.ranks, without(arguments.argv, "--ranks"))


# evaluate, predict, info, digest


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
    from distbp.comm import connect
    from distbp.evaluate import Evaluator, open_model_and_data

    comm = connect()
    with comm.guard():
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
    from distbp.comm import connect
    from distbp.evaluate import open_model_and_data, write_predictions

    comm = connect()
    refuse_overwriting(arguments.out, arguments.model, arguments.data)
    with comm.guard():
        checkpoint, data = open_model_and_data(arguments.model, arguments.data, comm)
        write_predictions(comm, checkpoint, data, arguments.split, Path(arguments.out))
    if comm.rank == 0:
        print(f"{arguments.out}: {len(data.split(arguments.split)):,} rows")
    return 0


def refuse_overwriting(out: str, model: str, data: str) -> None:
    """Raise ConfigError if the predictions would replace what is not an output of distbp."""
    from distbp.checkpoint import find
    from distbp.hdf5 import check_replaceable

    for path in (find(model), Path(data)):
        if Path(out).resolve() == path.resolve():
            raise ConfigError(f"--out {out} would replace what is read; name another file.")
    check_replaceable(Path(out))


def add_info(verbs: Any) -> None:
    parser = add_verb(verbs, "info", "What a data set, checkpoint or run holds.", run_info)
    parser.add_argument("file")


def run_info(arguments: argparse.Namespace) -> int:
    from distbp.info import describe

    print(describe(Path(arguments.file)))
    return 0


def add_digest(verbs: Any) -> None:
    parser = add_verb(verbs, "digest", "SHA-256 of θ, and nothing else.", run_digest)
    add_model(parser)


def run_digest(arguments: argparse.Namespace) -> int:
    from distbp.checkpoint import digest, load

    print(digest(load(arguments.model).theta))
    return 0


# plan


def add_plan(verbs: Any) -> None:
    from distbp.config import parse_sizes

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
    from distbp.comm import connect
    from distbp.plan import Question, answer

    comm = connect()
    with comm.guard():
        given = {one.name: getattr(arguments, one.name) for one in fields(Question)}
        lines = answer(Question(**given), comm)
    if comm.rank == 0:
        print("\n".join(lines))
    return 0


# slurm


def add_slurm(verbs: Any) -> None:
    from distbp.slurm import Batch

    parser = add_verb(verbs, "slurm", "Write a batch script for SLURM that trains.", run_slurm)
    parser.usage = "distbp slurm [OPTIONS] train DATA.h5 --out RUN … > job.sbatch"
    parser.add_argument("train", nargs="...", help="the training, as it would be started here")
    add_options(parser, Batch)


def run_slurm(arguments: argparse.Namespace) -> int:
    from distbp.slurm import Batch, job

    batch = Batch(**given_options(arguments, Batch))
    print(job(batch, sys.executable, arguments.train, train_config), end="")
    return 0


def train_config(words: Sequence[str]) -> Any:
    """Return the configuration of a new run, from `train` and what stands behind it."""
    from distbp.config import Config

    parser = Parser(prog="distbp")
    add_train(parser.add_subparsers())
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        arguments.parser.refuse(unknown[0])
    for name in ("resume", "ranks", "restarts"):
        if getattr(arguments, name) is not None:
            raise ConfigError(f"--{name} has no place in a batch job: its script sees to that.")
    return new_config(arguments.config, given_options(arguments, Config))


VERBS = (
    *(add_import, add_train, add_evaluate, add_predict, add_info, add_digest, add_plan),
    add_slurm,
)
