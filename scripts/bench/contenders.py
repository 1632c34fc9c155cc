"""Run contenders in turns: the harness of the benchmarks in this folder.

All contenders are started together and sleep; then each has a turn, round after round, so
that other load on the machine affects all of them alike. A figure is the median of a
contender's turns.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from distbp.launch import mpiexec
from distbp.parallel import host

HERE = Path(__file__).resolve().parent
PAUSE_S = 0.3  # idle threads of the previous contender may still spin for a while
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# What other libraries are compared with, each in an environment of its own.
PEERS = {
    "torch": ("torch==2.13.0", "numpy"),
    "jax": ("jax", "numpy"),
    "sklearn": ("scikit-learn",),
}


@dataclass(frozen=True)
class Contender:
    """A program in this folder that calls `take_turns`.

    `program` is started with `words` and the folder to communicate through, on `ranks` ranks
    or as a single process, with one BLAS thread or with as many as it chooses.
    """

    name: str
    program: str
    words: tuple[str, ...]
    ranks: int = 1
    python: str = sys.executable
    threads: int | None = 1
    environment: dict[str, str] = field(default_factory=dict)
    launcher: tuple[str, ...] = ()  # instead of the default one for `ranks`

    def command(self):
        program = [self.python, str(HERE / self.program), *self.words]
        environment = self.environment | (ONE_THREAD if self.threads == 1 else {})
        if self.launcher:
            # Over ssh, the only environment is what the command sets.
            words = [f"{name}={value}" for name, value in environment.items()]
            return [*self.launcher, "/usr/bin/env", *words, *program], environment
        if self.ranks == 1:
            return program, environment
        launcher, more = launch_command(self.python, self.ranks)
        return [*launcher, *program], environment | more


def launch_command(python, ranks):
    """Return the launcher of the MPI that belongs to `python`, and its environment."""
    if python == sys.executable:
        return mpiexec.make_launcher(ranks)[:2]
    code = "import json; from distbp.launch.mpiexec import make_launcher"
    code += f"; print(json.dumps(make_launcher({ranks})[:2]))"
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, check=True).stdout)


class Started:
    """A running contender: the file `go-K` starts its turn K, and `done-K` has the result."""

    def __init__(self, contender, folder):
        folder.mkdir()
        self.folder, self.turns = folder, 0
        self.log = (folder / "log").open("w")
        command, environment = contender.command()
        self.child = subprocess.Popen(
            [*command, str(folder)],
            stdout=self.log, stderr=subprocess.STDOUT, env=os.environ | environment,
            start_new_session=True,
        )  # fmt: skip

    def wait_for(self, name):
        path = self.folder / name
        while not path.exists():
            if self.child.poll() is not None:
                sys.exit(f"{' '.join(self.child.args)}: {(self.folder / 'log').read_text()}")
            time.sleep(0.02)
        return path.read_text()

    def turn(self):
        time.sleep(PAUSE_S)
        (self.folder / f"go-{self.turns}").touch()
        seconds = float(self.wait_for(f"done-{self.turns}"))
        self.turns += 1
        return seconds

    def end(self):
        """Ask it to exit; if it does not, kill it with all that it has started."""
        (self.folder / "end").touch()
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
        self.log.close()


def measure(contenders, rounds, notes=None):
    """Return the seconds per step of each turn, by the contender's name.

    `notes` receives what a contender has written to the file `note` at its end.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = []
        turns = {contender.name: [] for contender in contenders}
        try:
            for i, contender in enumerate(contenders):
                started.append(Started(contender, Path(folder, str(i))))
            for one in started:
                one.wait_for("ready")
            for one in started:
                one.turn()  # calibrates the number of steps in a turn
            for _ in range(rounds):
                for contender, one in zip(contenders, started, strict=True):
                    turns[contender.name].append(one.turn())
        finally:
            for one in started:
                one.end()
        for contender, one in zip(contenders, started, strict=True):
            if notes is not None and (one.folder / "note").exists():
                notes[contender.name] = (one.folder / "note").read_text()
    return turns


def medians(turns):
    return {name: median(values) for name, values in turns.items()}


def add_peer_options(parser, *names):
    """Add --peers, and for each peer the option that names a Python which has it."""
    default = ",".join(names)
    about = f"what to compare with; '' for nothing (default: {default})"
    parser.add_argument("--peers", metavar="LIST", default=default, help=about)
    for name in names:
        parser.add_argument(f"--{name}", metavar="PYTHON", help=f"one that has {name} already")


def peer_pythons(arguments):
    """Return the Python of each peer that was asked for, by the peer's name."""
    names = list(filter(None, arguments.peers.split(",")))
    if unknown := set(names) - set(PEERS):
        sys.exit(f"--peers: expected names from {', '.join(PEERS)}; found {', '.join(unknown)}.")
    return {name: _peer_python(name, getattr(arguments, name)) for name in names}


def _peer_python(name, given):
    """Return a Python that has a peer, by default in an environment of its own in .bench."""
    if given:
        return given
    folder = Path(".bench", name).absolute()
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder} (once; needs the network) …", file=sys.stderr)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEERS[name]], check=True)
    return str(python)


def describe_machine():
    """Return a line about the machine that the figures were measured on."""
    return (
        f"{host.cpu_model()}, {host.usable_cores()} cores; {host.numeric_platform()['blas']}; "
        f"load {os.getloadavg()[0]:.1f} before the start"
    )


def write_json(path, results):
    if path:
        Path(path).write_text(
            json.dumps({"machine": host.numeric_platform(), "results": results}, indent=1)
        )
