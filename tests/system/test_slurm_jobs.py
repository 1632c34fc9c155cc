"""Batch jobs in spite of faults end with the digest of an uninterrupted run.

All jobs are submitted and disturbed at the same time, because SLURM checks its nodes and jobs
only every 30 seconds; each test then waits for its own job.
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
class BatchJob:
    """A batch job: its id, the directory of its run, and its output file."""

    id: str
    run: Path
    out: Path


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A cluster of seven nodes, of which the first two are not disturbed."""
    with cluster(7, tmp_path_factory.mktemp("hosts"), cpus=16) as started:
        yield started


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """Return the directory of an uninterrupted run on one rank."""
    folder = tmp_path_factory.mktemp("reference")
    distbp("train", data["digits"], *WORDS, "--out", "run", folder=folder)
    return folder / "run"


# Name of a job: options of `distbp slurm`, options of `sbatch`, and the seconds that its training
# takes before it is requeued: many for jobs that are disturbed by then.
JOBS = {
    "undisturbed": ("--nodes 2 --ranks-a-node 2", "", 5),
    "signal srun": ("--nodes 2", "", 90),
    "signal mpirun": ("--nodes 2 --launcher mpirun", "", 90),
    "time limit": ("--nodes 2 --time 1", "--signal=B:USR1@30", 45),
    "preempted": ("--ranks-a-node 2", "--nodelist=n3", 90),
    "preempted with grace": ("--nodes 2 --launcher mpirun --partition graced", "-w n1,n4", 90),
    "requeued": ("--nodes 2", "", 90),
    "ranks killed": ("--ranks-a-node 2", "", 90),
    "node killed": ("--nodes 2", "--nodelist=n1,n5", 90),
    "node killed mpirun": ("--nodes 2 --launcher mpirun", "--nodelist=n1,n5", 90),
    "node disconnected": ("--nodes 2", "--nodelist=n6,n7", 90),
    "cancelled": ("--nodes 2", "", 90),
    "array": ("--ranks-a-node 2 --seeds 2", "", 30),
    "sweep": ("--ranks-a-node 2", "", 5),
    "wrong mpi": (f"--nodes 2 --mpi {WRONG}", "", 5),
}
OTHER_ENDS = ("cancelled", "array", "sweep", "wrong mpi")


@pytest.fixture(scope="module")
def jobs(slurm, data, tmp_path_factory):
    """Submit all jobs, and disturb each as soon as it has a checkpoint."""
    folder = tmp_path_factory.mktemp("jobs")
    slurm.excluded = ["n5", "n6", "n7"]
    found = {name: submit(slurm, folder, data, name, *how) for name, how in JOBS.items()}

    def stop(job):
        slurm.run("scancel", "--batch", "--signal=USR1", job)

    disturbances = {
        "signal srun": stop,
        "signal mpirun": stop,
        "array": lambda job: stop(f"{job}_1"),
        "requeued": lambda job: slurm.run("scontrol", "requeue", job),
        "ranks killed": lambda job: kill_ranks(found["ranks killed"].run),
        "node disconnected": lambda job: slurm.hosts.set_link("n6", False),
        "node killed mpirun": lambda job: (
            has_checkpoint(slurm, found["node killed"].run) and slurm.hosts.kill("n5")
        ),
        "preempted": lambda job: (
            has_checkpoint(slurm, found["preempted with grace"].run) and preempt(slurm, folder)
        ),
        "cancelled": lambda job: slurm.run("scancel", job),
    }
    for name, disturb in disturbances.items():
        assert has_checkpoint(slurm, found[name].run), name
        disturb(found[name].id)
        slurm.release_requeued_jobs()
    return found


def submit(slurm, folder, data, name, options, more, seconds):
    """Write and submit a batch script."""
    run = folder / name
    training = ["train", data["digits"], *WORDS, "--out", run]
    if name == "sweep":
        training = ["sweep", *training[1:], "--vary", "seed=0,1"]
    script = folder / f"{name}.sbatch"
    with script.open("w") as file, contextlib.redirect_stdout(file):
        main.run_verb(main.parse_command_line(["slurm", *options.split(), *map(str, training)]))
    job_id = slurm.submit(
        script, *more.split(), f"--output={folder}/{name}.out",
        PYTHONPATH=f"{INSIDE}:{ROOT}", DISTBP_TEST_PACE=f"{seconds / STEPS:.4f}",
        DISTBP_START_LIMIT="60",
        OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe", OMPI_MCA_mpi_yield_when_idle="1",
    )  # fmt: skip
    return BatchJob(job_id, run, folder / f"{name}.out")


def has_checkpoint(slurm: Slurm, run: Path) -> bool:
    """Wait for the first checkpoint of a run, or of task 1 of an array.

    If MPI_Init hangs, the job reaches its time limit for that and is requeued meanwhile.
    """
    deadline = time.monotonic() + 240
    file = run / ("1/last.h5" if run.name == "array" else "last.h5")
    next_release = time.monotonic() + 5
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
        if time.monotonic() > next_release:
            slurm.release_requeued_jobs()
            next_release += 5
    return file.exists()


