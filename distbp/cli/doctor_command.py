"""The verb `doctor`: what is slow, unsafe or broken on this machine, and what to do."""

import argparse
import json
import os

from distbp.cli.parser import Parser, Verb, add_options
from distbp.cli.rank_options import RankOptions, should_start_ranks
from distbp.errors import LaunchError
from distbp.terminal import terminal_widths

_NOTES = """\
The exit status is 1 if there is a problem, and 0 otherwise, also with warnings.
Alone it takes about 5 seconds, and starts two ranks as a trial. Under mpirun or
srun, rank 0 prints one table for all hosts."""


def _declare(parser: Parser) -> None:
    parser.group("files").add_argument(
        "--out", metavar="FOLDER", nargs="+", default=["."],
        help="folders for data and runs, to try (default: the current one)",
    )  # fmt: skip
    add_options(parser, RankOptions)
    parser.group("output").add_argument(
        "--json", action="store_true", help="print JSON instead of a table (default: off)"
    )
    # How this program starts itself, to look at what may end or block a process.
    parser.add_argument("--probe", metavar="FILE", help=argparse.SUPPRESS)
    parser.epilog = f"{parser.epilog}\n\n{_NOTES}"


def _run(arguments: argparse.Namespace) -> int:
    if arguments.probe:
        from distbp.doctor.probe import run_probe

        run_probe(arguments.probe)
        return 0
    should_start_ranks(getattr(arguments, "ranks", None))  # or raise, if there are some already
    from distbp.doctor.examination import examine, judge
    from distbp.doctor.finding import Verdict, worst
    from distbp.doctor.table import table_lines, to_json

    try:
        found = examine(arguments.out, getattr(arguments, "ranks", None))
    except OSError as failure:  # of a temporary folder, as everything else is a finding
        raise LaunchError(
            f"No temporary folder can be used: {failure.strerror or failure}. Free space, or set "
            f"TMPDIR to another folder."
        ) from failure
    if found is None:  # another rank prints
        return 0
    findings = judge(found)
    if arguments.json:
        print(json.dumps(to_json(found, findings), indent=2))
    else:
        width = 0 if "NO_COLOR" in os.environ else terminal_widths()[0]
        print("\n".join(table_lines(findings, width)))
    return int(worst(findings) == Verdict.PROBLEM)


DOCTOR = Verb(
    "doctor",
    "Look for what is slow or broken on this machine.",
    "[--out FOLDER …] [OPTIONS]",
    "distbp doctor --ranks 4",
    _declare,
    _run,
)
