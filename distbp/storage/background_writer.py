"""Saving while the training goes on: a copy is taken, and a thread writes it.

At most one save is under way; who has another one waits for it. What goes wrong in the
thread is told to whoever asks next.
"""

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from distbp.errors import CheckpointError
from distbp.network.network import Network
from distbp.storage.checkpoint import Checkpoint, describe_network


class BackgroundWriter:
    """Writes one checkpoint after the other, in a thread of its own.

    The first copy makes room for all that follow: θ and the optimizer's state once more. To
    `hold` one takes as much again.
    """

    def __init__(self) -> None:
        self._copy: Checkpoint | None = None
        self._deferred: Checkpoint | None = None
        self._room_to_hold: Checkpoint | None = None
        self._thread: threading.Thread | None = None
        self._trouble: BaseException | None = None

    def start(self, checkpoint: Checkpoint, write: Callable[[Checkpoint], None]) -> None:
        """Copy a checkpoint's arrays and let `write` have them; they may change at once.

        Raises
        ------
        CheckpointError
            The save before this one has failed; this one has not begun.
        """
        self.wait()
        self._copy = copied(checkpoint, self._copy)
        self._thread = threading.Thread(target=self._run, args=(self._copy, write), daemon=True)
        self._thread.start()

    def defer(self, checkpoint: Checkpoint) -> None:
        """Keep a copy of a checkpoint that is to be written later, if no better one comes."""
        self._deferred = self._room_to_hold = copied(checkpoint, self._room_to_hold)

    def pop_deferred(self) -> Checkpoint | None:
        """Return what is held, which is so no longer."""
        held, self._deferred = self._deferred, None
        return held

    def _run(self, checkpoint: Checkpoint, write: Callable[[Checkpoint], None]) -> None:
        try:
            write(checkpoint)
        except BaseException as trouble:
            self._trouble = trouble
            if not isinstance(trouble, CheckpointError):  # a defect: all ranks are to know now
                raise

    def is_done(self) -> bool:
        """Return whether nothing is under way."""
        return self._thread is None or not self._thread.is_alive()

    def wait(self) -> None:
        """Return when nothing is under way.

        Raises
        ------
        CheckpointError
            What was under way has failed.
        """
        if self._thread:
            self._thread.join()
        self._thread = None
        trouble, self._trouble = self._trouble, None
        if trouble:
            raise trouble


def copied(checkpoint: Checkpoint, room: Checkpoint | None) -> Checkpoint:
    """Return a copy of a checkpoint, in the arrays of an older one if there is `room`."""
    network, state = checkpoint.network, checkpoint.state
    if room is None:
        spare = Network(**describe_network(network), theta=np.empty_like(network.theta))
        room = replace(
            checkpoint, network=spare, state={name: np.empty_like(a) for name, a in state.items()}
        )
    np.copyto(room.network.theta, network.theta)
    for name, array in state.items():
        np.copyto(room.state[name], array)
    return replace(checkpoint, network=room.network, state=room.state)