def kill_ranks(run: Path) -> None:
    """Kill the ranks that train in a directory: they leave their shared memory behind."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            pid = int(path.parts[2])
            if str(run).encode() in path.read_bytes() and name_of(pid).startswith("python"):
                found.append(pid)
    assert len(found) == 2
    kill(found)


def job_processes(slurm: Slurm, node: str) -> list[str]:
    """Return the names of the processes of batch scripts and ranks on a node."""
    names = map(name_of, slurm.hosts.processes(node))
    return [name for name in names if name.startswith(("bash", "srun", "python"))]


def preempt(slurm: Slurm, folder: Path) -> None:
    """Run a job of higher priority on the third and the fourth node for a moment."""
    script = folder / "priority.sbatch"
    script.write_text("#!/bin/sh\nsleep 1\n")
    slurm.submit(script, "-p", "high", "--nodelist=n3,n4", "--exclusive", "-o", "/dev/null")


def check_result(slurm, job, reference):
    """Check that a job has completed, with the result of the uninterrupted run."""
    about = slurm.ended(job.id)
    assert about["JobState"] == "COMPLETED", (about, job.out.read_text())
    assert metrics(job.run) == metrics(reference)
    run_digest, reference_digest = (digest(load(path).theta) for path in (job.run, reference))
    assert run_digest == reference_digest
    return about


@pytest.mark.parametrize("name", [name for name in JOBS if name not in OTHER_ENDS])
def test_the_result_is_that_of_an_uninterrupted_run(slurm, jobs, reference, name):
    """A disturbed job was requeued, and has resumed from its checkpoint."""
    about = check_result(slurm, jobs[name], reference)
    text = jobs[name].out.read_text()
    if name == "undisturbed":
        assert about["Restarts"] == "0"
    else:
        assert int(about["Restarts"]) >= 1
    if name.startswith("signal") or name == "time limit":
        assert "stopped by SIGUSR1 in epoch" in text, text


def test_a_cancelled_job_is_not_requeued(slurm, jobs):
    """Although its ranks save a checkpoint and end with status 75."""
    about = slurm.ended(jobs["cancelled"].id)
    assert (about["JobState"], about["Restarts"]) == ("CANCELLED", "0")


def test_a_node_that_is_reconnected_does_not_interfere(slurm, jobs, reference):
    """Processes that still run there do not affect the job, which has restarted on other nodes."""
    job = jobs["node disconnected"]
    before = check_result(slurm, job, reference)
    assert job_processes(slurm, "n6")
    slurm.hosts.set_link("n6", True)
    for pid in slurm.hosts.processes("n6"):
        if name_of(pid).startswith(("srun", "python")):  # they may wait for n7 without limit
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not job_processes(slurm, "n6"), "exit of the processes on n6")
    assert check_result(slurm, job, reference) == before


def test_a_job_array_has_a_run_for_each_seed(slurm, jobs, reference, data, tmp_path):
    """A task that is asked to stop is requeued, and only that task."""
    job = jobs["array"]
    distbp("train", data["digits"], *WORDS, "--seed", 1, "--out", "seed-1", folder=tmp_path)
    for seed, expected in enumerate([reference, tmp_path / "seed-1"]):
        about = slurm.ended(f"{job.id}_{seed}")
        assert about["JobState"] == "COMPLETED", job.out.read_text()
        assert about["Restarts"] == str(seed)
        assert metrics(job.run / str(seed)) == metrics(expected)


def test_a_sweep_has_a_task_for_each_run(slurm, jobs, reference):
    """Their results are compared where the batch script has been written."""
    job = jobs["sweep"]
    for task in (1, 2):
        assert slurm.ended(f"{job.id}_{task}")["JobState"] == "COMPLETED", job.out.read_text()
    assert metrics(job.run / "trial-0001") == metrics(reference)
    rows = distbp("sweep", "--table", job.run, "--csv", folder=job.run).out.splitlines()
    assert rows[0].startswith("trial,seed,monitor,score,")
    assert sorted(row.split(",")[1] for row in rows[1:] if ",finished," in row) == ["0", "1"]


def test_a_wrong_mpi_is_not_retried_without_limit(slurm, jobs):
    job = jobs["wrong mpi"]
    about = slurm.ended(job.id)
    output = job.out.read_text()
    assert about["JobState"] == "FAILED", output
    # The job that preempts others here may have had SLURM requeue this one, too.
    assert 3 <= int(about["Restarts"]) <= 3 + output.count("DUE TO PREEMPTION"), output
    assert (job.run / ".failures").read_text() == "3\n"
    assert not (job.run / "last.h5").exists()
