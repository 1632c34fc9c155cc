"""The option `--ranks`: start the ranks of a command on this host."""

import argparse
from dataclasses import dataclass
from typing import Any

from distbp.cli.parser import drop_options
from distbp.errors import ConfigError
from distbp.options import option


@dataclass(frozen=True)
class RankOptions:
    """How many ranks to start."""

    ranks: int | None = option(
        None, "start N ranks on this host with MPI", int, group="parallelism", is_common=True,
        default_text="those of the launcher, or 1",
    )  # fmt: skip


def should_start_ranks(ranks: int | None) -> bool:
    """Return whether `--ranks` asks for more ranks than this process.

    Raises
    ------
    ConfigError
        It asks for no rank, or a launcher has started ranks already.
    """
    from distbp.parallel.environment import LaunchEnvironment

    started = LaunchEnvironment.from_environ().ranks_started
    if ranks is None:
        return False
    if ranks < 1:
        raise ConfigError(f"--ranks {ranks}: expected at least 1.")
    if started > 1:  # each of these ranks would start as many again
        raise ConfigError(
            f"--ranks {ranks} starts ranks itself, but a launcher has started {started} already. "
            f"Use one of the two."
        )
    return ranks > 1


def run_on_ranks(arguments: argparse.Namespace) -> int | None:
    """Run this command on the ranks that `--ranks` asks for and return the exit status.

    Return None where this process is one of the ranks, and has to run the command itself.
    """
    ranks: Any = getattr(arguments, "ranks", None)
    if not should_start_ranks(ranks):
        return None
    from distbp.launch.mpiexec import run_ranks

    reads_stdin = getattr(arguments, "data", None) == "-"
    return run_ranks(ranks, drop_options(arguments.argv, "--ranks"), reads_stdin)
