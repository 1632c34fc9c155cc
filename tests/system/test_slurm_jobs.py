"""Batch jobs that are disturbed end with the digest of a run that was not.

All jobs are submitted and disturbed at the same time, because SLURM looks for what has
happened every 30 seconds only; then each test waits for its own.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hosts import can_make_hosts
from ranks import INSIDE, ROOT, distbp, is_open_mpi, kill, metrics, name_of
from slurm import Slurm, cluster, has_slurm, wait_for

from distbp.cli import main
from distbp.network.parameters import digest
from distbp.storage.run_directory import load

WORDS = (
    *("--batch-size", 50, "--shards", 4, "--epochs", 40, "--hidden", "30,10", "--quiet"),
    *("--optimizer", "adam", "--dropout", 0.2, "--clip-norm", 0.5),
    *("--checkpoint-every", "20steps"),
)
STEPS = 40 * 11
WRONG = "pmi2" if is_open_mpi() else "pmix"

pytestmark = pytest.mark.skipif(
    not (can_make_hosts() and has_slurm()), reason="needs root, namespaces and Debian's SLURM"
)


@dataclass
class Job:
    """A batch job: its number, the directory of its run, and what it writes."""

    number: str
    run: Path
    out: Path


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A cluster of seven nodes, of which the first two stay as they are."""
    with cluster(7, tmp_path_factory.mktemp("hosts"), cpus=16) as up:
        yield up


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The run of one rank that nobody disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    distbp("train", data["digits"], *WORDS, "--out", "run", folder=folder)
    return folder / "run"


# Name of a job: options of `distbp slurm`, of `sbatch`, and the seconds that its training lasts,
# the longer the later it is disturbed.
JOBS = {
    "undisturbed": ("--nodes 2 --ranks-a-node 2", "", 5),
    "signal srun": ("--nodes 2", "", 12),
    "signal mpirun": ("--nodes 2 --launcher mpirun", "", 12),
    "time limit": ("--nodes 2 --time 1", "--signal=B:USR1@30", 45),
    "preempted": ("--ranks-a-node 2", "--nodelist=n3", 25),
    "preempted with grace": ("--nodes 2 --launcher mpirun --partition graced", "-w n1,n4", 25),
    "requeued": ("--nodes 2", "", 15),
    "ranks killed": ("--ranks-a-node 2", "", 15),
    "node killed": ("--nodes 2", "--nodelist=n1,n5", 20),
    "node killed mpirun": ("--nodes 2 --launcher mpirun", "--nodelist=n1,n5", 20),
    "cable pulled": ("--nodes 2", "--nodelist=n6,n7", 20),
    "cancelled": ("--nodes 2", "", 30),
    "array": ("--ranks-a-node 2 --seeds 2", "", 10),
    "wrong mpi": (f"--nodes 2 --mpi {WRONG}", "", 5),
}
OTHERS = ("cancelled", "array", "wrong mpi")  # with an end of their own


@pytest.fixture(scope="module")
def jobs(slurm, data, tmp_path_factory):
    """Submit all jobs, and disturb each as soon as it has something to lose."""
    folder = tmp_path_factory.mktemp("jobs")
    slurm.avoided = ["n5", "n6", "n7"]
    found = {name: submit(slurm, folder, data, name, *how) for name, how in JOBS.items()}

    def stop(job):
        slurm.run("scancel", "--batch", "--signal=USR1", job)

    disturbances = {
        "signal srun": stop,
        "signal mpirun": stop,
        "array": lambda job: stop(f"{job}_1"),
        "requeued": lambda job: slurm.run("scontrol", "requeue", job),
        "ranks killed": lambda job: kill_ranks(found["ranks killed"].run),
        "cable pulled": lambda job: slurm.hosts.plug("n6", False),
        "node killed mpirun": lambda job: (
            saved(slurm, found["node killed"].run) and slurm.hosts.kill("n5")
        ),
        "preempted": lambda job: (
            saved(slurm, found["preempted with grace"].run) and preempt(slurm, folder)
        ),
        "cancelled": lambda job: slurm.run("scancel", job),
    }
    for name, disturb in disturbances.items():
        assert saved(slurm, found[name].run), name
        disturb(found[name].number)
        slurm.hurry()
    return found


