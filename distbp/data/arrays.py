"""Arrays and data frames in memory as a data set, by the rules of an import.

`make_data_set` interprets labels, chooses the scaling and computes the digest as `importing` does,
so that the same arrays are the same data set whether they come from a file or not. An array that
can be used as it is, is not copied.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distbp.data.array_checks import feature_array, label_array
from distbp.data.dataset import SPLIT_NAMES, WEIGHTS, DataSet, Split
from distbp.data.dataset_writer import MemoryOutput, write_splits
from distbp.data.frames import is_frame, join_frames
from distbp.data.importing import check_options, choose_target_scaling, interpret
from distbp.data.sources import SOURCE_FORMATS
from distbp.data.table_source import read_rows
from distbp.data.tables import ImportOptions, Source, Table
from distbp.errors import ConfigError
from distbp.parallel.shared_array import SharedArray, filled_shared_array
from distbp.parallel.topology import Topology
from distbp.storage.scaling import Scaling, TargetScaling

_ORIGIN = {"files": ["arrays"], "sha256": ""}
_ARRAY_OPTIONS = frozenset({"task"})
_LABEL_TYPES = {"b": "bool", "i": "int", "u": "int", "f": "float"}

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Arrays:
    """What a caller passes to be trained on.

    Attributes
    ----------
    train : (x, y)
        Arrays of n rows, or data frames; see `distbp.train` and `frames.join_frames`.
    validation, test : (x, y), optional
    sample_weight : (n,) array, optional
        Weights of the rows of train; for data frames also the name of a column.
    classes : sequence, optional
        All classes, in order; see `labels.infer_task`.
    """

    train: Pair
    validation: Pair | None = None
    test: Pair | None = None
    sample_weight: Any = None
    classes: Sequence[Any] | None = None

    @property
    def given(self) -> list[str]:
        """What was passed, by the names of the parameters of `distbp.train`."""
        found = {"x": self.train[0], "y": self.train[1], **vars(self)}
        return [name for name, one in found.items() if name != "train" and one is not None]

    @property
    def is_empty(self) -> bool:
        """Whether there are no rows to train on."""
        return self.train[0] is None

    @property
    def splits(self) -> dict[str, Pair]:
        """The pairs that there are, by the name of the split.

        Raises
        ------
        ConfigError
            One is no pair.
        """
        pairs = {name: getattr(self, name) for name in SPLIT_NAMES}
        return {name: _as_pair(name, pair) for name, pair in pairs.items() if pair is not None}


def _as_pair(name: str, given: Any) -> Pair:
    if is_frame(given):  # with its labels
        return given, None
    if isinstance(given, tuple | list) and len(given) == 2:
        return given[0], given[1]
    raise ConfigError(
        f"{name} is a {type(given).__name__}; expected a pair (x, y), or a data frame with labels."
    )


def make_data_set(arrays: Arrays, options: ImportOptions) -> tuple[DataSet, bool]:
    """Return the data set that an import of the same arrays writes.

    Returns
    -------
    DataSet
    bool
        Whether its rows were copied.

    Raises
    ------
    ConfigError
        Options contradict one another, or do not apply.
    DataError
        An array is not what it should be.
    """
    output = MemoryOutput()
    with _source(arrays, options) as (found, options, label_type):
        splits, about = interpret(found, options, _ORIGIN, arrays.classes)
        wanted = choose_target_scaling(about["task"], options.target_scaling)
        stored, scaling, target = write_splits(
            output, splits, options.scaling, wanted, lambda rows: None
        )
    about |= stored | {"label_type": label_type}
    parts = {
        one.name: Split(output.arrays[f"{one.name}/x"], output.arrays[f"{one.name}/y"])
        for one in splits
    }
    parts["train"].weights = output.arrays.get(WEIGHTS)
    return DataSet.in_memory(about, parts, scaling, target), output.is_copied


def share_on_nodes(topology: Topology, data: DataSet) -> DataSet:
    """Return the same data set, of which a node has one copy; collective."""
    if max(topology.node_sizes) == 1:
        return data

    def share(array: np.ndarray) -> np.ndarray:
        return filled_shared_array(
            topology, array.shape, array.dtype, lambda out: np.copyto(out, array)
        )

    splits = {name: Split(*map(share, _typed(split))) for name, split in data.splits.items()}
    weights = data.splits["train"].weights
    splits["train"].weights = None if weights is None else share(weights)
    return DataSet.in_memory(data.about, splits, data.scaling, data.target)


def distribute_data(topology: Topology, data: DataSet | None) -> DataSet:
    """Return rank 0's data set on all ranks, one copy a node; collective."""
    world = topology.world
    if world.size == 1 and data is not None:
        return data
    arrays: dict[str, np.ndarray] = {}
    sent = None
    if data is not None:
        for name, split in data.splits.items():
            arrays[f"{name}/x"], arrays[f"{name}/y"] = _typed(split)
        if data.splits["train"].weights is not None:
            arrays[WEIGHTS] = data.splits["train"].weights
        numbers = {"shift": data.scaling.shift, "scale": data.scaling.scale}
        if data.target is not None:
            numbers |= {"target shift": data.target.shift, "target scale": data.target.scale}
        sent = {
            "about": data.about,
            "arrays": {name: [one.dtype.str, *one.shape] for name, one in arrays.items()},
            "numbers": {name: one.tolist() for name, one in numbers.items()},
        }
    sent = world.broadcast(sent)
    copies = {
        name: _broadcast_array(topology, arrays.get(name), np.dtype(kind), tuple(shape))
        for name, (kind, *shape) in sent["arrays"].items()
    }
    numbers = {name: np.array(one) for name, one in sent["numbers"].items()}
    splits = {
        name: Split(copies[f"{name}/x"], copies[f"{name}/y"])
        for name in SPLIT_NAMES
        if f"{name}/x" in copies
    }
    splits["train"].weights = copies.get(WEIGHTS)
    scaling = Scaling(numbers["shift"], numbers["scale"])
    target = None
    if "target shift" in numbers:
        target = TargetScaling(numbers["target shift"], numbers["target scale"])
    return DataSet.in_memory(sent["about"], splits, scaling, target)


