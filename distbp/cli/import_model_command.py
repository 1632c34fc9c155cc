"""The verb `import-model`: a model of another program as a checkpoint."""

import argparse
import shlex
from functools import partial

from distbp.cli.parser import Parser, Verb, add_options, given_options


def _declare(parser: Parser) -> None:
    from distbp.interop.interop_options import ImportModelOptions

    parser.group("files").add_argument(
        "file", metavar="FILE",
        help="ONNX (.onnx), a state_dict of PyTorch (.safetensors), Keras (.keras, .h5), or what "
        "distbp export has written",
    )  # fmt: skip
    parser.group("files").add_argument(
        "--out", required=True, metavar="MODEL.h5", help="checkpoint to write (required)"
    )
    add_options(parser, ImportModelOptions)


def _run(arguments: argparse.Namespace) -> int:
    from distbp.parallel.rank_errors import abort_on_error, run_on_rank_0
    from distbp.parallel.topology import connect

    comm = connect()
    with abort_on_error(comm):
        text = run_on_rank_0(comm, partial(_import_model, arguments))
    if comm.rank == 0:
        print(text)
    return 0


def _import_model(arguments: argparse.Namespace) -> str:
    """Write the checkpoint, and return what to say."""
    from distbp.interop.interop_options import ImportModelOptions
    from distbp.interop.model_import import read_model

    options = given_options(arguments, ImportModelOptions)
    found = read_model(arguments.file, arguments.out, **options)
    network, classes = found.network, found.about["classes"]
    layers = "-".join(map(str, network.sizes))
    what = f"{found.about['task']}" + f", {len(classes):,} names" * bool(classes)
    return (
        f"{arguments.out}: {layers}, {network.activation} … {network.output}, {what}\n"
        f"next   distbp info {shlex.quote(arguments.out)}"
    )


IMPORT_MODEL = Verb(
    "import-model",
    "Convert a model of PyTorch, Keras or ONNX to a checkpoint.",
    "FILE --out MODEL.h5 [OPTIONS]",
    "distbp import-model net.safetensors --out net.h5 --activation relu",
    _declare,
    _run,
)
