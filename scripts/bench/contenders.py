"""Programs that take turns: what all benchmarks here are made of.

Contenders are started together and wait asleep; then each has a turn, round after
round, so that whatever else the machine does hits all of them alike. A figure is the
median of a contender's turns.
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
PAUSE = 0.3  # seconds: threads of the one before may spin for a while when they have nothing to do
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Group that need an environment of their own.
PEERS = {
    "torch": ("torch==2.13.0", "numpy"),
    "jax": ("jax", "numpy"),
    "sklearn": ("scikit-learn",),
}


@dataclass(frozen=True)
class Contender:
    """A program beside this file that calls `take_turns`.

    `program` is told `words`, and then the folder to meet in. It is started on `ranks`
    ranks, or once, with one BLAS thread or with as many as it likes.
    """

    name: str
    program: str
    words: tuple[str, ...]
    ranks: int = 1
    python: str = sys.executable
    threads: int | None = 1
    environment: dict[str, str] = field(default_factory=dict)
    launcher: tuple[str, ...] = ()  # instead of one for `ranks`

    def command(self):
        program = [self.python, str(HERE / self.program), *self.words]
        environment = self.environment | (ONE_THREAD if self.threads == 1 else {})
        if self.launcher:
            # Over ssh there is no environment but what the command brings along.
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
    """A contender that runs: told to go by a file `go-K`, it answers in `done-K`."""

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
        time.sleep(PAUSE)
        (self.folder / f"go-{self.turns}").touch()
        seconds = float(self.wait_for(f"done-{self.turns}"))
        self.turns += 1
        return seconds

    def end(self):
        """Let it end by itself; if it does not, with all that it has started."""
        (self.folder / "end").touch()
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
        self.log.close()


def measure(contenders, rounds):
    """Return the seconds a step of every turn, by contender's name."""
    with tempfile.TemporaryDirectory() as folder:
        started = []
        turns = {contender.name: [] for contender in contenders}
        try:
            for i, contender in enumerate(contenders):
                started.append(Started(contender, Path(folder, str(i))))
            for one in started:
                one.wait_for("ready")
            for one in started:
                one.turn()  # in which it finds out how many steps a turn has
            for _ in range(rounds):
                for contender, one in zip(contenders, started, strict=True):
                    turns[contender.name].append(one.turn())
        finally:
            for one in started:
                one.end()
    return turns


def medians(turns):
    return {name: median(values) for name, values in turns.items()}


def peer_python(name, given=None):
    """Return a Python that has a peer, in an environment of its own below .bench."""
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
    """Return a line about what figures were measured on."""
    return (
        f"{host.cpu()}, {len(host.cores())} cores; {host.bits()['blas']}; "
        f"load {os.getloadavg()[0]:.1f} before the start"
    )


def write_json(path, results):
    if path:
        Path(path).write_text(json.dumps({"machine": host.bits(), "results": results}, indent=1))
