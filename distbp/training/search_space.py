"""What varies between the trials of a sweep: `NAME=VALUES`, and how values are chosen.

    learning-rate=0.01,0.1   some values
    hidden=50,100x50         one layer of 50 units, or two of 100 and 50
    clip-norm=none,1         without a value, or 1
    learning-rate=1e-4..0.1  a range, logarithmic if its ends span more than a decade
    dropout=0..0.5           a linear range; :log or :linear at the end says so
    batch-size=32..512       whole numbers, as the option has them

No character of this has a meaning in a shell, so that nothing has to be quoted; the names are
those of the options of `distbp train`. `grid` makes all combinations of values, `draw` makes
one choice at random, as a function of a seed and a number alone. What is done with a choice is
not known here.
"""

import hashlib
import itertools
import math
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from distbp.errors import ConfigError
from distbp.options import check_option, flag
from distbp.training.config import Config

Choice = dict[str, Any]  # values by the names of fields of Config
# What tells runs apart, or only shows them.
_FIXED = ("data", "out", "fold", "quiet", "metrics", "callbacks")
_DECADE = 10.0
_MAX_CHOICES = 10_000
_DRAWS_PER_CHOICE = 100  # before a space with few values counts as exhausted


@dataclass(frozen=True)
class Values:
    """Some values of an option.

    Attributes
    ----------
    name : str
        Of a field of Config.
    texts : tuple of str
        As they were given.
    values : tuple
    """

    name: str
    texts: tuple[str, ...]
    values: tuple[Any, ...]

    def draw(self, u: float) -> Any:
        """Return a value for a number u in [0, 1)."""
        return self.values[int(u * len(self.values))]


@dataclass(frozen=True)
class Range:
    """All values of an option from `low` to `high`, which are included.

    Attributes
    ----------
    name : str
        Of a field of Config.
    low, high : float
        Whole numbers if `is_integer`.
    is_log, is_integer : bool
    is_layer : bool
        Whether the number is the size of a single hidden layer.
    """

    name: str
    low: float
    high: float
    is_log: bool
    is_integer: bool
    is_layer: bool = False

    def draw(self, u: float) -> Any:
        """Return a value for a number u in [0, 1), distributed evenly or log-uniformly."""
        # Every whole number has the same share, also those at the ends.
        half = 0.5 if self.is_integer else 0.0
        low, high = self.low - half, self.high + half
        value = low * (high / low) ** u if self.is_log else low + u * (high - low)
        if self.is_integer:
            return self.value(min(max(round(value), self.low), self.high))
        return self.value(min(max(float(f"{value:.4g}"), self.low), self.high))

    def value(self, number: float) -> Any:
        """Return the value of the option for a number of the range."""
        return (int(number),) if self.is_layer else int(number) if self.is_integer else number


Dimension = Values | Range


def parse_dimension(text: str) -> Dimension:
    """Return what varies, from text such as 'learning-rate=0.01,0.1'.

    Raises
    ------
    ConfigError
        The text is not of this form, or the option cannot vary or does not have such values.
    """
    name, has_values, rest = text.partition("=")
    field_name = name.removeprefix("--").replace("-", "_")
    options = {one.name: one for one in fields(Config) if one.name not in _FIXED}
    if not has_values:
        raise ConfigError(
            f"--vary {text}: expected NAME=VALUE,VALUE or NAME=LOW..HIGH. Put other arguments "
            "before --vary."
        )
    if field_name not in options:
        raise ConfigError(
            f"--vary {text}: {name!r} is not an option of distbp train that can vary. Use the name "
            "of one, such as learning-rate; see distbp train --help."
        )
    option = options[field_name]
    is_layers = option.type == tuple[int, ...]
    kind = int if is_layers else option.metadata["parse"]
    if ".." in rest and kind in (int, float):
        found = _parse_range(text, field_name, rest, is_integer=kind is int, is_layer=is_layers)
        if not is_layers:
            for number in (found.low, found.high):
                check_option(flag(field_name), number, option.metadata)
        return found
    texts = tuple(rest.split(","))
    values = tuple(_parse_value(text, option, one) for one in texts)
    for value in values:
        check_option(flag(field_name), value, option.metadata)
    return Values(field_name, texts, values)


