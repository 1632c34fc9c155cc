"""The verb `report`: a page on one or several runs, or its figures as pictures."""

import argparse
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from distbp.cli.parser import Parser, Verb
from distbp.errors import ConfigError

_REQUIRED = ("matplotlib", "jinja2")


def _declare(parser: Parser) -> None:
    files = parser.group("files")
    files.add_argument(
        "runs", metavar="RUN", nargs="+",
        help="directory of a run, also of one that is going on; several are compared",
    )  # fmt: skip
    files.add_argument(
        "--data", metavar="DATA.h5",
        help="data set of the runs, if it is not where they had it (default: theirs)",
    )  # fmt: skip
    group = parser.group("output")
    group.add_argument(
        "--out",
        metavar="FILE.html",
        help="page to write, which needs no other file (default: none)",
    )
    group.add_argument(
        "--png", metavar="FOLDER", help="directory to write the plots to (default: none)"
    )
    group.add_argument(
        "--force", action="store_true",
        help="overwrite files even if distbp may not have written them (default: off)",
    )  # fmt: skip


def _run(arguments: argparse.Namespace) -> int:
    from distbp.parallel.rank_errors import abort_on_error, run_on_rank_0
    from distbp.parallel.topology import connect

    comm = connect()
    with abort_on_error(comm):
        lines = run_on_rank_0(comm, partial(_write, arguments))
    if comm.rank == 0:
        print("\n".join(lines))
    return 0


def _write(arguments: argparse.Namespace) -> list[str]:
    """Write what was asked for, and return a line about each."""
    if not arguments.out and not arguments.png:
        raise ConfigError("distbp report writes a page, --out FILE.html, or plots, --png FOLDER.")
    for name in _REQUIRED:
        if find_spec(name) is None:
            raise ConfigError(
                f"distbp report needs {name}, which is not installed. Install it: "
                "pip install 'distbp[report]'."
            )
    from distbp.report.contents import make_page
    from distbp.report.page import check_overwrite, write_page, write_pictures
    from distbp.report.reported_run import read_runs

    if arguments.out:  # before anything takes long
        check_overwrite(Path(arguments.out), arguments.force)
    page = make_page(read_runs(arguments.runs), arguments.data)
    lines = []
    if arguments.out:
        path = Path(arguments.out)
        write_page(page, path, arguments.force)
        lines.append(f"{path}: {path.stat().st_size:,} bytes")
    if arguments.png:
        written = write_pictures(page, Path(arguments.png), arguments.force)
        lines.append(f"{arguments.png}: {len(written)} plots")
    return lines


REPORT = Verb(
    "report",
    "Write a page on runs: curves, errors, times, options, faults.",
    "RUN [RUN …] --out FILE.html [--png FOLDER]",
    "distbp report run --out report.html",
    _declare,
    _run,
)
