"""Training on several hosts, each with a network address and a /dev/shm of its own.

Ranks are started by `mpirun` with a list of hosts. On every layout the digest is that of
one rank, and the network traffic is hardly more than the minimum.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hosts import Hosts, can_make_hosts, environment
from ranks import INSIDE, ROOT, base_environment, distbp, fault, is_open_mpi, metrics

BIN = Path(sys.executable).parent
LIMIT = 300  # seconds
# Wide enough for the exchange of the last layers to begin during backprop.
WORDS = (
    *("--batch-size", 50, "--shards", 11, "--epochs", 3, "--hidden", "400,400"),
    *("--optimizer", "adam", "--clip-norm", 0.5, "--dropout", 0.2, "--l2", 0.1, "--quiet"),
    *("--engine", "numpy"),
)
LAYOUTS = [[1, 1], [2, 2], [3, 2], [1, 3], [1, 1, 1], [2, 1, 3], [1, 1, 1, 1], [2, 3, 1, 2]]

pytestmark = pytest.mark.skipif(not can_make_hosts(), reason="needs root and namespaces")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Four hosts on cables of 1 Gbit/s."""
    with Hosts(4, tmp_path_factory.mktemp("hosts"), rate=1e9) as up:
        yield up


def run(hosts: Hosts, layout: list[int], words, *wrapper: Path) -> str:
    """Run distbp on ranks of several hosts, with success; return its output."""
    ended = start(hosts, layout, words, *wrapper)
    assert ended.returncode == 0, f"{ended.args}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def start(
    hosts: Hosts, layout: list[int], words, *wrapper: Path, **more: str
) -> subprocess.CompletedProcess:
    """Run distbp on ranks of several hosts, with more variables; no process may remain.

    A wrapper is a program that starts the rank whose command line it is given.
    """
    variables = environment(
        PYTHONPATH=f"{INSIDE}:{ROOT}", OPENBLAS_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", **more,
    )  # fmt: skip
    program = [*variables, *wrapper, sys.executable, "-m", "distbp", *words]
    command = hosts.mpirun(BIN, layout, program, fault_tolerant=bool(more))
    # A deadlocked launcher of Open MPI does not react to SIGTERM.
    ended = subprocess.run(
        ["timeout", "-k", "5", str(LIMIT), *command], env=base_environment(), check=False,
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert_no_process(hosts)
    return ended


def assert_no_process(hosts: Hosts) -> None:
    deadline = time.monotonic() + 5
    while left := [pid for name in hosts.names for pid in hosts.processes(name)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory) -> tuple[str, list]:
    """Return digest and metrics of a run on one rank."""
    folder = tmp_path_factory.mktemp("reference")
    distbp("train", data["digits"], "--out", "run", *WORDS, folder=folder)
    digest = distbp("digest", "run", folder=folder).out.strip()
    return digest, metrics(folder / "run")


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_gives_the_digest_of_one_rank(hosts, data, reference, tmp_path, layout):
    run(hosts, layout, ["train", data["digits"], "--out", tmp_path / "run", *WORDS])
    digest, records = reference
    assert distbp("digest", tmp_path / "run", folder=tmp_path).out.strip() == digest
    assert metrics(tmp_path / "run") == records


@pytest.mark.parametrize(
    ("layout", "rank", "place", "call"),
    [([2, 2], 3, "update", 25), ([2, 1], 0, "layer", 295), ([1, 1], 1, "layer", 370)],
    ids=str,
)
def test_a_rank_failure_on_one_of_several_hosts(
    hosts, data, reference, tmp_path, layout, rank, place, call
):
    """The others continue (Open MPI), or all end and the run is resumed: the result is the same.

    Some fail in the middle of backprop, while the exchange of the last layers is under way.
    """
    words = ["train", data["digits"], "--out", tmp_path / "run", *WORDS]
    ended = start(hosts, layout, words, **fault(tmp_path, rank, place, "kill", call))
    report = f"{ended.args}\n{ended.stdout}\n{ended.stderr}"
    assert (tmp_path / "fault").exists(), report
    if is_open_mpi():
        assert ended.returncode == 0, report
        text = rf"rank {rank} died\. Training continues after [12] epoch"
        assert len(re.findall(text, ended.stderr)) == 1, report
    else:
        assert ended.returncode != 0, report
        run(hosts, [1] * len(layout), ["train", "--resume", tmp_path / "run"])
    digest, records = reference
    assert distbp("digest", tmp_path / "run", folder=tmp_path).out.strip() == digest
    assert metrics(tmp_path / "run") == records


def test_hosts_with_different_cpus_agree_on_kernels(hosts, data, tmp_path):
    """One digest, that of `portable`, whichever host has which CPU."""
    avx512 = "avx2 fma avx512f avx512bw avx512cd avx512dq avx512vl"
    wrapper = tmp_path / "on_host"
    wrapper.write_text(
        f'#!/bin/sh\nif [ "$(uname -n)" = n1 ]; then DISTBP_TEST_CPU="AuthenticAMD 25 {avx512}"\n'
        f'else DISTBP_TEST_CPU="GenuineIntel 6 {avx512}"; fi\n'
        'export DISTBP_TEST_CPU\nexec "$@"\n'
    )
    wrapper.chmod(0o755)
    words = ("train", data["digits"], "--hidden", "30", "--epochs", "1", "--out")
    printed = run(hosts, [1, 2], [*words, tmp_path / "run"], wrapper)
    assert "the CPUs differ: portable kernels on all ranks" in printed
    portable = distbp(*words, "alone", "--kernels", "portable", folder=tmp_path)
    assert f"digest {portable.digest}" in printed


def test_ranks_without_a_shard(hosts, data, tmp_path):
    """A host that has nothing to compute still receives every new θ."""
    words = ["train", data["digits"], "--batch-size", 50, "--shards", 2, "--epochs", 2, "--quiet"]
    expected = distbp(*words, "--out", tmp_path / "alone", folder=tmp_path)
    run(hosts, [2, 1, 2], [*words, "--out", tmp_path / "run"])
    digests = [distbp("digest", tmp_path / n, folder=tmp_path).out for n in ("alone", "run")]
    assert digests[0] == digests[1], expected


def test_plan_measures_the_network(hosts):
    """On several hosts --latency and --bandwidth are not needed."""
    # 5 MB take much longer to transfer than a busy machine delays the processes.
    words = ["plan", "--sizes", "784,1024,512,10", "--batch-size", 256, "--up-to", 8]
    found = []
    for _ in range(3):  # another program may delay one measurement
        text = run(hosts, [1, 1], words)
        match = re.search(r"between nodes, measured: (\d+) µs, ([\d.]+) Gbit/s", text)
        assert match is not None, text
        found.append(float(match[2]))
        if 0.2 < found[-1] < 1.3:
            return
    pytest.fail(f"measured {found} Gbit/s where there is 1")


def test_a_slow_network_does_not_change_the_digest(data, reference, tmp_path, tmp_path_factory):
    """100 Mbit/s, with a delay of 1 ms."""
    with Hosts(2, tmp_path_factory.mktemp("slow"), rate=1e8, delay=1e-3) as slow:
        run(slow, [2, 1], ["train", data["digits"], "--out", tmp_path / "run", *WORDS])
    assert distbp("digest", tmp_path / "run", folder=tmp_path).out.strip() == reference[0]


@pytest.mark.parametrize(
    ("layout", "limit"), [([1, 1], 1.15), ([2, 2], 1.15), ([1, 1, 1, 1], 1.15)]
)
def test_network_traffic_is_close_to_the_minimum(hosts, data, tmp_path, layout, limit):
    """Of M hosts each sends 2 (M − 1) / M of θ per step: the difference between two runs."""
    options = ("--batch-size", 101, "--shards", 8, "--hidden", 20000, "--quiet")
    words = ["train", data["digits"], *options]
    sent = []
    for epochs in (1, 5):
        before = [hosts.bytes_sent(name) for name in hosts.names]
        run(hosts, layout, [*words, "--epochs", epochs, "--out", tmp_path / str(epochs)])
        sent.append([hosts.bytes_sent(n) - b for n, b in zip(hosts.names, before, strict=True)])
    steps = [metrics(tmp_path / str(epochs))[-1]["step"] for epochs in (1, 5)]
    theta = (tmp_path / "1" / "last.h5").stat().st_size  # plus a few thousand bytes
    assert theta > 4e6
    count = len(layout)
    least = 2 * (count - 1) / count * theta * (steps[1] - steps[0])
    for first, last in list(zip(*sent, strict=True))[:count]:
        assert 0.9 * least < last - first < limit * least, (last - first) / least