def _parse_value(text: str, option: Any, word: str) -> Any:
    """Return the value of an option that a word stands for."""
    if word == "none" and option.default is None:
        return None
    if option.type is bool:
        raise ConfigError(f"--vary {text}: an option that is on or off cannot vary. Leave it out.")
    is_layers = option.type == tuple[int, ...]
    try:
        return option.metadata["parse"](word.replace("x", ",") if is_layers else word)
    except (ValueError, ArgumentTypeError) as error:
        hint = "such as 50 or 100x50" if is_layers else f"for {flag(option.name)}"
        raise ConfigError(f"--vary {text}: {word!r} is not a value {hint}.") from error


def _parse_range(text: str, name: str, words: str, *, is_integer: bool, is_layer: bool) -> Range:
    words, _, scale = words.partition(":")
    first, _, last = words.partition("..")
    try:
        number = int if is_integer else float
        low, high = number(first), number(last)
    except ValueError as error:
        kind = "whole numbers" if is_integer else "numbers"
        raise ConfigError(f"--vary {text}: expected two {kind}, LOW..HIGH.") from error
    if scale not in ("", "log", "linear"):
        raise ConfigError(f"--vary {text}: {scale!r} is unknown; use :log or :linear.")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"--vary {text}: expected a range LOW..HIGH with LOW below HIGH.")
    if scale == "log" and low <= 0:
        raise ConfigError(
            f"--vary {text}: a logarithmic range begins above 0. Raise its low end, or use :linear."
        )
    spans_decade = low > 0 and high / low > _DECADE
    is_log = scale == "log" or (scale == "" and spans_decade)
    return Range(name, low, high, is_log, is_integer, is_layer)


def parse_space(texts: Sequence[str]) -> tuple[Dimension, ...]:
    """Return all that varies.

    Raises
    ------
    ConfigError
        As `parse_dimension`; or an option is there twice.
    """
    space = tuple(parse_dimension(text) for text in texts)
    names = [one.name for one in space]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"--vary has {name.replace('_', '-')} twice. Name all its values in one text."
            )
    return space


def value_text(value: Any) -> str:
    """Return the value of an option as --vary has it, a float to six digits."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def grid(space: Sequence[Dimension]) -> list[Choice]:
    """Return all combinations of values; the last option changes fastest.

    Raises
    ------
    ConfigError
        There is a range, or there are too many combinations.
    """
    lists = []
    for one in space:
        if isinstance(one, Range):
            name = one.name.replace("_", "-")
            raise ConfigError(
                f"--vary {name}: a grid has no ranges. Name values, such as {name}="
                f"{one.low:g},{one.high:g}; or draw values with --random N."
            )
        lists.append([(one.name, value) for value in one.values])
    if (count := math.prod(map(len, lists))) > _MAX_CHOICES:
        raise ConfigError(
            f"--vary gives {count:,} combinations; {_MAX_CHOICES:,} is the most. Name fewer "
            "values, or draw some of them with --random N."
        )
    return [dict(one) for one in itertools.product(*lists)]


def draws(space: Sequence[Dimension], count: int, seed: int) -> list[Choice]:
    """Return `count` different random choices, fewer if there are not so many.

    The first of them are the same for every `count`.
    """
    chosen: list[Choice] = []
    for number in range(count):
        new = (one for one in _candidates(space, number, seed) if one not in chosen)
        choice = next(new, None)
        if choice is None:
            break
        chosen.append(choice)
    return chosen


def _candidates(space: Sequence[Dimension], number: int, seed: int) -> Iterator[Choice]:
    for attempt in range(_DRAWS_PER_CHOICE):
        yield {one.name: one.draw(_uniform(seed, number, attempt, one.name)) for one in space}


def _uniform(*position: object) -> float:
    """Return a number in [0, 1) that is a function of the position alone."""
    # Not `random`: this is the same in every version of Python, and for each option by itself.
    text = "/".join(map(str, position))
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11) * 2.0**-53
