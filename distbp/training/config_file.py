"""Reading the options of a run from a TOML file, such as the `config.toml` of another run.

A file has the same options as the command line, under the same names; which of them there are,
and what their values may be, is known to `config`.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from distbp.errors import ConfigError
from distbp.training.config import Config


def read_toml(path: Path) -> dict[str, Any]:
    """Return the options in a TOML file, by field name.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds a key that is not an option or a value of the
        wrong type.
    """
    try:
        options = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    known = {one.name.replace("_", "-"): one for one in fields(Config)}
    for name, value in options.items():
        if name not in known:
            hint = _key_hint(name.replace("_", "-"), known)
            raise ConfigError(f"{path}: {name!r} is not an option that a file can have. {hint}")
        _check_toml_type(f"{path}: {name}", value, known[name].type)
    return {name.replace("-", "_"): value for name, value in options.items()}


def _key_hint(name: str, known: Mapping[str, Any]) -> str:
    """Return what to do about a key that is not an option; `name` is the key with dashes."""
    if name in known:
        return f"Its name is {name!r}."
    if name in ("ranks", "restarts", "resume", "config"):
        return f"Give it on the command line: --{name}."
    return "See distbp train --help."


def _check_toml_type(name: str, value: Any, declared: Any) -> None:
    """Raise ConfigError unless a TOML value has the type that a field is declared with."""
    allowed_types: dict[Any, tuple[type, ...]] = {
        str: (str,),
        int: (int,),
        float: (int, float),
        bool: (bool,),
        tuple[int, ...]: (list,),
        tuple[str, ...]: (list,),
    }
    allowed = next(t for kind, t in allowed_types.items() if declared in (kind, kind | None))
    item = str if declared == tuple[str, ...] else int
    is_list = isinstance(value, list) and all(type(one) is item for one in value)
    if type(value) not in allowed or (isinstance(value, list) and not is_list):
        expected = " or ".join(kind.__name__ for kind in allowed)
        if list in allowed:
            expected += " of whole numbers" if item is int else " of text"
        raise ConfigError(f"{name} = {value!r}: expected a {expected}.")
