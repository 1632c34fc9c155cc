"""The same few steps at several numbers of ranks, and the first difference between them.

`run_trace` launches ranks as `train --ranks N` does, each of which runs `distbp verify` with
`--trace-to`; `training.step_trace` says what rank 0 writes there. `compare_traces` finds the first
step and array that differ.
"""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distbp.errors import ConfigError, DistbpError, LaunchError
from distbp.launch.mpiexec import POLL_INTERVAL_S, MpiLaunch, StopSignals
from distbp.parallel.environment import LaunchEnvironment, Outcome
from distbp.training.array_difference import ArrayDifference, compare_arrays

_MESSAGE = re.compile(r"^distbp: (?:warning: )?(.+)$", re.MULTILINE)
_SHOWN_LINES = 20
_MAX_STORED = 20_000_000  # numbers of θ that are kept to compare them


@dataclass(frozen=True)
class Trace:
    """What a number of ranks has computed.

    Attributes
    ----------
    ranks : int
    content : dict
        As `training.step_trace.trace_steps` returns it.
    theta : (P,) array or None
        At the end, unless it is large.
    messages : list of str
        Warnings of the ranks.
    """

    ranks: int
    content: dict[str, Any]
    theta: np.ndarray | None
    messages: list[str]

    @property
    def digest(self) -> str:
        """The digest of θ after the last epoch."""
        return str(self.content["records"][-1]["digest"])


@dataclass(frozen=True)
class FirstDifference:
    """Where two traces part.

    Attributes
    ----------
    update : int
        Counted from 1; 0 before the first step.
    epoch, step : int
        The epoch, counted from 1, and the steps of it that are done.
    what : str
        The array that differs, the cost, or the scores of an epoch.
    difference : ArrayDifference or None
        Of θ at the end.
    """

    update: int
    epoch: int
    step: int
    what: str
    difference: ArrayDifference | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        difference = None if self.difference is None else self.difference.to_dict()
        return vars(self) | {"difference": difference}


def write_trace(path: Path, content: dict[str, Any], theta: np.ndarray) -> None:
    """Write what `run_trace` reads."""
    path.write_text(json.dumps(content), encoding="utf-8")
    if theta.size <= _MAX_STORED:
        np.save(path.with_suffix(".npy"), theta)


def run_trace(ranks: int, words: Sequence[str], path: Path, signals: StopSignals) -> Trace | None:
    """Launch ranks and return their trace; None if a signal asks to stop.

    Parameters
    ----------
    ranks : int
    words : sequence of str
        The arguments of `distbp`.
    path : Path
        A file to be written by rank 0, in a folder for temporary files.
    signals : StopSignals

    Raises
    ------
    DistbpError
        The ranks cannot be started, or end with an error.
    """
    log_path = path.with_suffix(".txt")
    with log_path.open("w", encoding="utf-8") as log:
        with MpiLaunch(ranks, [*words, "--trace-to", str(path)], log=log) as launch:
            status = _wait(launch, signals)
        output = log_path.read_text(encoding="utf-8", errors="replace")
    if signals:
        return None
    if launch.outcome != Outcome.DONE:
        raise _error(launch, ranks, status, output)
    theta_path = path.with_suffix(".npy")
    theta = np.load(theta_path, allow_pickle=False) if theta_path.exists() else None
    # Once, although the steps are done twice.
    messages = list(dict.fromkeys(_MESSAGE.findall(output)))
    return Trace(ranks, json.loads(path.read_text("utf-8")), theta, messages)


def _wait(launch: MpiLaunch, signals: StopSignals) -> int | None:
    """Return the status of a launch that has ended; None after a signal, or if it never starts."""
    limit = LaunchEnvironment.from_environ().init_timeout
    while (status := launch.wait(POLL_INTERVAL_S)) is None and not signals:
        if not launch.has_started and time.monotonic() > launch.started_at + limit:
            raise LaunchError(
                f"The ranks did not connect within {limit} s. Try again, or set DISTBP_START_LIMIT "
                "to more seconds."
            )
    return status


def _error(launch: MpiLaunch, ranks: int, status: int | None, output: str) -> DistbpError:
    """Return the error that the ranks have ended with."""
    where = f"on {ranks} rank{'s' * (ranks != 1)}"
    if launch.message:
        kind = ConfigError if launch.status == ConfigError.status else DistbpError
        return kind(f"{where}: {launch.message}")
    tail = "\n".join(output.splitlines()[-_SHOWN_LINES:])
    return LaunchError(f"{where}: the launcher ended with status {status}.\n{tail}".rstrip())


def compare_traces(first: Trace, other: Trace) -> FirstDifference | None:
    """Return where a trace differs from the first one; None if it is equal bit for bit."""
    difference = None
    if first.theta is not None and other.theta is not None:
        difference = compare_arrays(first.theta, other.theta)
    steps = zip(first.content["steps"], other.content["steps"], strict=False)
    for update, (one, this) in enumerate(steps):
        if one != this:
            what = _what_differs(first.content["arrays"], one, this)
            return FirstDifference(update, one["epoch"], one["step"], what, difference)
    for kind in ("records", "plain_records"):  # the latter of steps that may be made at once
        for record, this in zip(first.content["records"], other.content[kind], strict=False):
            keys = [key for key in record if record[key] != this.get(key)]
            if keys:
                where = record["step"], record["epoch"], 0
                return FirstDifference(*where, ", ".join(keys), difference)
    counts = [len(one.content["steps"]) for one in (first, other)]
    if counts[0] != counts[1]:
        return FirstDifference(min(counts), 0, 0, "the number of steps", difference)
    return None


def _what_differs(arrays: list[Any], one: dict[str, Any], other: dict[str, Any]) -> str:
    digests = zip(arrays, one["digests"], other["digests"], strict=True)
    named = (f"the {name} of layer {layer}" for (layer, name), a, b in digests if a != b)
    return next(named, "the cost")
