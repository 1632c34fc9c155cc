"""Starts probe processes, and gives up on them if they do not answer.

A file system that does not respond, an MPI library that ends the process, and a compiler that
uses instructions which the CPU lacks are what `distbp doctor` is for: it must survive them. So
nothing is tried in its own process, which loads neither NumPy nor MPI.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from distbp.doctor.probe import WORLD, Request
from distbp.errors import LaunchError
from distbp.launch.mpiexec import MpiLaunch
from distbp.parallel.environment import (
    INIT_TIMEOUT_VARIABLE,
    LaunchEnvironment,
    signal_on_parent_death,
)

AREA_LIMIT_S = 12.0  # for an area on this host
WORLD_LIMIT_S = 60.0  # for all ranks to connect and measure
TRIAL_LIMIT_S = 20.0  # for two ranks on this host
_POLL_INTERVAL_S = 0.02
_EXIT_LIMIT_S = 5.0  # for a probe that has answered: MPI's launchers object to killed ranks
_KILL_TIMEOUT_S = 1.0  # after SIGKILL, which does not end what waits for a file system
_REPORT_WAIT_S = 8.0  # for the first rank to report that they do not connect
_SHOWN_CHARS = 300

# Returns the exit status of a process, None while it runs.
_Poll = Callable[[], int | None]


@dataclass
class Answers:
    """What probes have answered: facts as JSON, and why there are none, by area."""

    facts: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def probe_here(
    areas: Sequence[str], folders: Sequence[str], limit: float = AREA_LIMIT_S
) -> Answers:
    """Return the facts of some areas of this host, of each within a time limit in seconds."""
    answers, pending = Answers(), list(areas)
    while pending:  # an area that ends the process, or does not end, costs itself only
        with _scratch() as (folder, log):
            request = Request(str(folder / "result"), pending, list(folders))
            with _process(request, folder, log) as poll:
                pending = _collect(request, pending, poll, log, limit, answers)
    return answers


def probe_as_rank(
    areas: Sequence[str], folders: Sequence[str], host_facts: dict[str, Any]
) -> Answers:
    """Return the facts of all ranks of the launcher that has started this process; collective."""
    launch = LaunchEnvironment.from_environ()
    with _scratch() as (folder, log):
        request = Request(str(folder / "result"), list(areas), list(folders), True, host_facts)
        with _process(request, folder, log) as poll:
            answers = Answers()
            _collect(request, [WORLD], poll, log, WORLD_LIMIT_S, answers)
    if answers.failures and launch.launcher_rank != 0 and poll() != 0:
        time.sleep(_REPORT_WAIT_S)  # launchers kill all ranks when one ends without MPI's consent
    return answers


def probe_on_ranks(ranks: int, areas: Sequence[str], folders: Sequence[str]) -> Answers:
    """Return the facts of `ranks` ranks, which are started on this host."""
    answers = Answers()
    limit = WORLD_LIMIT_S if areas else TRIAL_LIMIT_S
    with _scratch() as (folder, log):
        request = Request(str(folder / "result"), list(areas), list(folders), True)
        file = _write_request(request, folder)
        try:
            with (
                _init_timeout(limit),
                MpiLaunch(ranks, ["doctor", "--probe", file], log=log) as launch,
            ):
                _collect(request, [WORLD], lambda: launch.wait(0), log, limit, answers)
        except LaunchError as error:
            answers.failures[WORLD] = str(error)
    return answers


@contextmanager
def _scratch() -> Iterator[tuple[Path, TextIO]]:
    """Yield a temporary folder, and an open file in it for output."""
    with (
        tempfile.TemporaryDirectory(prefix="distbp_", ignore_cleanup_errors=True) as name,
        Path(name, "log").open("w+", encoding="utf-8", errors="replace") as log,
    ):
        yield Path(name), log


def _write_request(request: Request, folder: Path) -> str:
    file = folder / "request.json"
    file.write_text(json.dumps(asdict(request)), encoding="utf-8")
    return str(file)


@contextmanager
def _init_timeout(limit: float) -> Iterator[None]:
    """Have ranks that are started in the block give up when nobody waits for them any more."""
    is_set = INIT_TIMEOUT_VARIABLE in os.environ
    os.environ.setdefault(INIT_TIMEOUT_VARIABLE, str(int(limit)))
    try:
        yield
    finally:
        if not is_set:
            del os.environ[INIT_TIMEOUT_VARIABLE]


@contextmanager
def _process(request: Request, folder: Path, log: TextIO) -> Iterator[_Poll]:
    """Start a probe, in place of this process if a launcher has started it; kill it at the end.

    What MPI prints on a rank of a launcher is not kept for the table: when MPI ends a rank, its
    launcher may kill all others before they can show any.
    """
    command = [sys.executable, "-m", "distbp", "doctor", "--probe", _write_request(request, folder)]
    with _init_timeout(WORLD_LIMIT_S):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=None if request.is_collective else log,
            close_fds=False,  # MPICH's launcher is reached by a descriptor that it has opened
            preexec_fn=signal_on_parent_death(signal.SIGKILL),
        )
    try:
        yield process.poll
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_TIMEOUT_S)


def _collect(
    request: Request, pending: list[str], poll: _Poll, log: TextIO, limit: float, answers: Answers
) -> list[str]:
    """Read what a probe writes until it ends, or one area takes too long; return what is left."""
    launch = LaunchEnvironment.from_environ()
    file = request.result_file(launch.launcher_rank if request.is_collective else 0)
    pending, current, position, changed = list(pending), "", 0, time.monotonic()
    while True:
        status = poll()  # before the file is read, which is then complete
        lines, position = _new_lines(file, position)
        for entry in map(json.loads, lines):
            changed = time.monotonic()
            if "begin" in entry:
                current = entry["begin"]
                pending.remove(current)
                continue
            kind = answers.facts if "facts" in entry else answers.failures
            kind[entry["area"]] = entry.get("facts", entry.get("error"))
            current = ""
        is_done = not pending and not current
        is_late = time.monotonic() > changed + (_EXIT_LIMIT_S if is_done else limit)
        if status is not None or is_late:
            if not is_done:
                area = current or pending.pop(0)
                answers.failures[area] = _end(status, limit, log)
            return pending
        time.sleep(_POLL_INTERVAL_S)


def _new_lines(file: Path, position: int) -> tuple[list[str], int]:
    """Return the complete lines of a file from a position on, and the position behind them."""
    if not file.exists():
        return [], position
    with file.open("rb") as opened:
        opened.seek(position)
        content, newline, _ = opened.read().rpartition(b"\n")
    text = content.decode("utf-8")
    return text.split("\n") if newline else [], position + len(content) + len(newline)


def _end(status: int | None, limit: float, log: TextIO) -> str:
    """Return how a probe has ended, and what it has printed: of Python the last, of MPI the first.

    What a launcher adds about ranks that have failed is the same for all failures.
    """
    how = f"no answer within {limit:.0f} s" if status is None else f"ended with status {status}"
    if status is not None and -status in set(signal.Signals):
        how = f"ended by {signal.Signals(-status).name}"
    log.seek(0)
    lines = [line.strip(" -=") for line in log.read().splitlines() if line.strip(" -=")]
    if any(line.startswith("Traceback") for line in lines):
        lines = lines[-1:]
    text = "".join(c if c.isprintable() else "?" for c in " ".join(lines))
    text = textwrap.shorten(text, _SHOWN_CHARS, placeholder=" …")
    return f"{how}: {text.rstrip('.')}" if text else how
