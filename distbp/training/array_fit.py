"""`fit`: train on arrays in one call, with the options as keywords."""

from dataclasses import fields
from numbers import Real
from typing import Any

from distbp.parallel.rank_errors import abort_on_error, collective_errors
from distbp.parallel.topology import connect
from distbp.training.config import Config
from distbp.training.loop import train
from distbp.training.model import Model

_CONFIG_NAMES = {one.name for one in fields(Config)}


def fit(x: Any, y: Any = None, *, hidden: tuple[int, ...] = (100,), **options: Any) -> Model:
    """Train a network on arrays and return the model.

    Parameters
    ----------
    x, y : arrays
        See `train`.
    hidden : sizes of the hidden layers
    **options
        Options of `Config`, parameters of `train` other than `config`, and options of an import.
        `validation` is a pair (x, y), or a fraction of the rows.

    Returns
    -------
    Model
        The same on every rank.

    Raises
    ------
    DistbpError
        As `train` does.
    """
    settings = {name: options.pop(name) for name in _CONFIG_NAMES & options.keys()}
    if "validation" in settings and not isinstance(settings["validation"], Real):
        options["validation"] = settings.pop("validation")
    calls = settings.pop("callbacks", ())
    calls = [calls] if callable(calls) or isinstance(calls, str) else calls
    # A run of these is stored with their names.
    settings["callbacks"] = [one for one in calls if isinstance(one, str | type)]
    options["callbacks"] = [one for one in calls if not isinstance(one, str | type)]
    comm = options.pop("comm", None) or connect()
    with abort_on_error(comm), collective_errors(comm):  # options of one rank may be wrong
        config = Config(hidden=hidden, **settings)
    return train(config, x, y, comm=comm, **options).model
