"""Where two runs part: options, versions, the first epoch, the first layer, and the likely reason.

`compare_runs` compares what two `RecordedRun`s have in common: the digests and scores of their
epochs, and the arrays of the checkpoints of the same place. What only one of them has is no
difference: a run that is still going, or was stopped, equals its longer twin as far as it went.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from distbp.errors import CheckpointError, ConfigError
from distbp.storage.checkpoint import Checkpoint, read_checkpoint
from distbp.training.array_difference import (
    ArrayDifference,
    arrays_of_layers,
    compare_arrays,
    state_vectors,
)
from distbp.training.config import Config
from distbp.training.recorded_run import Place, RecordedRun
from distbp.training.state import EpochRecord

EQUAL, DIFFERENT, NOT_COMPARABLE = "equal", "different", "not comparable"

NOT_RECORDED = "not recorded"
_CLOCK_KEYS = ("seconds", "samples_per_s")
_NAMES_OF_PLACES = ("data", "out")  # the data are compared by their content


@dataclass(frozen=True)
class Pair:
    """Something that differs between the runs a and b."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class LayerDifference:
    """An array of a layer that differs.

    Attributes
    ----------
    layer : int
        Counted from 1.
    array : str
        `weights` or `biases`, also of the optimizer's state or of the moving average.
    difference : ArrayDifference
    """

    layer: int
    array: str
    difference: ArrayDifference


@dataclass(frozen=True)
class PlaceDifference:
    """The checkpoints of one place.

    Attributes
    ----------
    place : (epochs, steps)
    arrays : list of LayerDifference
        In the order of the layers; empty if all are equal.
    compared : int
        Arrays.
    """

    place: Place
    arrays: list[LayerDifference]
    compared: int


@dataclass(frozen=True)
class RunDifference:
    """How two runs differ.

    Attributes
    ----------
    a, b : RecordedRun
    options, versions : list of Pair
        Options, and versions of software and machine, that differ.
    epochs : int
        The epochs that both have.
    first_epoch : int or None
        The first of them whose records differ.
    record : list of Pair
        What differs in these records.
    place : PlaceDifference or None
        The first place with checkpoints in both that differ, or else the last that both have.
    notes : list of str
        What could not be compared, and why.
    """

    a: RecordedRun
    b: RecordedRun
    options: list[Pair]
    versions: list[Pair]
    epochs: int
    first_epoch: int | None
    record: list[Pair]
    place: PlaceDifference | None
    notes: list[str] = field(default_factory=list)

    @property
    def has_other_shape(self) -> bool:
        """Whether the models have other layers, or numbers of another type."""
        shapes = [
            (one.about["network"]["sizes"], one.about["network"]["dtype"])
            for one in (self.a, self.b)
            if one.about
        ]
        return len(shapes) == 2 and shapes[0] != shapes[1]

    @property
    def verdict(self) -> str:
        """EQUAL, DIFFERENT or NOT_COMPARABLE."""
        has_other_arrays = self.place is not None and bool(self.place.arrays)
        if self.has_other_shape or self.first_epoch is not None or has_other_arrays:
            return DIFFERENT
        return EQUAL if self.epochs or self.place is not None else NOT_COMPARABLE


def compare_runs(a: RecordedRun, b: RecordedRun) -> RunDifference:
    """Return how two runs differ; checkpoints are read one pair at a time."""
    common = sorted(a.records.keys() & b.records.keys())
    first, record = None, []
    for epoch in common:
        record = _differing_keys(a.records[epoch], b.records[epoch])
        if record:
            first = epoch
            break
    notes = [*a.problems, *b.problems]
    found = RunDifference(
        a, b, _differing_options(a.config, b.config), _differing_versions(a.about, b.about),
        len(common), first, record, None, notes,
    )  # fmt: skip
    place = None if found.has_other_shape else _compare_checkpoints(a, b, notes)
    return RunDifference(**{**vars(found), "place": place})


def _differing_keys(a: EpochRecord, b: EpochRecord) -> list[Pair]:
    """Return what differs in two records of an epoch, the digest first; without times.

    Other metrics may have been asked for: keys of one of them are no difference.
    """
    keys = [key for key in a if key in b and key not in _CLOCK_KEYS and a[key] != b[key]]
    keys.sort(key=lambda key: key != "digest")
    return [Pair(key, a[key], b[key]) for key in keys]


def _differing_options(a: Config | None, b: Config | None) -> list[Pair]:
    if a is None or b is None:
        return []
    pairs = [Pair(one.name, getattr(a, one.name), getattr(b, one.name)) for one in fields(Config)]
    return [one for one in pairs if one.a != one.b and one.name not in _NAMES_OF_PLACES]


def _differing_versions(a: dict[str, Any], b: dict[str, Any]) -> list[Pair]:
    """Return what differs of the data, the machine, the software and the user's own parts."""
    if not a or not b:
        return []
    found = []
    for group in ("data", "machine", "versions", "own_parts"):
        one, other = (dict(about.get(group) or {}) for about in (a, b))
        names = ["digest"] if group == "data" else list({**one, **other})
        names = [name for name in names if name != "threads"]  # which is an option, too
        for name in names:
            values = [values.get(name, NOT_RECORDED) for values in (one, other)]
            if values[0] != values[1]:
                found.append(Pair("data" if group == "data" else name, *values))
    return found


def _compare_checkpoints(
    a: RecordedRun, b: RecordedRun, notes: list[str]
) -> PlaceDifference | None:
    """Return the first place whose checkpoints differ, or else the last that both have."""
    found = None
    for place in sorted(a.checkpoints.keys() & b.checkpoints.keys()):
        try:
            one, other = (read_checkpoint(run.checkpoints[place]) for run in (a, b))
        except (CheckpointError, ConfigError) as error:
            # A run that is going has removed it meanwhile, or it needs code of the user's.
            if all(run.checkpoints[place].exists() for run in (a, b)):
                notes.append(str(error))
            continue
        pairs = list(_pairs_of_arrays(one, other))
        arrays = [
            LayerDifference(layer, name, difference)
            for layer, name, x, y in pairs
            if (difference := compare_arrays(x, y)) is not None
        ]
        found = PlaceDifference(place, arrays, len(pairs))
        if arrays:
            break
    return found


def _pairs_of_arrays(
    a: Checkpoint, b: Checkpoint
) -> Iterator[tuple[int, str, np.ndarray, np.ndarray]]:
    """Yield the layer, the name and the two arrays, layer by layer, of all that both have."""
    vectors = [_vectors(one) for one in (a, b)]
    names = [name for name in vectors[0] if name in vectors[1]]
    common = [arrays_of_layers(a.network.sizes, {n: one[n] for n in names}) for one in vectors]
    for (layer, name, x), (_, _, y) in zip(*common, strict=True):
        yield layer, name, x, y


def _vectors(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Return θ, its moving average if any, and the optimizer's state."""
    found = {"": checkpoint.theta}
    if checkpoint.averaged_from is not None:
        found[" of the moving average"] = checkpoint.network.theta
    return found | state_vectors(checkpoint.state)


def largest(arrays: Sequence[LayerDifference]) -> LayerDifference:
    """Return the array with the largest absolute difference."""
    return max(arrays, key=lambda one: one.difference.absolute)
