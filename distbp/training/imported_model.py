"""Models of other programs as a `Model`."""

from pathlib import Path
from typing import Any

from distbp.interop.model_import import read_model
from distbp.training.model import Model


def import_model(path: str | Path, out: str | Path | None = None, **options: Any) -> Model:
    """Return a model of another program as one of distbp.

        model = distbp.import_model("net.onnx")
        model.predict(x)
        distbp.import_model("net.safetensors", "net.h5", activation="relu", output="softmax")

    Parameters
    ----------
    path : path
        An ONNX file; a `state_dict` of PyTorch in .safetensors; a .keras file, or .h5 of Keras;
        or what `distbp.export` has written.
    out : path, optional
        Checkpoint to write, for `distbp predict`, `evaluate` and `train --init-from`.
    **options
        Those of `distbp import-model`: `activation`, `output`, `cost`, `task`, `classes`, `layers`,
        `data`.

    Raises
    ------
    ConfigError
        The name or an option is not allowed or does not fit the model, one is needed, a package
        is missing, or `out` is a file that distbp has not written.
    DataError
        The file is damaged, or is no chain of dense layers that distbp supports.
    CheckpointError
        `out` cannot be written.
    """
    return Model(read_model(path, out, **options))
