"""Run a short form of every script: here those of the benchmarks and recipes.

The measured values are not checked, only that the scripts succeed and print their tables: with
very short turns, one round, small networks, and the peers that the test environment has.
"""

import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest
from hosts import can_make_hosts
from ranks import ROOT, Ended, Job, distbp, mpiexec

SCRIPTS = ROOT / "scripts"
FASHION = Path("/usr/share/datasets/fashion-mnist")
PEERS = [name for name in ("torch", "sklearn") if importlib.util.find_spec(name)]
# Tested in test_scripts.py; the batch scripts of `distbp slurm` in test_slurm_jobs.py.
ELSEWHERE = {"demo", "test", "compare_digests", "train.sbatch", "sweep.sbatch"}
# For each script: the options of its short form, and the number of table rows that it prints.
SHORT = {
    "bench/calls": (["--cases", "20-8-3:4"], 0),
    "bench/combine": (["--rounds", 1, "--megabytes", 0.01], 1),
    "bench/epochs": (["handwritten.h5", "--rounds", 1, "--epochs", 1], 2),
    "bench/hosts": (
        ["--rounds", 1, "--rates", 0, "--hosts", 2, "--cases", "20-300-300-3:64", "--torch", ""],
        1,
    ),
    "bench/kernels": (["--rounds", 1, "--kernels", "Nehalem", "--shapes", "10x20x30,32x20x8"], 2),
    "bench/import": (["--rows", 2000, "--rounds", 1, "--peers", "none"], 2),
    "bench/many_epochs": (["--rounds", 1, "--epochs", 2], 6),
    "bench/memory": (["digits.h5", "--ranks", "1,2", "--", "--epochs", 40], 2),
    "bench/profile": (["--rounds", 1, "--cases", "20-8-3:64"], 2),
    "bench/safety": (["--rounds", 1, "--trial"], 0),
    "bench/scaling": (["--rounds", 1, "--ranks", "1,2", "--without-hosts"], 6),
    "bench/sklearn": (["--rounds", 1, "--tasks", "digits,diabetes", "--max-iter", 2], 5),
    "bench/steps": (["--rounds", 1, "--cases", "20-8-3:64", "--picture", "steps.png"], 1),
    "bench/streaming": (
        ["--rounds", 1, "--megabytes", 20, "--storages", "contiguous,gzip", "--", "--hidden", 8],
        2,
    ),
    "bench/wire": (["--rounds", 1, "--megabytes", 0.01, "--layouts", "1+1"], 1),
    "code_metrics": (["--unused"], 0),
    "soak": (
        [
            "--minutes",
            0.001,
            "--calm",
            0.05,
            "--busy",
            1,
            "--only",
            "killed",
            "--engines",
            "numpy",
            "--epochs",
            150,
        ],
        4,
    ),
    "recipes/fashion-mnist": ([FASHION, 2, "--epochs", 1, "--hidden", 8], 0),
    "recipes/curves": None,  # run by the recipe above
}
# Number of rows that each peer adds; in the tables of `steps` it adds columns.
PEER_ROWS = {
    "bench/epochs": {"torch": 2, "sklearn": 1},
    "bench/many_epochs": {"torch": 1, "sklearn": 1},
    "bench/steps": {"torch": 0, "sklearn": 0},
}


def script(name: str, *words: object, folder: Path, limit: float = 1200.0) -> Ended:
    """Run a script with the Python of the tests first on the PATH; it must succeed."""
    variables = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONWARNINGS": "",
        "DISTBP_BENCH_TURN_S": "0.02",
    }
    if name == "bench/hosts":  # its contenders would compile their steps one after the other
        variables["DISTBP_ENGINE"] = "numpy"
    path = SCRIPTS / name
    python = [sys.executable] if b"python" in path.read_bytes()[:40] else []
    ended = Job([*python, path, *words], folder, variables, limit).wait()
    assert ended.status == 0, str(ended)
    return ended


def test_every_script_is_run_by_a_test():
    """Here or in another file."""
    names = {
        str(path.relative_to(SCRIPTS))
        for path in SCRIPTS.rglob("*")
        if path.is_file() and (os.access(path, os.X_OK) or path.suffix == ".sbatch")
    }
    assert names <= set(SHORT) | ELSEWHERE
    assert set(SHORT) <= names


@pytest.mark.parametrize("name", [name for name, form in SHORT.items() if form])
def test_short_form(name, data, tmp_path):
    """It succeeds, and its tables have a row for each measurement."""
    words, rows = SHORT[name]
    if name in ("bench/wire", "bench/hosts") and not can_make_hosts():
        pytest.skip("needs root and namespaces")
    if FASHION in words and not FASHION.is_dir():
        pytest.skip(f"{FASHION} does not exist")
    if "handwritten.h5" in words:
        source = SCRIPTS / "digits.npz"
        distbp("import", source, "handwritten.h5", "--test-fraction", 0.2, folder=tmp_path)
    (tmp_path / "digits.h5").symlink_to(data["digits"])
    if name in PEER_ROWS:
        words = [*words, "--peers", ",".join(PEERS)]
        words += [word for peer in PEERS for word in (f"--{peer}", sys.executable)]
        rows += sum(PEER_ROWS[name][peer] for peer in PEERS)
    ended = script(name, *words, folder=tmp_path)
    table = [line for line in ended.out.splitlines() if line.startswith("| ")]
    headers = len(re.findall(r"^\|-", ended.out, re.M))
    assert len(table) - headers == rows, str(ended)
    assert ended.out.strip(), str(ended)


def test_the_prediction_that_scaling_compares_with(tmp_path):
    program = SCRIPTS / "bench" / "predicted.py"
    command = [mpiexec(), "-n", "2", sys.executable, program, "20-8-3:64", "2"]
    ended = Job(command, tmp_path).wait()
    assert ended.status == 0, str(ended)
    assert '"seconds":' in ended.out
