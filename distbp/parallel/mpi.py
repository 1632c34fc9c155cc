"""Load, start and abort MPI. The only file that imports mpi4py.

MPI starts when it is first needed, not on import: a process that no launcher started never
starts it. What is sent once it runs is in `comm`, but for one exchange that has to come before
NumPy is loaded, as this file imports none.
"""

import atexit
import faulthandler
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from distbp.console import flush_streams
from distbp.parallel.environment import LaunchEnvironment

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as Comm
    from mpi4py.MPI import Request as Request

STDERR_FD = 2
_TEXT_BYTES = 256
_FLUSH_WAIT_S = 0.3  # for the launcher to forward what was written: an abort would overtake it


def init() -> Any:
    """Return mpi4py's module MPI, initialized.

    The process is killed by SIGALRM, with its stacks on stderr, if initialization takes longer
    than the launch environment allows.

    Raises
    ------
    ImportError, RuntimeError
        There is no mpi4py, or no MPI library that it can load.
    """
    MPI = _load()  # noqa: N806 (the name that it has in mpi4py)
    if not MPI.Is_initialized():
        launch = LaunchEnvironment.from_environ()
        # If a rank died meanwhile, the others may wait in Init_thread forever, where no
        # Python thread and no Python signal handler runs: hence the kernel's alarm.
        launch.write_arrival_file()
        faulthandler.register(signal.SIGALRM, STDERR_FD, chain=True)
        signal.alarm(launch.init_timeout)
        _plug = _memory_plug(launch)
        MPI.Init_thread()
        signal.alarm(0)
        atexit.register(MPI.Finalize)
    return MPI


def is_running() -> bool:
    """Return whether MPI runs in this process, by `init` or as the program has started it."""
    module = sys.modules.get("mpi4py.MPI")
    return module is not None and module.Is_initialized() and not module.Is_finalized()


def allows_threads() -> bool:
    """Return whether several threads may call MPI at the same time; it is initialized."""
    module = init()
    return bool(module.Query_thread() == module.THREAD_MULTIPLE)


def allgather_text(text: str) -> list[str]:
    """Return the text of every rank in order, on all of them; collective.

    Parameters
    ----------
    text : str
        ASCII, at most `_TEXT_BYTES` characters.

    Raises
    ------
    ImportError, RuntimeError
        As `init`, or a rank has failed.
    """
    world = init().COMM_WORLD
    own, everything = text.encode().ljust(_TEXT_BYTES), bytearray(world.size * _TEXT_BYTES)
    signal.alarm(LaunchEnvironment.from_environ().init_timeout)  # a rank may have been stopped
    world.Allgather(own, everything)
    signal.alarm(0)
    texts = everything.decode()
    return [texts[i : i + _TEXT_BYTES].rstrip() for i in range(0, len(texts), _TEXT_BYTES)]


def _memory_plug(launch: LaunchEnvironment) -> list[bytearray]:
    """Return objects that fill the gaps in this process's heap, under SLURM; keep them for Init.

    MPICH publishes its address through SLURM's PMI together with the memory behind it, 4 kB in
    all, which is encoded more briefly where it is zero. If the heap there is full of text, such
    as Python's docstrings, the message exceeds PMI's limit, is truncated, and no rank connects.
    With the gaps filled, MPICH's own objects get fresh memory, which is mostly zeros.
    """
    if not launch.in_slurm_step:
        return []
    return [bytearray(size) for size in range(4096, 512, -64) for _ in range(20)]


def is_launcher_refused(launch: LaunchEnvironment) -> bool:
    """Return whether MPI would end this process during initialization, with a message of its own.

    MPICH does so under Open MPI's launcher.
    """
    is_foreign = launch.ranks_started > 1 and launch.has_open_mpi_launcher
    return is_foreign and library_version().startswith("MPICH")


def library_version() -> str:
    """Return name and version of the MPI library, without initializing it; '' if there is none."""
    try:
        words = _load().Get_library_version().replace(",", " ").split()
    except (ImportError, RuntimeError):
        return ""
    if words[0] == "MPICH":
        return f"MPICH {words[2]}"
    return " ".join(word.lstrip("v") for word in words[:3])


def load_error() -> str:
    """Return in one line why no MPI library can be loaded; '' if one can."""
    try:
        _load()
    except (ImportError, RuntimeError) as error:
        return str(error).splitlines()[0]
    return ""


def _load() -> Any:
    """Return mpi4py's module MPI, which it does not initialize."""
    import mpi4py

    mpi4py.rc.initialize = False  # by default the import would do it, without a time limit
    from mpi4py import MPI

    return MPI


def running_version() -> str:
    """Return name and version of the MPI library that runs in this process, or `none`."""
    return library_version() if is_running() else "none"


def abort(status: int) -> NoReturn:
    """End all ranks with a non-zero exit status, once the launcher has this rank's output."""
    flush_streams()
    time.sleep(_FLUSH_WAIT_S)
    init().COMM_WORLD.Abort(status)
    os._exit(status)  # an Abort that returns has not ended this process
