"""Parts of a run that users write themselves, and how they are found.

An activation, cost, optimizer, learning rate schedule, metric or callback is a class, and
`module:Name` is its name: on the command line, in a TOML file and in a checkpoint. In Python the
class itself may be given instead. It derives from the class of its kind:

    distbp.network.activations.Activation      distbp.network.schedules.Schedule
    distbp.network.costs.Cost, RegressionCost  distbp.training.metrics.RowMetric
    distbp.network.optimizers.Optimizer        distbp.training.callbacks.Callback

A file never makes distbp run code. A module is imported, from the current directory or the
Python path, only if its name is on the command line, in the variable DISTBP_PARTS (names
separated by commas), or if a program has imported it and given its class; modules of distbp
itself, such as that of `distbp.training.trackers:MLflow`, always may. So models with parts of one's
own are used with

    DISTBP_PARTS=my_parts distbp predict run new.csv --out predictions.csv

A checkpoint holds the SHA-256 of the source of each part: a run is not resumed with another one.
Before a run starts, derivatives are compared with finite differences (`training.part_checks`).
`scripts/examples/my_parts.py` in the source has one class of each kind.
"""

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from distbp.errors import ConfigError

PARTS_VARIABLE = "DISTBP_PARTS"

# By name, those whose code this process may run.
_registered: dict[str, type] = {}


def is_own(name: str) -> bool:
    """Return whether this is the name of a user's own part: `module:Name`."""
    return ":" in name


def register(part: type) -> str:
    """Let a class be found by its name, which is returned."""
    name = f"{part.__module__}:{part.__qualname__}"
    _registered[name] = part
    return name


def name_of(part: Any) -> Any:
    """Return the name of a class, which is registered, and anything else as it is."""
    return register(part) if isinstance(part, type) else part


def load(name: str) -> None:
    """Import the module of a part, because the user has named it.

    Raises
    ------
    ConfigError
        There is no such module or class, or the module cannot be imported.
    """
    module_name, _, class_name = name.partition(":")
    module = _import_module(module_name)
    part = module
    for word in class_name.split("."):
        part = getattr(part, word, None)
    if not isinstance(part, type):
        classes = [one for one, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(
            f"{name}: {getattr(module, '__file__', module_name)} has no class {class_name!r}; it "
            f"has {', '.join(classes) or 'none'}."
        )
    _registered[name] = part
    allowed = _allowed_modules()
    if not _is_allowed(module_name):
        # For ranks that are started, or restarted, by this process.
        os.environ[PARTS_VARIABLE] = ",".join([*allowed, module_name])


def find(name: str, kind: type, what: str) -> Any:
    """Return the class of a name; `what` is its kind in messages, such as "activation".

    Raises
    ------
    ConfigError
        It is not one that this process may run, or not of this kind.
    """
    if name not in _registered:
        module = name.partition(":")[0]
        if not _is_allowed(module):
            raise ConfigError(
                f"The {what} {name!r} is a user's own class, whose code is not run only because a "
                f"file names it. Set {PARTS_VARIABLE}={module} if you trust it; in Python, import "
                "it and call distbp.own_parts.register with the class."
            )
        load(name)
    part = _registered[name]
    if not issubclass(part, kind):
        raise ConfigError(
            f"The {what} {name!r} is a class that does not derive from {kind.__module__}."
            f"{kind.__name__}. Derive it from that."
        )
    if missing := sorted(getattr(part, "__abstractmethods__", ())):
        raise ConfigError(
            f"The {what} {name!r} lacks {' and '.join(missing)}. Define what is missing."
        )
    return part


def find_in(
    table: Mapping[str, type], name: str, kind: type, what: str, shown: Iterable[str] | None = None
) -> Any:
    """Return the class of a name in a table of distbp's, or of a user's own part.

    `shown` are the names for the message, by default those of the table.

    Raises
    ------
    ConfigError
        There is no such name, or as `find` does.
    """
    if is_own(name):
        return find(name, kind, what)
    if name not in table:
        names = ", ".join(table if shown is None else shown)
        raise ConfigError(f"{what} {name!r} is unknown; use one of {names}.")
    return table[name]


def is_known(name: str) -> bool:
    """Return whether `find` may run the code of this name."""
    return name in _registered or (is_own(name) and _is_allowed(name.partition(":")[0]))


def source_digest(name: str) -> str:
    """Return the SHA-256 of the source of a part that `is_known`; "" if it has none."""
    if name not in _registered:
        load(name)
    try:
        source = inspect.getsource(_registered[name])
    except (OSError, TypeError):  # of a class that was made by a program, or typed in
        return ""
    return hashlib.sha256(source.encode()).hexdigest()


def changed(digests: Any) -> list[str]:
    """Return the names of known parts whose source is not that of a checkpoint's `own_parts`."""
    if not isinstance(digests, dict):
        return []
    return [name for name, old in digests.items() if is_known(name) and source_digest(name) != old]


def _allowed_modules() -> list[str]:
    return [one for one in os.environ.get(PARTS_VARIABLE, "").split(",") if one]


def _is_allowed(module: str) -> bool:
    """Return whether the user trusts a module: those that come with distbp are none of others."""
    return module.startswith("distbp.") or module in _allowed_modules()


def _import_module(name: str) -> Any:
    """Return a module of the current directory or the Python path."""
    if not all(word.isidentifier() for word in name.split(".")):
        raise ConfigError(f"{name!r} is not the name of a module. Expected my_parts:Name.")
    folder = os.getcwd()
    is_missing = folder not in sys.path and "" not in sys.path
    if is_missing:  # as for a script: `python -m` has it already
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
            raise ConfigError(
                f"There is no module {name!r} in {folder} or on the Python path. Start distbp in "
                f"the directory of {name}.py, or set PYTHONPATH to it."
            ) from error
        raise ConfigError(
            f"The module {name!r} cannot be imported: {type(error).__name__}: {error}. Correct it."
        ) from error
    finally:
        if is_missing:
            sys.path.remove(folder)
