"""The command line: from arguments to an exit status, on all ranks.

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
from distbp.cli.kernel_selection import select_kernels
from distbp.cli.parser import Parser, did_you_mean
from distbp.cli.train_command import TRAIN
from distbp.errors import ConfigError, DistbpError
from distbp.parallel.environment import LaunchEnvironment
from distbp.version import __version__

# Set for this process and the ranks that it starts, unless the user has set them.
_ENVIRONMENT_DEFAULTS = {
    # OpenBLAS starts a thread per core when NumPy is loaded: with many ranks on a host that
    # exceeds limits. `--threads` sets the number again before anything is computed.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # UCX, below MPICH, would handle SIGHUP for debugging, but it has to stop the run.
    "UCX_DEBUG_SIGNO": "0",
}
_REPORT_WAIT_S = 3.0  # for the reporting rank to print, before this one's end ends all
_INTERRUPTED_STATUS = 130  # of a shell for a program that SIGINT has ended: 128 + 2


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end this process."""
    set_environment_defaults()
    console.protect_streams()
    console.install_handlers()
    LaunchEnvironment.from_environ().die_with_parent()
    words = sys.argv[1:] if argv is None else argv
    try:
        select_kernels(words)
        status = run_verb(parse_command_line(words))
    except DistbpError as error:
        status = _report_error(error)
    except KeyboardInterrupt:
        sys.stderr.write("distbp: interrupted\n")
        status = _INTERRUPTED_STATUS
    _exit_process(status)


def set_environment_defaults() -> None:
    """Set what libraries read when they are loaded: to be called before NumPy is imported.

    Only by programs: importing a module of distbp never changes the environment.
    """
    for name, value in _ENVIRONMENT_DEFAULTS.items():
        os.environ.setdefault(name, value)


def _exit_process(status: int) -> NoReturn:
    """End this process with an exit status; without `MPI_Finalize` if ranks have failed."""
    sys.stdout.flush()
    sys.stderr.flush()
    if "distbp.parallel.rank_errors" in sys.modules:  # otherwise no ranks are connected
        from distbp.parallel.rank_errors import exit_after_shrink

        exit_after_shrink(status)
    sys.exit(status)


def parse_command_line(argv: Sequence[str]) -> argparse.Namespace:
    """Return the values of the arguments, with the verb as `verb` and all words as `argv`.

    Raises
    ------
    ConfigError
        The verb or an argument is unknown or missing, or a value is not allowed.
    """
    if not argv or argv[0] in ("-h", "--help", "--version"):
        _make_parser().parse_args(argv)
        raise ConfigError("distbp expects a VERB, such as train. See distbp --help.")
    if argv[0] not in VERBS:
        if argv[0].startswith("-"):
            raise ConfigError(
                f"{argv[0]} precedes the verb. Give options after it, as in distbp train --help."
            )
        hint = did_you_mean(argv[0], VERBS)
        raise ConfigError(f"distbp has no verb {argv[0]!r}{hint} See distbp --help.")
    arguments = VERBS[argv[0]].parse(argv[1:])
    arguments.argv = argv
    return arguments


def run_verb(arguments: argparse.Namespace) -> int:
    """Run the verb and return the exit status; a defect on one of several ranks ends them all."""
    try:
        status = arguments.verb.run(arguments)
    except DistbpError:
        raise
    except BaseException as error:
        launch = LaunchEnvironment.from_environ()
        if launch.ranks_started > 1:
            from distbp.parallel.rank_errors import report_and_abort

            launch.write_failure_file(error)
            trace = "".join(traceback.format_exception(error))
            report_and_abort(launch.launcher_rank, launch.ranks_started, trace)
        raise
    # A training has written its result to files: output that is lost does not make it fail.
    if arguments.verb is not TRAIN and (failure := console.output_error()):
        raise DistbpError(
            f"Standard output cannot be written: {failure.strerror}. Free space, or redirect it."
        )
    if status == 0 and _is_reporting_rank():
        LaunchEnvironment.from_environ().write_completion_file()
    return status


def _is_reporting_rank() -> bool:
    """Return whether this rank reports what is the same on all ranks."""
    if "distbp.parallel.topology" in sys.modules:
        from distbp.parallel.topology import connected_topology

        topology = connected_topology()
        if topology is not None:  # the launcher's rank 0 may have failed
            return topology.rank == 0
    return LaunchEnvironment.from_environ().launcher_rank == 0


def _report_error(error: DistbpError) -> int:
    """Print an error, once if all ranks have the same, and return the exit status.

    A launcher kills all ranks as soon as one has failed, which might be before the error is
    printed: so no rank returns until all have an error. If the others have none, this rank
    aborts them.
    """
    from distbp.parallel.rank_errors import abort_unless_all_arrive, timed_barrier
    from distbp.parallel.topology import Topology, connect

    try:
        ranks = connect() if LaunchEnvironment.from_environ().ranks_started > 1 else Topology()
    except DistbpError:  # no connection, or no valid limit for the time that it may take
        ranks = Topology()
    if ranks.size == 1:
        if _is_reporting_rank():
            _print_error(error)
        else:
            time.sleep(_REPORT_WAIT_S)
        return error.status
    abort_unless_all_arrive(ranks, error)
    texts = ranks.world.allgather(str(error))
    if texts.index(str(error)) == ranks.rank:
        _print_error(error)
    timed_barrier(ranks)
    return error.status


def _print_error(error: DistbpError) -> None:
    """Print an error, and write it to the file that the process which started the ranks reads."""
    sys.stderr.write(f"distbp: {error}\n")
    sys.stderr.flush()
    LaunchEnvironment.from_environ().write_error_file(error)


def _make_parser() -> Parser:
    """Return the parser for what precedes a verb, with the help that lists all verbs."""
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {verb.name:{width}}{verb.summary}" for verb in VERBS.values())
    parser = Parser(
        prog="distbp",
        usage="distbp VERB ARGUMENTS\n       distbp VERB --help",
        description="Train dense neural networks on many processes, bit for bit as on one.\n\n"
        f"verbs:\n{verbs}",
        epilog="example:\n  distbp import digits.npz digits.h5\n"
        "  distbp train digits.h5 --out run --ranks 4\n"
        "  distbp evaluate run digits.h5",
    )
    parser.group("options").add_argument(
        "--version", action="version", version=f"distbp {__version__}", help="print the version"
    )
    return parser
