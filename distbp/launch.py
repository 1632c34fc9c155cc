"""Start N ranks here, with the launcher that belongs to the installed MPI.

Nothing but finding `mpiexec`, its options and its end: what it starts is
`python -m distbp` with the same arguments.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from distbp import comm
from distbp.errors import LaunchError

NAMES = ("mpiexec", "mpirun", "mpiexec.hydra", "mpiexec.mpich", "mpirun.openmpi", "mpiexec.openmpi")


def run_ranks(ranks: int, arguments: list[str]) -> int:
    """Run `distbp` with `arguments` on `ranks` ranks; return the launcher's exit status.

    Raises
    ------
    LaunchError
        There is no MPI, or no launcher that belongs to it.
    """
    command, environment = launcher_command(ranks)
    environment |= {comm.RANKS_VARIABLE: str(ranks)}
    child = subprocess.Popen(
        [*command, sys.executable, "-m", "distbp", *arguments],
        env=os.environ | environment,
        preexec_fn=die_with_parent if sys.platform == "linux" else None,
    )
    # The launcher has Ctrl-C from the terminal too; it ends its ranks, and then this ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: child.terminate())
    status = child.wait()
    return status if status >= 0 else 128 - status


def die_with_parent() -> None:
    """Let this process have SIGTERM when its parent dies, however it does."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def launcher_command(ranks: int) -> tuple[list[str], dict[str, str]]:
    """Return how to start `ranks` ranks: the command's beginning, and environment variables."""
    library = comm.library()
    if not library:
        raise LaunchError(
            f"--ranks {ranks} needs MPI, and no MPI library can be loaded. Install one: "
            f"pip install mpich."
        )
    launcher = find_launcher(library)
    if not library.startswith("Open MPI"):
        return [launcher, "-n", str(ranks)], {}
    command = [launcher, "-n", str(ranks), "--oversubscribe", "--bind-to", "none"]
    # A waiting rank leaves its core to whatever else this machine does.
    command += ["--mca", "mpi_yield_when_idle", "1"]
    # Who starts ranks as root here has said so by starting this as root.
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return command, root if os.geteuid() == 0 else {}


def find_launcher(library: str) -> str:
    """Return the path of the launcher of an MPI library, beside this Python or on the PATH."""
    folders = (str(Path(sys.executable).parent), None)
    seen = []
    for folder in folders:
        for name in NAMES:
            path = shutil.which(name, path=folder)
            if path is None:
                continue
            if launches(path, library):
                return path
            seen.append(path)
    raise LaunchError(
        f"--ranks needs the mpiexec of {library}, which Python uses; "
        + (f"{', '.join(seen)} belong to another MPI." if seen else "there is none on the PATH.")
    )


def launches(path: str, library: str) -> bool:
    """Return whether the launcher at `path` belongs to an MPI library."""
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    is_open_mpi = "Open MPI" in answer or "OpenRTE" in answer or "PRRTE" in answer
    return is_open_mpi == library.startswith("Open MPI")
