"""Reading models of other programs, by the name of the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distbp.errors import ConfigError, DataError
from distbp.interop.interop_options import ImportModelOptions
from distbp.interop.keras_file import read_keras, read_keras_hdf5
from distbp.interop.npz_file import read_npz
from distbp.interop.onnx_reader import read_onnx
from distbp.interop.state_dict import read_safetensors
from distbp.storage import hdf5_file
from distbp.storage.checkpoint import CHECKPOINT_FORMAT, Checkpoint, write_checkpoint

_READERS: dict[str, Callable[[Path, ImportModelOptions], Checkpoint]] = {
    ".onnx": read_onnx,
    ".safetensors": read_safetensors,
    ".npz": lambda path, options: read_npz(path),
    ".keras": read_keras,
    ".h5": read_keras_hdf5,
    ".hdf5": read_keras_hdf5,
}
_TORCH = "save its weights: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
_SKLEARN = (
    "in Python call distbp.interop.from_sklearn(estimator, 'model.h5'), or make an ONNX file with "
    "skl2onnx"
)
_PICKLES = {
    ".pt": _TORCH, ".pth": _TORCH, ".bin": _TORCH, ".ckpt": _TORCH,
    ".pkl": _SKLEARN, ".pickle": _SKLEARN, ".joblib": _SKLEARN, ".skops": _SKLEARN,
}  # fmt: skip


def read_model(path: str | Path, out: str | Path | None = None, **options: Any) -> Checkpoint:
    """Return a model of another program as a checkpoint; see `distbp.import_model`."""
    path, chosen = Path(path), _make_options(options)
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise DataError(
            f"{path} is a pickle, by its name; loading one could run any code in it. Instead "
            f"{_PICKLES[suffix]}."
        )
    if suffix not in _READERS:
        raise ConfigError(f"{path}: expected a name that ends in {', '.join(_READERS)}.")
    if out is not None:
        if Path(out).resolve() == path.resolve():
            raise ConfigError(f"--out {out} would overwrite the model itself. Name another file.")
        hdf5_file.check_replaceable(Path(out), CHECKPOINT_FORMAT)
    checkpoint = _READERS[suffix](path, chosen)
    if out is not None:
        write_checkpoint(Path(out), checkpoint)
    return checkpoint


def _make_options(options: dict[str, Any]) -> ImportModelOptions:
    try:
        return ImportModelOptions(**options)
    except TypeError as failure:
        raise ConfigError(f"import_model: {failure}. See distbp import-model --help.") from failure
