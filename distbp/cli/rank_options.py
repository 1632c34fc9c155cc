"""The option `--ranks`."""

import argparse

from distbp.cli.parser import Parser, without
from distbp.errors import ConfigError


def add_ranks(parser: Parser) -> None:
    parser.add_argument("--ranks", type=int, metavar="N", help="start N ranks here, by MPI")


def is_to_start_ranks(arguments: argparse.Namespace) -> bool:
    """Return whether `--ranks` asks for more than this process.

    Raises
    ------
    ConfigError
        A launcher has started ranks already.
    """
    from distbp.parallel.environment import LaunchEnvironment

    ranks, started = arguments.ranks, LaunchEnvironment.from_environ().ranks_started
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
    from distbp.launch.mpiexec import run_ranks

    return run_ranks(arguments.ranks, without(arguments.argv, "--ranks"))
