"""Several hosts, each with a network, an address and a /dev/shm of its own.

Ranks are started by `mpirun` over a list of hosts. Whatever the layout, each host is a
full replica, the digest is that of one rank, and what is sent is hardly more than has
to be.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hosts import Hosts, can_make_hosts, environment
from ranks import INSIDE, ROOT, distbp, fault, is_open_mpi, metrics

BIN = Path(sys.executable).parent
LIMIT = 90  # seconds
WORDS = (
    *(
        "--batch-size",
        50,
        "--shards",
        11,
        "--epochs",
        3,
        "--hidden",
        "700,30",
        "--optimizer",
        "adam",
    ),
    *("--clip-norm", 0.5, "--dropout", 0.2, "--l2", 0.1, "--quiet"),
)
LAYOUTS = [[1, 1], [2, 2], [3, 2], [1, 3], [1, 1, 1], [2, 1, 3], [1, 1, 1, 1], [2, 3, 1, 2]]

pytestmark = pytest.mark.skipif(not can_make_hosts(), reason="needs root and namespaces")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Four hosts on cables of 1 Gbit/s."""
    with Hosts(4, tmp_path_factory.mktemp("hosts"), rate=1e9) as up:
        yield up


def run(hosts: Hosts, layout: list[int], words) -> str:
    """Run a command on ranks of several hosts, to a good end."""
    ended = start(hosts, layout, words)
    assert ended.returncode == 0, f"{ended.args}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def start(hosts: Hosts, layout: list[int], words, **more: str) -> subprocess.CompletedProcess:
    """Run a command on ranks of several hosts, with more variables; nothing of it may be left."""
    variables = environment(
        PYTHONPATH=f"{INSIDE}:{ROOT}", OPENBLAS_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", **more,
    )  # fmt: skip
    program = [*variables, sys.executable, "-m", "distbp", *words]
    command = hosts.mpirun(BIN, layout, program, survives=bool(more))
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    # An Open MPI launcher that is stuck does not end by SIGTERM.
    ended = subprocess.run(
        ["timeout", "-k", "5", str(LIMIT), *command], env=os.environ | allowed, check=False,
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert_empty(hosts)
    return ended


def assert_empty(hosts: Hosts) -> None:
    until = time.monotonic() + 5
    while left := [pid for name in hosts.names for pid in hosts.processes(name)]:
        assert time.monotonic() < until, left
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> tuple[str, list]:
    """Digest and metrics of one rank."""
    folder = tmp_path_factory.mktemp("alone")
    distbp("train", data["digits"], "--out", "run", *WORDS, folder=folder)
    digest = distbp("digest", "run", folder=folder).out.strip()
    return digest, metrics(folder / "run")


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_has_the_bits_of_one_rank(hosts, data, alone, tmp_path, layout):
    run(hosts, layout, ["train", data["digits"], "--out", tmp_path / "run", *WORDS])
    digest, records = alone
    assert distbp("digest", tmp_path / "run", folder=tmp_path).out.strip() == digest
    assert metrics(tmp_path / "run") == records


@pytest.mark.parametrize(("layout", "rank"), [([2, 2], 3), ([2, 1], 0), ([1, 1], 1)], ids=str)
def test_a_rank_dies_on_one_of_several_hosts(hosts, data, alone, tmp_path, layout, rank):
    """Those that are left go on (Open MPI), or all end and the run is resumed; the same result."""
    words = ["train", data["digits"], "--out", tmp_path / "run", *WORDS]
    ended = start(hosts, layout, words, **fault(tmp_path, rank, "update", "kill", 25))
    said = f"{ended.args}\n{ended.stdout}\n{ended.stderr}"
    assert (tmp_path / "fault").exists(), said
    if is_open_mpi():
        assert ended.returncode == 0, said
        assert ended.stderr.count(f"rank {rank} died. The run goes on after 2 epochs") == 1, said
    else:
        assert ended.returncode != 0, said
        run(hosts, [1] * len(layout), ["train", "--resume", tmp_path / "run"])
    digest, records = alone
    assert distbp("digest", tmp_path / "run", folder=tmp_path).out.strip() == digest
    assert metrics(tmp_path / "run") == records


def test_ranks_without_a_shard(hosts, data, tmp_path):
    """A host may have nothing to compute: it still gets every new θ."""
    words = ["train", data["digits"], "--batch-size", 50, "--shards", 2, "--epochs", 2, "--quiet"]
    expected = distbp(*words, "--out", tmp_path / "alone", folder=tmp_path)
    run(hosts, [2, 1, 2], [*words, "--out", tmp_path / "run"])
    digests = [distbp("digest", tmp_path / n, folder=tmp_path).out for n in ("alone", "run")]
    assert digests[0] == digests[1], expected


def test_plan_measures_the_network(hosts):
    """Several hosts know their latency and bandwidth; nobody has to say them."""
    # Of 5 MB: what they take to travel is far more than a busy machine's moments.
    words = ["plan", "--sizes", "784,1024,512,10", "--batch-size", 256, "--up-to", 8]
    found = re.search(
        r"between nodes, measured: (\d+) µs, ([\d.]+) Gbit/s", run(hosts, [1, 1], words)
    )
    assert found is not None
    assert 0.2 < float(found[2]) < 1.3


def test_slow_cables_change_nothing(data, alone, tmp_path, tmp_path_factory):
    """100 Mbit/s, 1 ms from end to end."""
    with Hosts(2, tmp_path_factory.mktemp("slow"), rate=1e8, delay=1e-3) as slow:
        run(slow, [2, 1], ["train", data["digits"], "--out", tmp_path / "run", *WORDS])
    assert distbp("digest", tmp_path / "run", folder=tmp_path).out.strip() == alone[0]


@pytest.mark.parametrize(("layout", "most"), [([1, 1], 1.15), ([2, 2], 1.15), ([1, 1, 1, 1], 1.15)])
def test_little_more_is_sent_than_has_to_be(hosts, data, tmp_path, layout, most):
    """A host has to send 2 (M − 1) / M of θ a step; the runs differ by 20 steps only."""
    words = [
        "train",
        data["digits"],
        "--batch-size",
        101,
        "--shards",
        8,
        "--hidden",
        20000,
        "--quiet",
    ]
    sent = []
    for epochs in (1, 5):
        before = [hosts.sent(name) for name in hosts.names]
        run(hosts, layout, [*words, "--epochs", epochs, "--out", tmp_path / str(epochs)])
        sent.append([hosts.sent(n) - b for n, b in zip(hosts.names, before, strict=True)])
    steps = [metrics(tmp_path / str(epochs))[-1]["step"] for epochs in (1, 5)]
    theta = (tmp_path / "1" / "last.h5").stat().st_size  # and a few thousand bytes more
    assert theta > 4e6
    count = len(layout)
    least = 2 * (count - 1) / count * theta * (steps[1] - steps[0])
    for first, last in list(zip(*sent, strict=True))[:count]:
        assert 0.9 * least < last - first < most * least, (last - first) / least