def _typed(split: Split) -> list[np.ndarray]:
    """Return x and y of a split with their own types: (n, numbers of a row)."""
    return [split.x.view(split.x_dtype), split.y.view(split.y_dtype)]


def _broadcast_array(
    topology: Topology, array: np.ndarray | None, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    """Return rank 0's `array` on all ranks, one copy a node; collective."""
    shared = SharedArray(topology, shape, dtype)
    if array is not None:
        np.copyto(shared.array, array)
    # Between nodes the first ranks of each pass it on, unless a rank has memory of its own.
    everywhere = not all(topology.world.allgather(shared.is_shared))
    group = topology.world if everywhere else topology.cross_node
    if group is not None and (everywhere or topology.node_rank == 0):
        group.broadcast_array(shared.array)
    topology.world.barrier()  # the other ranks of the node read it now
    return shared.array


@contextmanager
def _source(arrays: Arrays, options: ImportOptions) -> Iterator[tuple[Source, ImportOptions, str]]:
    """Yield rows and labels, how to interpret them, and of what type labels are."""
    x, _ = arrays.train
    if is_frame(x):
        check_options(options, "x", "data frames", SOURCE_FORMATS[".parquet"].options)
        joined = join_frames(arrays.splits, options, arrays.sample_weight)
        scratch = Path(tempfile.gettempdir())
        with read_rows(joined.reader(), joined.options, scratch) as source:
            yield source, joined.options, _label_type(arrays) or joined.label_type
        return
    check_options(options, "x", "arrays", _ARRAY_OPTIONS)
    tables = {}
    for split, (x, y) in arrays.splits.items():
        of = "" if split == "train" else f" of {split}"
        rows = Table(feature_array(x, f"x{of}"), f"x{of}")
        labels = Table(label_array(y, f"y{of}"), f"y{of}")
        rows.check_not_transposed(labels, "Pass its transpose, x.T.")
        tables[split] = (rows, labels)
    kind = tables["train"][1].values.dtype.kind
    weights = arrays.sample_weight
    if weights is not None:
        weights = Table(feature_array(weights, "sample_weight"), "sample_weight")
    yield (
        Source(tables, weights=weights),
        options,
        _label_type(arrays) or _LABEL_TYPES.get(kind, "text"),
    )


def _label_type(arrays: Arrays) -> str | None:
    """Return of what type the classes are that the caller has named, if any."""
    if arrays.classes is None:
        return None
    return _LABEL_TYPES.get(label_array(arrays.classes, "classes").dtype.kind, "text")
