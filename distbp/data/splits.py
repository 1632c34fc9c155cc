"""How rows are divided into train, validation and test, and whether rows are in two of them.

`divide` takes what the options say: fractions, of rows at random and class by class, of groups,
or of the latest rows; or a column that says it row by row. The division is a function of the
rows, the options and the seed. `RowHashes` counts rows that are in train and another split.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distbp.data.dataset import SPLIT_NAMES
from distbp.data.tables import ImportOptions
from distbp.errors import ConfigError
from distbp.network import rng

# Streams of random numbers; 0 is that of `--validation`, which divides `train` when a run starts.
_STREAMS = {"test": 1, "validation": 2}
_HASHED_WORDS = 1 << 15  # at once
_WORD_BYTES = np.dtype(np.uint64).itemsize
# Constants of the mixing function of SplitMix64: Steele, Lea and Flood, OOPSLA 2014,
# doi:10.1145/2660193.2660195.
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True)
class Division:
    """Which rows are in which split.

    Attributes
    ----------
    masks : dict of (n,) bool
        By name; train is always there.
    description : str
    """

    masks: dict[str, np.ndarray]
    description: str


def check_split_options(options: ImportOptions) -> None:
    """Raise ConfigError if the options about splits contradict one another."""
    fractions = {
        "test": options.test_fraction,
        "validation": options.validation_fraction,
    }
    given = {name: value for name, value in fractions.items() if value is not None}
    for name, value in given.items():
        if not 0 < value < 1:
            raise ConfigError(f"`--{name}-fraction {value}`: expected a number between 0 and 1.")
    if sum(given.values()) >= 1:
        raise ConfigError(
            "`--test-fraction` and `--validation-fraction` together leave no rows for training. "
            "Use smaller fractions."
        )
    ways = [name for name in ("group", "time", "split") if getattr(options, name) is not None]
    if len(ways) > 1:
        raise ConfigError(f"`--{ways[0]}` and `--{ways[1]}` contradict each other. Give one.")
    if options.split is not None and given:
        raise ConfigError(
            f"`--{next(iter(given))}-fraction` and `--split` contradict each other. Give one."
        )
    for way in ("group", "time"):
        if getattr(options, way) is not None and not given:
            raise ConfigError(f"`--{way}` needs `--test-fraction` or `--validation-fraction`.")
    is_random = given and options.time is None
    if options.seed is not None and not is_random:
        raise ConfigError(
            "`--seed` is for `--test-fraction` and `--validation-fraction` without `--time`. Leave "
            "it out."
        )
    if options.seed is not None and not 0 <= options.seed < 2**63:
        raise ConfigError(f"`--seed {options.seed}`: expected 0 … 2^63 - 1.")


def divide(
    y: np.ndarray, has_classes: bool, options: ImportOptions, keys: Mapping[str, np.ndarray]
) -> Division | None:
    """Return the division that the options ask for; None if they do not.

    Parameters
    ----------
    y : (n,) class numbers, or (n, k) targets
    has_classes : bool
        Whether rows are to be chosen class by class.
    options : ImportOptions
    keys : Mapping of (n,) arrays
        Of the columns that say how to split.

    Raises
    ------
    ConfigError
        A split would have no row.
    """
    if "split" in keys:
        by_name = {name: keys["split"] == i for i, name in enumerate(SPLIT_NAMES)}
        if not by_name["train"].any():
            raise ConfigError(f"`--split {options.split}`: no row says train. Correct the column.")
        found = {name: mask for name, mask in by_name.items() if mask.any()}
        return Division(found, f"by the column {options.split!r}")
    rest = np.ones(len(y), bool)
    masks: dict[str, np.ndarray] = {}
    texts: list[str] = []
    # In this order, so that the test rows do not depend on whether there is a validation split.
    for name in ("test", "validation"):
        fraction = getattr(options, f"{name}_fraction")
        if fraction is None:
            continue
        chosen, how = _choose(name, rest, y, has_classes, fraction, options, keys)
        if not chosen.any():
            n_classes = len(np.unique(y)) if has_classes else 0
            raise ConfigError(_no_rows_message(name, fraction, len(y), n_classes, keys))
        masks[name], rest = chosen, rest & ~chosen
        texts.append(f"{100 * fraction:.12g} % of the rows{how}" + f" for {name}" * bool(texts))
    if not masks:
        return None
    return Division({"train": rest} | masks, "; ".join(texts))


def _choose(
    name: str,
    rest: np.ndarray,
    y: np.ndarray,
    has_classes: bool,
    fraction: float,
    options: ImportOptions,
    keys: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, str]:
    """Return which rows of `rest` make up a split, and a description of how they were chosen."""
    chosen, seed, stream = np.zeros(len(y), bool), options.seed or 0, _STREAMS[name]
    count = int(np.floor(np.round(fraction * len(y), 6)))
    if "time" in keys:
        chosen[rest] = choose_latest(keys["time"][rest], count)
        return chosen, f", the latest by {options.time!r}"
    if "group" in keys:
        chosen[rest] = choose_groups(keys["group"][rest], count, seed, stream)
        return chosen, f", in groups of {options.group!r}, seed {seed}"
    of_rest = min(1.0, fraction * len(y) / max(1, rest.sum()))
    # Without a copy of y, which may be large, if all rows are left.
    chosen[rest] = choose_rows(y if rest.all() else y[rest], has_classes, of_rest, seed, stream)
    return chosen, f"{', stratified' if has_classes else ''}, seed {seed}"


def _no_rows_message(
    name: str, fraction: float, n: int, n_classes: int, keys: Mapping[str, np.ndarray]
) -> str:
    """Return why a split of `n` rows has no row; there may be no classes."""
    start = f"`--{name}-fraction {fraction}` of {n} rows is no row"
    if "group" in keys:
        return f"{start}, as every group has more rows. Use a larger fraction."
    if "time" in keys:
        return f"{start}, as too many rows are of the latest time. Use a larger fraction."
    if not n_classes:
        return f"{start}. Use a larger fraction."
    start += f", as train needs one of each class, of which there are {n_classes}"
    if n_classes > n / 2:
        return f"{start}. If the labels are quantities, use --task regression."
    return f"{start}. Use a larger fraction."


def choose_rows(
    y: np.ndarray, has_classes: bool, fraction: float, seed: int, stream: int = _STREAMS["test"]
) -> np.ndarray:
    """Return which rows are chosen, stratified by class: (n,) bool.

    At least one row of each class is left.
    """
    # A regression is a single class. Small numbers are sorted fastest.
    labels = y.astype(np.min_scalar_type(y.max())) if has_classes else np.zeros(len(y), np.uint8)
    counts = np.bincount(labels)
    ends = np.cumsum(counts)
    # Cumulative, so that the rounding errors of many small classes do not add up.
    # Rounded before `floor`, because 0.29 * 100 is a little less than 29.
    marks = np.floor(np.round(fraction * np.append(0, ends), 6)).astype(np.int64)
    takes = np.minimum(np.diff(marks), counts - 1)
    chosen = np.zeros(len(y), bool)
    by_class = np.argsort(labels, kind="stable")
    keys = rng.sort_keys(len(y), seed, rng.HOLDOUT, stream)
    for number in np.flatnonzero(takes > 0):
        rows = by_class[ends[number] - counts[number] : ends[number]]
        chosen[rows[_are_smallest(keys[rows], takes[number])]] = True
    return chosen


def _are_smallest(keys: np.ndarray, count: int) -> np.ndarray:
    """Return which of `keys` (m,) are the `count` smallest, the first ones of equal keys: (m,)."""
    found: np.ndarray = keys <= np.partition(keys, count - 1)[count - 1]
    if found.sum() > count:
        found[:] = False
        found[np.argsort(keys, kind="stable")[:count]] = True
    return found


def choose_groups(groups: np.ndarray, count: int, seed: int, stream: int) -> np.ndarray:
    """Return which rows are chosen: (n,) bool, at most `count`, in whole groups of equal values.

    Groups are taken in random order; one that is too large for what is left is passed over. At
    least one group is left.
    """
    different, numbers = np.unique(groups, return_inverse=True)
    sizes = np.bincount(numbers)
    is_chosen = np.zeros(len(different), bool)
    for group in rng.permutation(len(different), seed, rng.HOLDOUT, stream):
        if sizes[group] <= count and is_chosen.sum() < len(different) - 1:
            is_chosen[group] = True
            count -= int(sizes[group])
        if not count:
            break
    chosen: np.ndarray = is_chosen[numbers]
    return chosen


def choose_latest(times: np.ndarray, count: int) -> np.ndarray:
    """Return which rows are chosen: (n,) bool, the latest ones, at most `count`.

    Rows of the same time stay together.
    """
    count = min(count, len(times) - 1)
    if count < 1:
        return np.zeros(len(times), bool)
    # The latest row that is not chosen for sure.
    last = np.partition(times, len(times) - 1 - count)[len(times) - 1 - count]
    chosen: np.ndarray = times > last
    return chosen


class RowHashes:
    """Finds rows of train that are in another split, by a hash of each row.

    It takes 8 bytes for each row of train. Two different rows have the same hash with a
    probability of 2^-64.
    """

    def __init__(self, train_rows: int) -> None:
        self._train = np.empty(train_rows, np.uint64)
        self._count = 0
        self._is_sorted = False

    def add(self, split: str, x: np.ndarray, y: np.ndarray) -> int:
        """Add rows (m, …) with their labels; return how many of them are in train, if of another.

        All rows of train have to come first.
        """
        found = hash_rows(x, y)
        if split == "train":
            self._train[self._count : self._count + len(found)] = found
            self._count += len(found)
            return 0
        if not self._is_sorted:
            self._train.sort()
            self._is_sorted = True
        found.sort()  # so that the searches go through `train` once, from its start to its end
        at = np.searchsorted(self._train, found).clip(max=len(self._train) - 1)
        return int((self._train[at] == found).sum())


def hash_rows(*arrays: np.ndarray) -> np.ndarray:
    """Return a hash of each row of some arrays (m, …) together: (m,) uint64."""
    total = np.zeros(len(arrays[0]), np.uint64)
    position = 1
    for array in arrays:
        words = _as_words(array)  # (m, number of words)
        keys = np.arange(position, position + words.shape[1], dtype=np.uint64)[:, np.newaxis]
        position += words.shape[1]
        # So few rows at once that they stay in the processor's cache.
        step = max(1, _HASHED_WORDS // words.shape[1])
        for start in range(0, len(words), step):
            some = words[start : start + step].T  # (number of words, rows)
            # Each is mixed with its position, as a sum does not know the order.
            some = np.add(some, _mix(keys * np.uint64(_GOLDEN)), order="C")
            total[start : start + step] += _mix(some).sum(axis=0, dtype=np.uint64)
    return _mix(total)


def _as_words(array: np.ndarray) -> np.ndarray:
    """Return the bytes of rows (m, …) as numbers of 64 bits: (m, words)."""
    rows = np.ascontiguousarray(array).reshape(len(array), -1)
    if rows.dtype.kind == "f":
        rows = rows + rows.dtype.type(0)  # -0 is 0
    rows = rows.view(np.uint8).reshape(len(array), -1)
    padding = -rows.shape[1] % _WORD_BYTES
    if padding:
        rows = np.pad(rows, ((0, 0), (0, padding)))
    return rows.view(np.uint64)


def _mix(words: np.ndarray) -> np.ndarray:
    """Return words mixed so that every bit depends on all bits of the original."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_MIX_1)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_MIX_2)
    return words ^ (words >> np.uint64(31))
