"""Small data sets, written as `distbp import` writes them, and ways to train on them.

Row counts are primes, so that no number of ranks or shards and no batch size divides
them. `RECIPES` together use every option that affects training.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distbp.data.dataset import DATA_FORMAT, WEIGHTS, dtype_and_shape, version_for
from distbp.errors import DataError
from distbp.storage import hdf5_file
from distbp.storage.preprocessing import Preprocessing
from distbp.storage.scaling import Scaling, TargetScaling

ROWS = {"train": 503, "test": 101}
N_CLASSES = 5
SHAPE = (8, 6)


def write(
    path: Path,
    splits: dict[str, tuple[np.ndarray, np.ndarray]],
    scaling: Scaling,
    classes: int = 0,
    task: str | None = None,
    target: TargetScaling | None = None,
    preprocessing: Preprocessing | None = None,
    weights: np.ndarray | None = None,
    **storage: Any,
) -> Path:
    """Write arrays (x, y) of each split; `classes` is 0 for regression, `weights` are of train."""
    bits, task = hashlib.sha256(), task or ("classification" if classes else "regression")
    version = version_for(task, target is not None, weights is not None)
    with hdf5_file.create_file(path, DATA_FORMAT, version, DataError) as file:
        for name, (x, y) in splits.items():
            file.create_dataset(f"{name}/x", data=x, track_times=False, **storage)
            hdf5_file.write_array(file, f"{name}/y", y)
            bits.update(x.tobytes() + y.tobytes())
        if weights is not None:
            file.create_dataset(WEIGHTS, data=weights, track_times=False, **storage)
            bits.update(weights.tobytes())
        scaling.write(file)
        if target is not None:
            target.write(file)
        about = {
            "task": task,
            "classes": [f"class {number}" for number in range(classes)],
            "shape": list(splits["train"][0].shape[1:]),
            "scaling": "by hand",
            "source": {"files": ["samples.py"], "sha256": "0" * 64},
            "split": "by hand",
            "digest": bits.hexdigest(),
            "arrays": {f"{n}/{p}": dtype_and_shape(file[n][p]) for n in splits for p in "xy"},
        }
        if weights is not None:
            about["arrays"][WEIGHTS] = dtype_and_shape(file[WEIGHTS])
        if preprocessing is not None:
            about["preprocessing"] = preprocessing.to_json()
        hdf5_file.write_json(file, "about", about)
    return path


def forget_arrays(file: h5py.File) -> None:
    """Remove types and shapes from `about`, so that other arrays are accepted."""
    about = json.loads(file["about"][...].tobytes())
    del about["arrays"], file["about"]
    hdf5_file.write_json(file, "about", about)


def digits(path: Path, rows: dict[str, int] | None = None, **storage: Any) -> Path:
    """Write bytes in five classes: noisy images that a small network can classify."""
    random = np.random.default_rng(7)
    shapes = random.integers(0, 200, (N_CLASSES, *SHAPE))
    splits = {}
    for name, n in (rows or ROWS).items():
        y = random.integers(0, N_CLASSES, n)
        noise = random.integers(0, 56, (n, *SHAPE))
        splits[name] = ((shapes[y] * random.random((n, 1, 1)) + noise).astype(np.uint8), y)
    return write(path, splits, Scaling(np.zeros(1), np.array([1 / 255])), N_CLASSES, **storage)


def numbers(path: Path, rows: dict[str, int] | None = None, **storage: Any) -> Path:
    """Write a regression of three targets on eleven features, standardized."""
    random = np.random.default_rng(8)
    map_to_y = random.normal(size=(11, 3))
    splits = {}
    for name, n in (rows or ROWS).items():
        x = random.normal(3.0, 2.0, (n, 11)).astype(np.float32)
        splits[name] = (x, np.tanh(x @ map_to_y / 9) + 0.05 * random.normal(size=(n, 3)))
    scaling = Scaling(np.full(11, 3.0), np.linspace(0.4, 0.6, 11))
    return write(path, splits, scaling, **storage)


def prices(path: Path, rows: dict[str, int] | None = None, **storage: Any) -> Path:
    """Write a regression of two targets of very different size, which are to be standardized."""
    random = np.random.default_rng(9)
    map_to_y = random.normal(size=(5, 2))
    splits = {}
    for name, n in (rows or ROWS).items():
        x = random.normal(size=(n, 5))
        y = x @ map_to_y + np.abs(x[:, :2]) + 0.1 * random.normal(size=(n, 2))
        splits[name] = (x, np.array([200_000, -3]) + np.array([50_000, 0.01]) * y)
    y = splits["train"][1]
    target = TargetScaling(y.mean(axis=0), 1 / y.std(axis=0))
    return write(path, splits, Scaling(np.zeros(1), np.ones(1)), target=target, **storage)


def labels(path: Path, rows: dict[str, int] | None = None, **storage: Any) -> Path:
    """Write bytes with four labels of 0 or 1 a row: which of four shapes an image shows."""
    random = np.random.default_rng(10)
    shapes = random.integers(0, 60, (4, *SHAPE))
    splits = {}
    for name, n in (rows or ROWS).items():
        y = random.integers(0, 2, (n, 4)).astype(np.uint8)
        noise = random.integers(0, 16, (n, *SHAPE))
        splits[name] = ((np.tensordot(y, shapes, 1) + noise).astype(np.uint8), y)
    scaling = Scaling(np.zeros(1), np.array([1 / 255]))
    return write(path, splits, scaling, 4, "multilabel", **storage)


def weighted(path: Path, rows: dict[str, int] | None = None, **storage: Any) -> Path:
    """Write `digits` whose training rows have weights, one in ten of them 0."""
    rows = rows or ROWS
    weights = np.random.default_rng(11).integers(0, 10, rows["train"]) / 4
    return digits(path, rows, weights=weights, **storage)


PACKED = {"chunks": True, "compression": "gzip", "shuffle": True}
WITH_VALIDATION = ROWS | {"validation": 97}

# name of a data set: how to write it
DATA_SETS = {
    "digits": lambda path: digits(path),
    "digits packed": lambda path: digits(path, WITH_VALIDATION, **PACKED),
    "weighted packed": lambda path: weighted(path, **PACKED),
    "numbers": lambda path: numbers(path),
    "numbers packed": lambda path: numbers(path, WITH_VALIDATION, **PACKED),
    "prices": lambda path: prices(path),
    "labels": lambda path: labels(path),
    "labels packed": lambda path: labels(path, WITH_VALIDATION, **PACKED),
}


def write_all(folder: Path) -> dict[str, Path]:
    """Write every data set into a folder; return the files by name."""
    return {name: make(folder / f"{name.replace(' ', '-')}.h5") for name, make in DATA_SETS.items()}


@dataclass(frozen=True)
class Recipe:
    """A way to train: a data set's name, and options of `distbp.Config`."""

    data: str
    options: dict[str, Any] = field(default_factory=dict)

    def flags(self) -> list[str]:
        """Return the options as on the command line."""
        words = []
        for name, value in self.options.items():
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
        return words


