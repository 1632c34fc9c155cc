"""One option of a configuration: its declaration and its checks."""

import math
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from distbp.errors import ConfigError

Parse = Callable[[str], Any]


def option(
    default: Any,
    help: str,
    parse: Parse = str,
    choices: tuple[str, ...] | None = None,
    least: float | None = None,
    below: float | None = None,
    may_change_on_resume: bool = False,
) -> Any:
    """Declare a field of `Config`.

    `least` and `below` bound a number: least ≤ value < below. `may_change_on_resume`
    options may be changed when a run is resumed.
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "parse": parse,
            "choices": choices,
            "least": least,
            "below": below,
            "may_change_on_resume": may_change_on_resume,
        },
    )


def check(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """Raise ConfigError unless `value` is allowed for the option."""
    if value is None:
        return
    choices, least, below = metadata["choices"], metadata["least"], metadata["below"]
    if choices and value not in choices:
        raise ConfigError(f"{name} {value!r} is unknown; use one of {', '.join(choices)}.")
    if metadata["parse"] in (int, float):
        kinds = (int,) if metadata["parse"] is int else (int, float)
        if type(value) not in kinds:
            words = "whole number" if metadata["parse"] is int else "number"
            raise ConfigError(f"{name} {value!r}: expected a {words}.")
        if not math.isfinite(value) or (least is not None and value < least):
            raise ConfigError(f"{name} {value!r}: expected at least {least}.")
        if below is not None and value >= below:
            raise ConfigError(f"{name} {value!r}: expected less than {below}.")


def flag(name: str) -> str:
    """Return an option's name as it is typed."""
    return "--" + name.replace("_", "-")


def format_value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def as_arguments(flag: str, value: Any) -> list[str]:
    """Return an option as it is typed."""
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag.removeprefix('--')}"]
    return [flag, format_value(value)]
