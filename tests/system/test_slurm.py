"""Ranks started by srun on several nodes: the digest of one rank, or a clear error."""

import os
import sys
import time
from pathlib import Path

import pytest
from hosts import can_make_hosts, environment
from ranks import FULL, INSIDE, ROOT, distbp, fault
from slurm import Slurm, cluster, has_slurm

IS_OPEN_MPI = (Path(sys.executable).parent / "prterun").exists()
MPI, WRONG = ("pmix", "pmi2") if IS_OPEN_MPI else ("pmi2", "none")
WORDS = (
    *("--batch-size", 50, "--shards", 11, "--epochs", 2, "--hidden", "700,30", "--quiet"),
    *("--optimizer", "adam", "--clip-norm", 0.5, "--dropout", 0.2),
)

pytestmark = pytest.mark.skipif(
    not (can_make_hosts() and has_slurm()), reason="needs root, namespaces and Debian's SLURM"
)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A cluster of two nodes with four cores each."""
    with cluster(2, tmp_path_factory.mktemp("hosts")) as started:
        yield started


def srun(slurm: Slurm, options: list, words: list, mpi: str = MPI, check: bool = True, **more: str):
    """Run distbp by srun, with more variables in its environment."""
    variables = {
        "PYTHONPATH": f"{INSIDE}:{ROOT}", "OPENBLAS_NUM_THREADS": "1", "HOME": os.environ["HOME"],
    } | more  # fmt: skip
    program = [*environment(**variables), sys.executable, "-m", "distbp"]
    return slurm.run("srun", f"--mpi={mpi}", "-t", 5, *options, *program, *words, check=check)


@pytest.mark.parametrize(
    "options",
    [["-N2", "-n2"], ["-N2", "-n4", "--ntasks-per-node=2"], ["-N2", "-n5"], ["-N1", "-n3"]],
    ids=" ".join,
)
def test_srun_gives_the_digest_of_one_rank(slurm, data, tmp_path, options):
    words = ["train", data["digits"], *WORDS, "--out"]
    distbp(*words, tmp_path / "reference", folder=tmp_path)
    srun(slurm, options, [*words, tmp_path / "run"])
    names = ("reference", "run")
    digests = {distbp("digest", tmp_path / name, folder=tmp_path).out for name in names}
    assert len(digests) == 1


def test_a_killed_rank_ends_the_job(slurm, data, tmp_path):
    """Even if SLURM does not: ranks that wait in shared memory notice that the other has died."""
    words = ["train", data["digits"], "--epochs", 100_000, "--quiet", "--out", tmp_path / "run"]
    began = time.monotonic()
    options = ["-N1", "-n2"]
    ended = srun(slurm, options, words, check=False, **fault(tmp_path, 1, "update", "kill", 30))
    assert (tmp_path / "fault").exists(), ended.stderr
    assert ended.returncode != 0
    assert time.monotonic() - began < 30


def test_a_wrong_mpi_is_refused(slurm, data, tmp_path):
    """It would start four runs of one rank each, in one directory, and end with status 0."""
    words = ["train", data["digits"], *WORDS, "--out", tmp_path / "run"]
    ended = srun(slurm, ["-N2", "-n4"], words, mpi=WRONG, check=False)
    assert ended.returncode != 0
    assert "4 ranks were started, but each one sees only itself" in ended.stderr, ended.stderr
    assert "--mpi=pmi" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_doctor_by_srun(slurm, tmp_path):
    """One table for both nodes."""
    ended = srun(slurm, ["-N2", "-n3"], ["doctor", "--out", tmp_path], check=False)
    assert ended.stdout.count("\nranks ") == 1, ended.stdout + ended.stderr
    assert "3 ranks on 2 hosts connected" in ended.stdout, ended.stdout + ended.stderr
    assert "\ndifferences " in ended.stdout


if FULL:

    def test_doctor_with_a_wrong_mpi(slurm, tmp_path):
        """The reason why ranks do not connect is a line of the table."""
        words = ["doctor", "--out", tmp_path]
        ended = srun(slurm, ["-N2", "-n2"], words, mpi=WRONG, check=False)
        assert ended.returncode != 0
        assert ended.stdout.count("\nranks ") == 1, ended.stdout + ended.stderr
        assert "2 ranks did not connect" in ended.stdout
        assert "--mpi=pmi" in ended.stdout