def recipe(data: str, **options: Any) -> Recipe:
    return Recipe(data, {"epochs": 3} | options)


RECIPES = {
    "all defaults": recipe("digits"),
    "more shards than rows in the last batch": recipe(
        "digits", batch_size=50, shards=7, hidden=(20, 12), activation="elu", optimizer="momentum"
    ),
    "clipped, float64": recipe(
        "digits", batch_size=64, shards=5, dtype="float64", dropout=0.3, clip_norm=0.3,
        optimizer="nesterov", momentum=0.8, learning_rate=0.02, activation="sigmoid",
        cost="cross-entropy",
    ),
    "adam, penalties, cosine": recipe(
        "digits", batch_size=71, shards=3, optimizer="adam", l1=0.1, l2=0.5, schedule="cosine",
        warmup_epochs=1.5, learning_rate=0.01, seed=5,
    ),
    "clipped, in steps": recipe(
        "digits", batch_size=90, shards=6, clip_norm=0.3, schedule="step", decay=0.7,
        decay_epochs=1, init="large", cost="quadratic", hidden=(30,),
        activation="leaky-relu",
    ),
    "wide, clipped, held out": recipe(
        "digits", batch_size=101, shards=13, hidden=(310,), optimizer="adam", clip_norm=1.0,
        validation=0.2,
    ),
    "no hidden layer": recipe(
        "digits", batch_size=97, shards=8, hidden=(), optimizer="nadam", learning_rate=0.01,
        label_smoothing=0.1,
    ),
    "weighted, held out": recipe(
        "weighted packed", batch_size=60, shards=7, class_weight="balanced", validation=0.2, l2=0.5,
    ),
    "plateau": recipe(
        "digits packed", batch_size=60, shards=4, schedule="plateau", decay_epochs=1,
        learning_rate=1.5, epochs=5, hidden=(9,), metrics=("roc-auc", "log-loss"),
        monitor="validation_f1",
    ),
    "patience": recipe(
        "digits packed", batch_size=80, shards=5, patience=1, epochs=40, learning_rate=2.5,
        hidden=(17,), dropout=0.2,
    ),
    "regression": recipe(
        "numbers", batch_size=70, shards=8, optimizer="rmsprop", learning_rate=0.01, cost="mae",
        validation=0.25,
    ),
    "regression, packed, float64": recipe(
        "numbers packed", batch_size=120, shards=11, dtype="float64", l2=1.0,
        schedule="plateau", decay_epochs=2, patience=3, epochs=4, activation="tanh",
    ),
    "scaled targets": recipe(
        "prices", batch_size=60, shards=5, validation=0.2, patience=3, optimizer="adamw",
        weight_decay=0.1, learning_rate=0.01, activation="gelu", cost="huber",
        ema=0.9,
    ),
    "multilabel": recipe(
        "labels", batch_size=70, shards=4, optimizer="adam", dropout=0.1, activation="silu"
    ),
    "multilabel, packed, quadratic": recipe(
        "labels packed", batch_size=64, shards=6, cost="quadratic", learning_rate=2.0,
        activation="softplus",
    ),
}  # fmt: skip
