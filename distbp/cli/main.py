"""The command line: from arguments to an exit status, and the end of every rank.

This is the only place that ends the process. Exit status: 0 done, 1 failed, 2 usage or
configuration, 75 stopped after a checkpoint.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import NoReturn

from distbp import console
from distbp.cli.commands import VERBS
from distbp.cli.parser import Parser
from distbp.cli.train_command import run_train
from distbp.errors import ConfigError, DistbpError, LaunchError
from distbp.parallel.environment import LaunchEnvironment
from distbp.version import __version__

# OpenBLAS makes a thread a core when it is loaded; with many ranks that is too many
# to start. Training sets the number again, whatever is found here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# UCX, below MPICH, would take the signal of a closed terminal for its own debugging.
os.environ.setdefault("UCX_DEBUG_SIGNO", "0")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end this process, and with it all ranks."""
    console.steady_streams()
    console.install_handlers()
    LaunchEnvironment.from_environ().die_with_parent()
    try:
        status = run(parse(sys.argv[1:] if argv is None else argv))
    except DistbpError as error:
        status = end_all(error)
    except KeyboardInterrupt:
        sys.stderr.write("distbp: interrupted\n")
        status = 130
    end(status)


def end(status: int) -> NoReturn:
    """End this process; at once if other ranks have failed."""
    sys.stdout.flush()
    sys.stderr.flush()
    if "distbp.parallel.rank_errors" in sys.modules:  # otherwise no ranks were connected
        from distbp.parallel.rank_errors import exit_after_shrink

        exit_after_shrink(status)
    sys.exit(status)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments, once all of them are known."""
    if argv and argv[0].startswith("-") and argv[0] not in ("-h", "--help", "--version"):
        raise ConfigError(f"{argv[0]} stands before the verb; its place is behind it.")
    arguments, unknown = make_parser().parse_known_args(argv)
    if unknown:
        arguments.parser.refuse(unknown[0])
    arguments.argv = argv
    return arguments


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; an exception on one of several ranks ends them all."""
    try:
        status: int = arguments.run(arguments)
    except DistbpError:
        raise
    except BaseException as error:
        launch = LaunchEnvironment.from_environ()
        if launch.ranks_started > 1:
            from distbp.parallel.rank_errors import report_and_abort

            trace = "".join(traceback.format_exception(error))
            report_and_abort(launch.launcher_rank, launch.ranks_started, trace)
        raise
    if arguments.run is not run_train and (failure := console.lost_output()):
        raise DistbpError(f"The output cannot be written: {failure.strerror}. Make room for it.")
    if status == 0 and is_first():
        LaunchEnvironment.from_environ().write_completion_file()
    return status


def is_first() -> bool:
    """Return whether this is the rank that speaks for all where all have the same to say."""
    if "distbp.parallel.topology" in sys.modules:
        from distbp.parallel.topology import connected_topology

        topology = connected_topology()
        if topology is not None:  # the launcher's rank 0 may have failed
            return topology.rank == 0
    return LaunchEnvironment.from_environ().launcher_rank == 0


def end_all(error: DistbpError) -> int:
    """Print an error, once if all ranks have the same, and return the exit status.

    No rank leaves before all are here, because a launcher ends the others as soon
    as one has failed, and the one might be the one that has not printed yet. If the
    others have no trouble they are ended.
    """
    from distbp.parallel.rank_errors import abort_unless_all_arrive, timed_barrier
    from distbp.parallel.topology import Topology, connect

    try:
        ranks = connect() if LaunchEnvironment.from_environ().ranks_started > 1 else Topology()
    except LaunchError:
        ranks = Topology()
    if ranks.size == 1:
        if is_first():
            tell(error)
        else:
            time.sleep(1.0)  # give the one that prints its time
        return error.status
    abort_unless_all_arrive(ranks, error)
    texts = ranks.world.allgather(str(error))
    if texts.index(str(error)) == ranks.rank:
        tell(error)
    timed_barrier(ranks)
    return error.status


def tell(error: DistbpError) -> None:
    """Print an error, and let the process that started the ranks know of it."""
    sys.stderr.write(f"distbp: {error}\n")
    sys.stderr.flush()
    LaunchEnvironment.from_environ().write_error_file(error)


def make_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="distbp",
        description="Train dense neural networks on many processes, the same bit for bit.",
    )
    parser.add_argument("--version", action="version", version=f"distbp {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for add in VERBS:
        add(verbs)
    return parser
