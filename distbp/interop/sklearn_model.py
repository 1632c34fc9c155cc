"""A fitted multi-layer perceptron of scikit-learn as a model of distbp.

It is taken as a Python object: files of scikit-learn are pickles, which distbp does not load.
scikit-learn itself is not imported; what counts is what the estimator has.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distbp.data.labels import number_name
from distbp.errors import ConfigError, DataError
from distbp.interop.conversion import convert
from distbp.interop.dense_model import DenseModel, make_layer
from distbp.interop.interop_options import ImportModelOptions
from distbp.storage.checkpoint import Checkpoint, write_checkpoint

_ACTIVATIONS = {
    "identity": "linear", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu",
    "softmax": "softmax",
}  # fmt: skip
# By the kinds of NumPy's types.
_LABEL_TYPES = {"b": "bool", "i": "int", "u": "int", "f": "float"}


def from_sklearn(estimator: Any, out: str | Path | None = None) -> Checkpoint:
    """Return a checkpoint with the weights of a fitted estimator of scikit-learn.

        model = make_pipeline(StandardScaler(), MLPClassifier((50,))).fit(x, y)
        checkpoint = distbp.interop.from_sklearn(model, "model.h5")
        distbp.predict("model.h5", x)      # as model.predict_proba(x)

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor, or a pipeline
        A pipeline may have a StandardScaler or MinMaxScaler before the perceptron.
    out : path, optional
        Checkpoint to write, for `distbp predict`, `evaluate` and `train --init-from`.

    Raises
    ------
    DataError
        It is something else, or not fitted.
    """
    steps = [step for _, step in getattr(estimator, "steps", [("", estimator)])]
    steps = [step for step in steps if step not in (None, "passthrough")]
    name = type(estimator).__name__
    mlp: Any = steps[-1] if steps else None
    if not hasattr(mlp, "hidden_layer_sizes"):
        raise DataError(
            f"{name} is not an MLPClassifier or MLPRegressor, nor a pipeline that ends in one. Fit "
            "one of these."
        )
    if not hasattr(mlp, "coefs_"):
        raise DataError(f"The {name} is not fitted. Call its fit method first.")
    if mlp.activation not in _ACTIVATIONS or mlp.out_activation_ not in _ACTIVATIONS:
        raise DataError(
            f"The {name} has the activations {mlp.activation} and {mlp.out_activation_}, of "
            f"which distbp supports {', '.join(_ACTIVATIONS)}."
        )
    try:
        model = _dense_model(mlp)
        _add_scaling(model, steps[:-1])
        checkpoint = convert(model, Path(name), _options_of(mlp))
    except ValueError as failure:
        raise DataError(f"The {name} cannot become a model of distbp: {failure}.") from failure
    if out is not None:
        write_checkpoint(Path(out), checkpoint)
    return checkpoint


def _dense_model(mlp: Any) -> DenseModel:
    last = len(mlp.coefs_) - 1
    layers = [
        make_layer(
            f"coefs_[{l}]",
            np.asarray(w).T,
            np.asarray(b),
            _ACTIVATIONS[mlp.activation if l < last else mlp.out_activation_],
        )
        for l, (w, b) in enumerate(zip(mlp.coefs_, mlp.intercepts_, strict=True))
    ]
    model = DenseModel(layers, "scikit-learn")
    classes = getattr(mlp, "classes_", None)
    if classes is not None:
        model.classes, model.label_type = _class_names(np.asarray(classes))
        model.is_pair = layers[-1].n_out == 1 and len(model.classes) == 2
    return model


def _class_names(classes: np.ndarray) -> tuple[list[str], str | None]:
    """Return the names of classes as a data set has them, and their type if they are numbers."""
    kind = _LABEL_TYPES.get(classes.dtype.kind)
    if kind is None:
        return [str(one) for one in classes.tolist()], None
    numbers = classes.astype(np.int64) if kind == "bool" else classes
    return [number_name(one) for one in numbers], kind


def _options_of(mlp: Any) -> ImportModelOptions:
    if not hasattr(mlp, "classes_"):
        return ImportModelOptions(task="regression")
    is_multilabel = mlp.out_activation_ == "logistic" and len(mlp.classes_) == mlp.n_outputs_
    return ImportModelOptions(task="multilabel" if is_multilabel else "classification")


def _add_scaling(model: DenseModel, steps: Sequence[Any]) -> None:
    """Set the scaling that a scaler before the perceptron does."""
    if not steps:
        return
    scaler = steps[0]
    n_in = model.layers[0].n_in
    if len(steps) > 1 or type(scaler).__name__ not in ("StandardScaler", "MinMaxScaler"):
        raise ConfigError(
            f"The pipeline has {', '.join(type(one).__name__ for one in steps)} before the "
            "perceptron; distbp takes one StandardScaler or MinMaxScaler. Transform the rows "
            "before, and give the last step alone."
        )
    if type(scaler).__name__ == "StandardScaler":
        mean, deviation = (getattr(scaler, one, None) for one in ("mean_", "scale_"))
        model.shift = np.zeros(n_in) if mean is None else np.asarray(mean, np.float64)
        model.scale = np.ones(n_in) if deviation is None else 1.0 / np.asarray(deviation)
        return
    if scaler.clip:
        raise ConfigError("The MinMaxScaler clips, which distbp does not. Fit one without clip.")
    # x · scale_ + min_
    model.scale = np.asarray(scaler.scale_, np.float64)
    model.shift = -np.asarray(scaler.min_, np.float64) / model.scale
