"""The verb `train`."""

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from distbp.cli.parser import Parser, add_options, add_verb, given_options, without
from distbp.cli.rank_options import add_ranks, is_to_start_ranks
from distbp.errors import ConfigError


def add_train(verbs: Any) -> None:
    from distbp.training.config import Config

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
    from distbp.training.config import Config

    given = given_options(arguments, Config)
    if any([is_to_start_ranks(arguments), is_to_restart(arguments)]):  # both have checks
        return start_training(arguments, given)
    config = (
        resumed_config(arguments.resume, arguments.config, given)
        if arguments.resume
        else (new_config(arguments.config, given))
    )
    from distbp.parallel.environment import LaunchEnvironment
    from distbp.parallel.topology import connect
    from distbp.training.loop import train

    comm = connect()
    if comm.rank == 0:
        LaunchEnvironment.from_environ().write_started_file()
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
    from distbp.launch.supervisor import Supervisor
    from distbp.storage.run_directory import list_checkpoints
    from distbp.training.config import check_paths_given

    ranks, restarts = arguments.ranks, arguments.restarts or 0
    first = without(arguments.argv, "--ranks", "--restarts")
    if arguments.resume:
        return Supervisor(ranks, restarts, arguments.resume, first, first).run()
    config = new_config(arguments.config, given)
    check_paths_given(config)
    if list_checkpoints(Path(config.out)):  # another run's: this one will be refused
        return Supervisor(ranks, restarts, config.out, first, first).run()
    return Supervisor(ranks, restarts, config.out, first, resuming(config.out, given)).run()


def resuming(run: str, given: dict[str, Any]) -> list[str]:
    """Return the arguments that go on with a run that was begun with the options `given`."""
    from distbp.training.config import Config
    from distbp.training.options import as_arguments, flag

    words = ["train", "--resume", run]
    for one in fields(Config):
        if one.metadata["may_change_on_resume"] and one.name in given.keys() - {"data", "out"}:
            words += as_arguments(flag(one.name), given[one.name])
    return words


def new_config(file: str | None, given: dict[str, Any]) -> Any:
    """Return the configuration of a new run, from a TOML file and the options given."""
    from distbp.training.config import Config, check_useful, read_toml

    check_useful(given, from_file := read_toml(Path(file)) if file else {})
    return Config(**from_file | given)


def resumed_config(run: str, file: str | None, given: dict[str, Any]) -> Any:
    """Return the configuration of a run that is resumed, with the changes given."""
    from distbp.storage.checkpoint import read_checkpoint
    from distbp.storage.run_directory import find_checkpoint
    from distbp.training.config import Config

    for name, value in (("--config", file), ("--out", given.get("out"))):
        if value:
            raise ConfigError(
                f"--resume {run} and {name} {value} contradict each other: a resumed "
                f"run has its own."
            )
    if not Path(run).is_dir():
        raise ConfigError(f"--resume {run}: expected the directory of a run.")
    found = read_checkpoint(find_checkpoint(run))
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


def train_config(words: Sequence[str]) -> Any:
    """Return the configuration of a new run, from `train` and what stands behind it."""
    from distbp.training.config import Config

    parser = Parser(prog="distbp")
    add_train(parser.add_subparsers())
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        arguments.parser.refuse(unknown[0])
    for name in ("resume", "ranks", "restarts"):
        if getattr(arguments, name) is not None:
            raise ConfigError(f"--{name} has no place in a batch job: its script sees to that.")
    return new_config(arguments.config, given_options(arguments, Config))
