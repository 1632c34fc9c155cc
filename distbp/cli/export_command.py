"""The verb `export`: a model as a file of another format."""

import argparse
from functools import partial
from pathlib import Path

from distbp.cli.model_commands import declare_model
from distbp.cli.parser import Parser, Verb, add_options, given_options


def _declare(parser: Parser) -> None:
    from distbp.interop.interop_options import ExportOptions

    declare_model(parser)
    group = parser.group("output")
    group.add_argument(
        "out", metavar="OUT",
        help="file to write, by its name: .onnx (extra onnx), .safetensors or .npz",
    )  # fmt: skip
    group.add_argument(
        "--force", action="store_true",
        help="overwrite OUT even if distbp may not have written it (default: off)",
    )  # fmt: skip
    add_options(parser, ExportOptions)


def _run(arguments: argparse.Namespace) -> int:
    from distbp.parallel.rank_errors import abort_on_error, run_on_rank_0
    from distbp.parallel.topology import connect

    comm = connect()
    with abort_on_error(comm):
        size = run_on_rank_0(comm, partial(_export, arguments))
    if comm.rank == 0:
        print(f"{arguments.out}: {size:,} bytes")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    """Write the file, and return its size."""
    from distbp.errors import ConfigError
    from distbp.interop.interop_options import ExportOptions
    from distbp.interop.model_export import check_export_name, export

    out = Path(arguments.out)
    check_export_name(out)
    if out.exists() and not (arguments.force and out.is_file()):
        raise ConfigError(
            f"{out} exists already. Give the output another name, or overwrite it with --force."
        )
    export(arguments.model, out, **given_options(arguments, ExportOptions))
    return out.stat().st_size


EXPORT = Verb(
    "export",
    "Write a model for other programs: ONNX, safetensors or NumPy.",
    "MODEL OUT [OPTIONS]",
    "distbp export run model.onnx",
    _declare,
    _run,
)
