"""The verb `train`: a new run or a resumed one, in this process or on ranks started here."""

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from distbp.cli.parser import Parser, Verb, add_options, drop_options, given_options
from distbp.cli.rank_options import RankOptions, should_start_ranks
from distbp.errors import ConfigError
from distbp.options import as_arguments, flag, option

DEFAULT_RESTARTS = 3


@dataclass(frozen=True)
class RunOptions:
    """Options of `train` that are not part of a run's configuration."""

    resume: str | None = option(
        None, "resume the run in this directory from its newest checkpoint",
        group="run and checkpoints", is_common=True, metavar="RUN",
    )  # fmt: skip
    config: str | None = option(
        None, "TOML file with options, such as a run's config.toml; options given here take "
        "precedence",
        group="run and checkpoints", is_common=True, metavar="FILE",
    )  # fmt: skip
    restarts: int | None = option(
        None, "with --ranks: when ranks die or hang, the others go on if MPI can do that (Open "
        "MPI); if not, restart all from the newest checkpoint, at most N times in a row without "
        "progress; with 0, the run ends. If this is given, exceptions are restarted, too", int,
        group="robustness", default_text=str(DEFAULT_RESTARTS),
    )  # fmt: skip


def _declare(parser: Parser) -> None:
    from distbp.training.config import GROUPS, Config

    for title in GROUPS:
        parser.group(title)
    parser.group("data").add_argument(
        "data", metavar="DATA.h5", nargs="?", help="data set, written by distbp import"
    )
    add_options(parser, Config, RunOptions, RankOptions, skip=("data",))


def _run_train(arguments: argparse.Namespace) -> int:
    """Train, and return the exit status."""
    from distbp.training.config import Config

    given = given_options(arguments, Config)
    options = RunOptions(**given_options(arguments, RunOptions))
    ranks: Any = getattr(arguments, "ranks", None)
    # Not `or`: both have to be called, because both check what was given.
    if any([should_start_ranks(ranks), should_restart(options.restarts, ranks)]):
        return _supervise(arguments.argv, ranks, options, given)
    config = (
        _resumed_config(options.resume, options.config, given)
        if options.resume
        else _new_config(options.config, given)
    )
    # Only now: a process that starts ranks, or refuses its options, loads no communicator.
    from distbp.parallel.environment import LaunchEnvironment
    from distbp.parallel.topology import connect
    from distbp.training.loop import train

    comm = connect()
    if comm.rank == 0:  # the supervisor waits for it with a time limit
        LaunchEnvironment.from_environ().write_started_file()
    train(config, resume=bool(options.resume), comm=comm)
    return 0


TRAIN = Verb(
    "train",
    "Train a network.",
    "DATA.h5 --out RUN [OPTIONS]\n--resume RUN [OPTIONS]",
    "distbp train digits.h5 --out run --hidden 100,50 --epochs 20 --ranks 4",
    _declare,
    _run_train,
)


def should_restart(restarts: int | None, ranks: int | None) -> bool:
    """Return whether `--restarts` asks for a supervisor that restarts the ranks.

    Raises
    ------
    ConfigError
        The number is negative, or the ranks are not started here.
    """
    if restarts is None:
        return False
    if restarts < 0:
        raise ConfigError(f"--restarts {restarts}: expected at least 0.")
    if ranks is None:
        raise ConfigError(
            f"--restarts {restarts} needs --ranks N: only ranks that are started here can be "
            f"restarted. Under srun or mpirun let the batch script restart the run with --resume."
        )
    return True


def _supervise(argv: Sequence[str], ranks: int, options: RunOptions, given: dict[str, Any]) -> int:
    """Run this command on ranks that are started, and restarted, here; return the exit status."""
    from distbp.launch.supervisor import Supervisor
    from distbp.storage.run_directory import list_checkpoints
    from distbp.training.config_file import check_paths_given
    from distbp.training.part_checks import load_parts

    is_given = options.restarts is not None
    restarts = DEFAULT_RESTARTS if options.restarts is None else options.restarts
    first = drop_options(argv, "--ranks", "--restarts")
    load_parts(given)  # which ranks that are restarted may use, too
    if options.resume:  # the same command is right again, however far the run has got
        return Supervisor(ranks, restarts, options.resume, first, first, is_given).run()
    config = _new_config(options.config, given)
    check_paths_given(config)
    # A directory with another run's checkpoints is refused by the ranks, at every start: it
    # must not be resumed instead.
    is_taken = bool(list_checkpoints(Path(config.out)))
    again = first if is_taken else resume_arguments(config.out, given)
    return Supervisor(ranks, restarts, config.out, first, again, is_given).run()


def resume_arguments(run: str, given: dict[str, Any]) -> list[str]:
    """Return the arguments that resume a run which was started with the options `given`."""
    from distbp.training.config import Config

    words = ["train", "--resume", run]
    for one in fields(Config):
        # All other options are in the checkpoint, and a resume refuses to change them.
        if one.metadata["may_change_on_resume"] and one.name in given.keys() - {"data", "out"}:
            words += as_arguments(flag(one.name), given[one.name])
    return words


def _new_config(file: str | None, given: dict[str, Any]) -> Any:
    """Return the configuration of a new run, from a TOML file and the options given."""
    from distbp.training.config import Config
    from distbp.training.config_file import check_useful, read_toml
    from distbp.training.part_checks import load_parts

    load_parts(given)
    check_useful(given, from_file := read_toml(Path(file)) if file else {})
    return Config(**from_file | given)


def _resumed_config(run: str, file: str | None, given: dict[str, Any]) -> Any:
    """Return the configuration of a run that is resumed, with the changes given."""
    from distbp.storage.checkpoint import read_checkpoint
    from distbp.storage.run_directory import find_checkpoint
    from distbp.training.config import Config
    from distbp.training.part_checks import load_parts

    for name, value in (("--config", file), ("--out", given.get("out"))):
        if value:
            raise ConfigError(
                f"--resume {run} and {name} {value} contradict each other: a resumed run keeps "
                f"its own. Leave out {name}."
            )
    load_parts(given)
    if not Path(run).is_dir():
        raise ConfigError(f"--resume {run}: expected the directory of a run.")
    found = read_checkpoint(find_checkpoint(run))
    config: Config = Config.read(found.about["config"], run).resumed(given | {"out": run})
    # The path was relative to the directory that the run was started in.
    if not os.path.exists(config.data):
        raise ConfigError(
            f"--resume {run}: its data set {config.data} does not exist, seen from the current "
            f"directory. Give its path: distbp train DATA.h5 --resume {shlex.quote(run)}."
        )
    done = len(found.history)
    if config.epochs < done:
        raise ConfigError(
            f"--resume {run} --epochs {config.epochs}: the run has completed {done} epochs. Give "
            f"the total number of epochs, at least {done}."
        )
    return config


def parse_training(words: Sequence[str]) -> Any:
    """Return the configuration of a new run, from `train` and the arguments that follow it.

    Raises
    ------
    ConfigError
        An argument is not allowed, or is about how the ranks are started.
    """
    from distbp.training.config import Config

    arguments = TRAIN.parse(words[1:])
    for name in ("resume", "ranks", "restarts"):
        if getattr(arguments, name, None) is not None:
            raise ConfigError(
                f"--{name} does not apply to a batch job, whose script starts, resumes and "
                f"restarts the ranks. Leave it out."
            )
    file = getattr(arguments, "config", None)
    return _new_config(file, given_options(arguments, Config))
