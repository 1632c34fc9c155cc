"""Callbacks: what a user's own code does after each epoch.

A `Callback` is called on every rank with the record of the epoch, as in metrics.jsonl, and the
network. It may ask to stop, or to save a checkpoint; a request of any rank is one of all:

    class StopAtCost(Callback):
        def __call__(self, record, network):
            return STOP if record["train_cost"] < 0.1 else None

It must not change the network. What it raises ends the run on all ranks. A resumed run makes its
callbacks anew: one that keeps a state finds the records so far in metrics.jsonl.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distbp import own_parts
from distbp.errors import ConfigError
from distbp.network.network import Network

STOP, SAVE = "stop", "save"

Call = Callable[[Mapping[str, Any], Network], str | None]


class Callback:
    """Is called after each epoch; made without arguments when a run starts or is resumed."""

    def __call__(self, record: Mapping[str, Any], network: Network) -> str | None:
        """Return None, or STOP or SAVE to ask for it.

        Parameters
        ----------
        record : dict
            Of the epoch that has ended: costs, accuracies, metrics, learning rate, …
        network : Network
            After the last step; on a node, all ranks share its parameters.
        """
        raise NotImplementedError


def make_callbacks(names: Sequence[str]) -> list[Call]:
    """Return the callbacks of some names; raise ConfigError if one cannot be found."""
    return [own_parts.find(name, Callback, "callback")() for name in names]


def check_requests(requests: Sequence[tuple[Call, Any]]) -> None:
    """Raise ConfigError if a callback has returned something else than a request."""
    for callback, request in requests:
        if request not in (None, SAVE, STOP):
            raise ConfigError(
                f"The callback {callback!r} returned {request!r}; expected None, {SAVE!r} or "
                f"{STOP!r}."
            )
