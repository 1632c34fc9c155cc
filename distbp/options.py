"""The declaration of options: fields of a dataclass that users set by name.

`option` declares a field together with what else is known of it. The command line makes
an option of each field, with its help text, from this; the dataclass checks the values
with `check_option`, wherever they come from: the command line, a TOML file or Python.
What an option means is not known here.
"""

import json
import math
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field
from typing import Any

from distbp import own_parts
from distbp.errors import ConfigError

_METAVARS: dict[Any, str] = {int: "N", float: "F"}


def option(
    default: Any,
    help: str,
    parse: Callable[[str], Any] = str,
    *,
    group: str = "options",
    is_common: bool = False,
    metavar: str | None = None,
    default_text: str | None = None,
    choices: tuple[str, ...] | None = None,
    least: float | None = None,
    below: float | None = None,
    may_change_on_resume: bool = False,
    has_own_parts: bool = False,
) -> Any:
    """Declare a field of a dataclass that is also an option of the command line.

    Parameters
    ----------
    default : object
        `dataclasses.MISSING` if the option is required.
    help : str
    parse : function
        Makes a value of text; raises ValueError or `argparse.ArgumentTypeError`.
    group : str
        The heading of `--help` that the option is listed under.
    is_common : bool
        Whether nearly every user needs it: these stand first in their group.
    metavar : str, optional
        The kind of the value, such as LIST; N for an int and F for a float by default.
    default_text : str, optional
        What `--help` says of the default, where the value itself, such as None, does not say it.
    choices : tuple of str, optional
        The values that are allowed.
    least, below : float, optional
        Bounds of a number: least ≤ value < below.
    may_change_on_resume : bool
        Whether the option can be changed when a run is resumed.
    has_own_parts : bool
        Whether a value may also be the name of a user's own part (see `own_parts`).
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "parse": parse,
            "group": group,
            "is_common": is_common,
            "metavar": metavar or _METAVARS.get(parse),
            "default_text": default_text,
            "choices": choices,
            "least": least,
            "below": below,
            "may_change_on_resume": may_change_on_resume,
            "has_own_parts": has_own_parts,
        },
    )


def check_option(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """Raise ConfigError unless `value` is allowed for the option; None always is."""
    if value is None:
        return
    choices, least, below = metadata["choices"], metadata["least"], metadata["below"]
    is_own = metadata["has_own_parts"] and isinstance(value, str) and own_parts.is_own(value)
    if choices and value not in choices and not is_own:
        own = ", or module:Name for your own" if metadata["has_own_parts"] else ""
        raise ConfigError(f"{name} {value!r} is unknown; use one of {', '.join(choices)}{own}.")
    if metadata["parse"] in (int, float):
        # Not isinstance: True is an int, but whoever writes it does not mean 1.
        types = (int,) if metadata["parse"] is int else (int, float)
        if type(value) not in types:
            kind = "whole number" if metadata["parse"] is int else "number"
            raise ConfigError(f"{name} {value!r}: expected a {kind}.")
        if not math.isfinite(value) or (least is not None and value < least):
            raise ConfigError(f"{name} {value!r}: expected at least {least}.")
        if below is not None and value >= below:
            raise ConfigError(f"{name} {value!r}: expected less than {below}.")


def python_number(value: Any) -> Any:
    """Return a number of NumPy, as from a grid of options, as one of Python; others as they are."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def flag(name: str) -> str:
    """Return the name of a field as it is typed on the command line."""
    return "--" + name.replace("_", "-")


def _format_value(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def format_default(default: Any, default_text: str | None) -> str:
    """Return what `--help` says of an option's default, in parentheses."""
    if default is MISSING:
        return "(required)"
    if default_text is None and isinstance(default, bool):
        default_text = "on" if default else "off"
    if default_text is None:
        default_text = "none" if default is None else _format_value(default)
    return f"(default: {default_text})"


def as_arguments(flag: str, value: Any) -> list[str]:
    """Return an option and its value as arguments of the command line."""
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag.removeprefix('--')}"]
    return [flag, _format_value(value)]


def parse_sizes(text: str) -> tuple[int, ...]:
    """Return the layer sizes in text such as '100,50'; '' is no layer."""
    try:
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r}; expected sizes such as 100,50") from error


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names in text such as 'f1,roc-auc'."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def toml_value(value: Any) -> str:
    """Return a value in TOML: JSON is valid TOML but for DEL, which has to be escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
