"""Writing a model for other programs: ONNX, safetensors or npz, by the name of the file."""

from pathlib import Path
from typing import Any

from distbp.errors import CheckpointError, ConfigError
from distbp.interop.interop_options import ExportOptions
from distbp.interop.npz_file import write_npz
from distbp.interop.onnx_writer import write_onnx
from distbp.interop.safetensors_file import write_safetensors
from distbp.storage.atomic import atomic_write
from distbp.storage.checkpoint import Checkpoint
from distbp.storage.run_directory import load_checkpoint

_SUFFIXES = (".onnx", ".safetensors", ".npz")


def check_export_name(path: Path) -> str:
    """Return the suffix of a file to export to; ConfigError if it means no format."""
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConfigError(f"{path}: expected a name that ends in {' or '.join(_SUFFIXES)}.")
    return suffix


def export(model: Any, path: str | Path, **options: Any) -> None:
    """Write a model for other programs.

    Parameters
    ----------
    model : path, Checkpoint, or an object with a `checkpoint`
        A checkpoint file, or the directory of a run: its newest valid checkpoint.
    path : path
        By its name: .onnx, .safetensors or .npz. A file that is there is overwritten.
    **options
        Those of `distbp export`: `input_dtype`, `unknown`, `layers`.

    Raises
    ------
    CheckpointError
        There is no valid checkpoint, or the file cannot be written.
    ConfigError
        The name or an option is not allowed, a package is missing, or the format has no form
        for the model.
    """
    path, chosen = Path(path), _make_options(options)
    suffix = check_export_name(path)
    checkpoint = checkpoint_of(model)
    with atomic_write(path, CheckpointError) as temporary:
        if suffix == ".onnx":
            write_onnx(temporary, checkpoint, chosen)
        elif suffix == ".safetensors":
            write_safetensors(temporary, checkpoint, chosen.layers)
        else:
            write_npz(temporary, checkpoint)


def _make_options(options: dict[str, Any]) -> ExportOptions:
    try:
        return ExportOptions(**options)
    except TypeError as failure:
        raise ConfigError(f"export: {failure}. See distbp export --help.") from failure


def checkpoint_of(model: Any) -> Checkpoint:
    """Return the checkpoint of a model: itself, that of an object, or one that is read."""
    if isinstance(model, Checkpoint):
        return model
    found = getattr(model, "checkpoint", None)
    if isinstance(found, Checkpoint):
        return found
    return load_checkpoint(model, stacklevel=3)
