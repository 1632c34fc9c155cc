"""Where the options of a run come from: the command line, and a TOML file.

A file, such as the `config.toml` of another run, has the same options as the command line, under
the same names; which of them there are, and what their values may be, is known to `config`.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from distbp.errors import ConfigError
from distbp.options import flag
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


def check_useful(given: Mapping[str, Any], from_file: Mapping[str, Any]) -> None:
    """Raise ConfigError if an option of the command line would have no effect.

    Options of a file are not checked: it may be the `config.toml` of another run, which
    holds every option.
    """
    values = {one.name: one.default for one in fields(Config)} | dict(from_file) | dict(given)
    for name, other, allowed in (
        ("momentum", "optimizer", ("momentum", "nesterov")),
        ("weight_decay", "optimizer", ("adamw",)),
        ("decay", "schedule", ("step", "plateau")),
        ("decay_epochs", "schedule", ("step", "plateau")),
    ):
        if name in given and values[other] not in allowed:
            raise ConfigError(
                f"{flag(name)} has no effect with {flag(other)} {values[other]}; it applies to "
                f"{' or '.join(allowed)}."
            )
    if given.get("dropout") and not values["hidden"]:
        raise ConfigError(
            "--dropout has no effect without hidden layers: it drops hidden units. Leave it out."
        )
    if given.get("check_every") and values["combine"] == "allreduce":
        raise ConfigError(
            "--check-every has no effect with --combine allreduce, whose result cannot be "
            "recomputed bit for bit. Use --combine node or tree."
        )
    if "init" in given and values["init_from"]:
        raise ConfigError(
            "--init has no effect with --init-from, which provides the initial weights."
        )


def check_paths_given(config: Config) -> None:
    """Raise ConfigError unless the configuration names a data set and a directory."""
    if not config.data:
        raise ConfigError("distbp train needs a data set: distbp train DATA.h5 --out RUN.")
    if not config.out:
        raise ConfigError("distbp train needs a directory for the run: --out RUN.")
