"""A table of people, and models trained on it, for tests of predictions."""

from pathlib import Path

import numpy as np
import pandas
import samples

from distbp.data.table_reader import frame_reader
from distbp.parallel.topology import Topology
from distbp.storage.preprocessing import Feature, Preprocessing
from distbp.storage.scaling import Scaling, TargetScaling
from distbp.training.config import Config
from distbp.training.loop import train

FEATURES = (
    Feature("age", fill=40.0, has_indicator=True),
    Feature("sex", ("female", "male")),
    Feature("town", ("Bonn", "Köln, Süd", "Trier"), fill="Bonn"),
    Feature("income"),
)
LABELS = {
    "classification": ("kind",), "regression": ("price",), "multilabel": ("red", "green", "blue")
}  # fmt: skip


def people(rows: int, seed: int = 0) -> pandas.DataFrame:
    """Return a table with features in another order, labels of every task, and other columns."""
    random = np.random.default_rng(seed)
    age = random.integers(18, 90, rows).astype(float)
    age[::7] = np.nan
    town = random.choice(["Trier", "Bonn", "Köln, Süd"], rows).astype(object)
    town[::5] = None
    return pandas.DataFrame(
        {
            "name": [f"{i:05}" for i in range(rows)],
            "income": random.normal(3000, 900, rows).round(2),
            "town": town,
            "kind": [f"class {i}" for i in random.integers(0, 3, rows)],
            "sex": random.choice(["male", "female"], rows),
            "price": random.uniform(1e5, 4e5, rows).round(),
            **{color: random.integers(0, 2, rows) for color in LABELS["multilabel"]},
            "age": age,
        }
    )


def encode(frame: pandas.DataFrame, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of a table as a data set stores them."""
    with frame_reader(frame) as reader:
        kinds = {one.name: one.kind for one in FEATURES}
        blocks = [
            Preprocessing(FEATURES, ()).encode(block.columns, "error", reader.locate)
            for block in reader.blocks(list(kinds), kinds)
        ]
    x = np.concatenate(blocks)
    if task == "classification":
        return x, np.array([int(text[-1]) for text in frame["kind"]])
    if task == "regression":
        return x, np.log(frame[["price"]].to_numpy())
    return x, frame[list(LABELS[task])].to_numpy(np.uint8)


def write_data(path: Path, frame: pandas.DataFrame, task: str, dtype: str = "float64") -> Path:
    """Write a data set of which the whole table is `train`."""
    x, y = encode(frame, task)
    shift, scale = x.mean(axis=0), 1 / x.std(axis=0)
    target = None
    if task == "regression":
        target = TargetScaling(y.mean(axis=0), 1 / y.std(axis=0))
    transform = "log" if task == "regression" else "none"
    table = Preprocessing(FEATURES, LABELS[task], transform)
    return samples.write(
        path, {"train": (x, y)}, Scaling(shift, scale), 0 if task == "regression" else 3, task,
        target, table,
    )  # fmt: skip


def train_model(path: Path, run: Path) -> None:
    """Train a small model for an epoch, on this process."""
    train(Config(data=path, out=run, hidden=(9,), epochs=1, quiet=True), comm=Topology())
