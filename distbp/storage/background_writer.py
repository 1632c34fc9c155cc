"""Writing checkpoints in a background thread while the training continues.

The caller's arrays are copied and a thread writes the copy. At most one write is in
progress; starting another one waits for it. An error in the thread is raised by the next
call. A checkpoint that is to be written later, or never if a newer one is, is copied to
`DeferredCheckpoints`. When checkpoints are due, and where they are written, is up to the caller.
"""

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from distbp.errors import CheckpointError
from distbp.network.network import Network
from distbp.storage.checkpoint import Checkpoint, describe_network


class BackgroundWriter:
    """Writes one checkpoint after the other in a thread of its own.

    The first `start` allocates a copy of θ and of the optimizer's state, which later calls reuse.

    Attributes
    ----------
    copy : Checkpoint, optional
        What is being written, or was written last, successfully or not.
    """

    def __init__(self) -> None:
        self.copy: Checkpoint | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, checkpoint: Checkpoint, write: Callable[[Checkpoint], None]) -> None:
        """Copy a checkpoint and call `write` on the copy in the background.

        The arrays of `checkpoint` may be changed as soon as this returns.

        Raises
        ------
        CheckpointError
            The write before this one failed; this one was not started.
        """
        self.wait()
        self.copy = copy_checkpoint(checkpoint, self.copy)
        # A daemon, so that a hanging file system does not keep a failed process alive.
        self._thread = threading.Thread(target=self._run, args=(self.copy, write), daemon=True)
        self._thread.start()

    def _run(self, checkpoint: Checkpoint, write: Callable[[Checkpoint], None]) -> None:
        try:
            write(checkpoint)
        except BaseException as error:
            self._error = error
            # Anything else is a defect: the excepthook of threads then stops all ranks at once.
            if not isinstance(error, CheckpointError):
                raise

    def wait(self) -> None:
        """Wait until no write is in progress.

        Raises
        ------
        CheckpointError
            The write failed.
        """
        if self._thread:
            self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error:
            raise error


class DeferredCheckpoints:
    """Copies of the last and the best checkpoint, to be written later, unless they are outlived.

    Both may be the same one. There are two copies at most; their memory is reused.

    Attributes
    ----------
    last, best : Checkpoint, optional
    """

    def __init__(self) -> None:
        self.last: Checkpoint | None = None
        self.best: Checkpoint | None = None
        self._buffers: list[Checkpoint] = []

    def put(self, checkpoint: Checkpoint, is_last: bool, is_best: bool) -> None:
        """Keep a copy of a checkpoint as the last one, the best one, or both."""
        kept = (None if is_last else self.last), (None if is_best else self.best)
        used = [one.network for one in kept if one is not None]
        spare = next((one for one in self._buffers if one.network not in used), None)
        copy = copy_checkpoint(checkpoint, spare)
        if spare is None:
            self._buffers.append(copy)
        if is_last:
            self.last = copy
        if is_best:
            self.best = copy


def copy_checkpoint(checkpoint: Checkpoint, buffers: Checkpoint | None) -> Checkpoint:
    """Return a copy of a checkpoint, in the arrays of an older copy if there is one."""
    network, state = checkpoint.network, checkpoint.state
    # Fresh memory for each copy would cost page faults, in the training thread.
    if buffers is None:
        spare = Network(**describe_network(network), theta=np.empty_like(network.theta))
        if checkpoint.target is not None:
            spare.use_target_units(checkpoint.target.units)
        buffers = replace(
            checkpoint, network=spare, state={name: np.empty_like(a) for name, a in state.items()}
        )
        if checkpoint.averaged_from is not None:
            buffers.averaged_from = np.empty_like(network.theta)
    np.copyto(buffers.network.theta, network.theta)
    if checkpoint.averaged_from is not None and buffers.averaged_from is not None:
        np.copyto(buffers.averaged_from, checkpoint.averaged_from)
    for name, array in state.items():
        np.copyto(buffers.state[name], array)
    return replace(
        checkpoint,
        network=buffers.network,
        state=buffers.state,
        averaged_from=buffers.averaged_from,
    )
