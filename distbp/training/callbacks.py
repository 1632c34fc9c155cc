"""Callbacks: what a user's own code does after each epoch.

A `Callback` is called on every rank with the record of the epoch, as in metrics.jsonl, and the
network. It may ask to stop, or to save a checkpoint; a request of any rank is one of all:

    class StopAtCost(Callback):
        def __call__(self, record, network):
            return STOP if record["train_cost"] < 0.1 else None

It must not change the network. What it raises ends the run on all ranks. A resumed run makes its
callbacks anew: one that keeps a state finds the records so far in metrics.jsonl. One that reports
to somebody else does so on rank 0 only, which `start` tells; `trackers` has two such.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distbp import own_parts
from distbp.errors import ConfigError
from distbp.network.network import Network
from distbp.parallel.rank_errors import collective_errors
from distbp.parallel.topology import Topology
from distbp.training.config import Config

STOP, SAVE = "stop", "save"

Call = Callable[[Mapping[str, Any], Network], str | None]


class Callback:
    """Is called after each epoch; made without arguments when a run starts or is resumed."""

    def start(self, config: Config, rank: int) -> None:
        """Be told the options of the run and this rank, before the first call.

        Also when a run is resumed, and when it goes on without ranks that have died, whose numbers
        others may take over.
        """

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


def make_callbacks(callbacks: Sequence[Any]) -> list[Call]:
    """Return what is called for names, classes and functions of two arguments.

    Raises
    ------
    ConfigError
        A name cannot be found, or something can neither be called nor is a name.
    """
    found = []
    for one in map(own_parts.name_of, callbacks):
        if isinstance(one, str):
            one = own_parts.find(one, Callback, "callback")()
        if not callable(one):
            raise ConfigError(
                f"The callback {one!r} is not a function. Expected one of two arguments, a record "
                "and the network."
            )
        found.append(one)
    return found


def agree_on_callbacks(comm: Topology, calls: list[Call]) -> list[Call]:
    """Return the callbacks of this rank; collective.

    If only others have some, it has one that requests nothing: the exchange of requests is for
    all ranks, or for none.
    """
    is_called = comm.world.allgather_int(len(calls) > 0).any()
    return calls or ([_request_nothing] if is_called else [])


def _request_nothing(record: Mapping[str, Any], network: Network) -> None:
    """Be a callback."""


def start_callbacks(comm: Topology, calls: Sequence[Call], config: Config) -> None:
    """Tell the callbacks that the run starts; collective, and the same on all ranks."""
    if calls:
        with collective_errors(comm):
            for one in calls:
                if isinstance(one, Callback):
                    one.start(config, comm.rank)


def check_requests(requests: Sequence[tuple[Call, Any]]) -> None:
    """Raise ConfigError if a callback has returned something else than a request."""
    for callback, request in requests:
        # An array would compare element by element.
        if request is not None and not (isinstance(request, str) and request in (SAVE, STOP)):
            raise ConfigError(
                f"The callback {callback!r} returned {request!r}; expected None, {SAVE!r} or "
                f"{STOP!r}."
            )