def submit(slurm, folder, data, name, options, more, seconds):
    """Write and submit a batch script; return the job."""
    run = folder / name
    training = ["train", data["digits"], *WORDS, "--out", run]
    script = folder / f"{name}.sbatch"
    with script.open("w") as file, contextlib.redirect_stdout(file):
        main.run(main.parse(["slurm", *options.split(), *map(str, training)]))
    number = slurm.submit(
        script, *more.split(), f"--output={folder}/{name}.out",
        PYTHONPATH=f"{INSIDE}:{ROOT}", DISTBP_TEST_PACE=f"{seconds / STEPS:.4f}",
        DISTBP_START_LIMIT="20",
        OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe", OMPI_MCA_mpi_yield_when_idle="1",
    )  # fmt: skip
    return Job(number, run, folder / f"{name}.out")


def saved(slurm: Slurm, run: Path) -> bool:
    """Wait for the first checkpoint of a run, or of the second one of an array.

    A start of MPI that hangs ends after its limit, and the job starts again.
    """
    until, file = time.monotonic() + 90, run / ("1/last.h5" if run.name == "array" else "last.h5")
    look = time.monotonic() + 5
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.05)
        if time.monotonic() > look:
            slurm.hurry()
            look += 5
    return file.exists()


def kill_ranks(run: Path) -> None:
    """Kill the ranks that train in a directory: they leave the memory that they shared."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            pid = int(path.parts[2])
            if str(run).encode() in path.read_bytes() and name_of(pid).startswith("python"):
                found.append(pid)
    assert len(found) == 2
    kill(found)


def working(slurm: Slurm, node: str) -> list[str]:
    """Return what runs of batch scripts and ranks on a node."""
    names = map(name_of, slurm.hosts.processes(node))
    return [name for name in names if name.startswith(("bash", "srun", "python"))]


def preempt(slurm: Slurm, folder: Path) -> None:
    """Let somebody more important have the third and the fourth node for a moment."""
    script = folder / "important.sbatch"
    script.write_text("#!/bin/sh\nsleep 1\n")
    slurm.submit(script, "-p", "high", "--nodelist=n3,n4", "--exclusive", "-o", "/dev/null")


def check_end(slurm, job, alone):
    """Check that a job has come to its end, and to what it would have without disturbance."""
    about = slurm.ended(job.number)
    assert about["JobState"] == "COMPLETED", (about, job.out.read_text())
    assert metrics(job.run) == metrics(alone)
    run, whole = (digest(load(path).theta) for path in (job.run, alone))
    assert run == whole
    return about


@pytest.mark.parametrize("name", [name for name in JOBS if name not in OTHERS])
def test_the_end_is_that_of_a_run_alone(slurm, jobs, alone, name):
    """A job that was disturbed was put back, and has gone on from its checkpoint."""
    about = check_end(slurm, jobs[name], alone)
    text = jobs[name].out.read_text()
    if name == "undisturbed":
        assert about["Restarts"] == "0"
    else:
        assert int(about["Restarts"]) >= 1
    if name.startswith("signal") or name == "time limit":
        assert "stopped by SIGUSR1 in epoch" in text, text


def test_a_job_that_is_cancelled_does_not_come_back(slurm, jobs):
    """Its ranks may save and say so; but it is not theirs to decide."""
    about = slurm.ended(jobs["cancelled"].number)
    assert (about["JobState"], about["Restarts"]) == ("CANCELLED", "0")


def test_a_host_that_is_joined_again_changes_nothing(slurm, jobs, alone):
    """What still runs there of the job has no say in the job that has come back elsewhere."""
    job = jobs["cable pulled"]
    before = check_end(slurm, job, alone)
    assert working(slurm, "n6")
    slurm.hosts.plug("n6", True)
    for pid in slurm.hosts.processes("n6"):
        if name_of(pid).startswith(("srun", "python")):  # they may wait for n7 for ever
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not working(slurm, "n6"), "the end of what was left on n6")
    assert check_end(slurm, job, alone) == before


def test_a_job_array_has_a_run_for_each_seed(slurm, jobs, alone, data, tmp_path):
    """A task that is asked to stop comes back, and it alone."""
    job = jobs["array"]
    distbp("train", data["digits"], *WORDS, "--seed", 1, "--out", "alone", folder=tmp_path)
    for seed, whole in enumerate([alone, tmp_path / "alone"]):
        about = slurm.ended(f"{job.number}_{seed}")
        assert about["JobState"] == "COMPLETED", job.out.read_text()
        assert about["Restarts"] == str(seed)
        assert metrics(job.run / str(seed)) == metrics(whole)


def test_a_wrong_mpi_is_not_tried_for_ever(slurm, jobs):
    job = jobs["wrong mpi"]
    about = slurm.ended(job.number)
    assert about["JobState"] == "FAILED", job.out.read_text()
    assert int(about["Restarts"]) <= 3
    assert not (job.run / "last.h5").exists()
