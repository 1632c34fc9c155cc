"""What ties a rank to the process that started it by `--ranks`.

The starter marks the environment of all that it starts with a token, and names two
files in which the ranks say that they have found each other, and how they have ended.
The launcher's exit status says neither: it is 0 after several kinds of disaster. A
rank that was started otherwise has nothing to say and nobody to follow.
"""

import os
import signal
from pathlib import Path

from distbp.errors import DistbpError, StoppedError
from distbp.processes import parents_death_sends

TOKEN_VARIABLE = "DISTBP_TOKEN"  # noqa: S105 (no secret: all may know it)
STARTED_VARIABLE = "DISTBP_STARTED"
DONE_VARIABLE = "DISTBP_DONE"

# The words of an end, which an exit status and, from the next line on, a sentence follow.
DONE = "done"
STOPPED = "stopped"  # saved, by request
REFUSED = "refused"  # starting again would not mend it
FAILED = "failed"  # starting again may


def follow_parent() -> None:
    """End this rank when the launcher dies: a rank that computes would not notice."""
    if TOKEN_VARIABLE in os.environ:
        parents_death_sends(signal.SIGKILL)()


def say_started() -> None:
    """Say that the ranks have found each other."""
    _say(STARTED_VARIABLE, "started")


def say_done() -> None:
    """Say that all that was asked for has been done."""
    _say(DONE_VARIABLE, f"{DONE} 0")


def say_error(error: DistbpError) -> None:
    """Say what all ranks have ended with."""
    kinds = {StoppedError: STOPPED, DistbpError: FAILED}
    _say(DONE_VARIABLE, f"{kinds.get(type(error), REFUSED)} {error.status}\n{error}")


def _say(variable: str, text: str) -> None:
    if variable in os.environ:
        Path(os.environ[variable]).write_text(f"{text}\n", encoding="utf-8")
