"""Measures what ranks compute, and how fast they reach each other.

The BLAS kernels are chosen before this is imported: see `probe`.
"""

import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from distbp import kernels
from distbp.doctor.facts import BlasFacts, SpeedFacts, WorldFacts
from distbp.errors import ConfigError
from distbp.kernels import Cpu
from distbp.launch.measuring import collective_seconds, measure_network, median_seconds
from distbp.network.network import Network
from distbp.network.optimizers import OPTIMIZERS
from distbp.network.update import Update
from distbp.parallel import host
from distbp.parallel.reduction_factory import make_reduction
from distbp.parallel.topology import Topology

_MATRIX = 512  # rows and columns: large enough for full speed, small enough for the caches
_STREAM_BYTES = 64 << 20  # of an array, of which two do not fit into a cache
_LARGE_THETA = (1000, 1000)  # layers: a million parameters
_CLOCK_ROUNDS = 5
_THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "GOTO_NUM_THREADS",
)  # fmt: skip


def blas_facts() -> BlasFacts:
    """Return which BLAS computes, with which kernels and how many threads."""
    error = ""
    try:
        host.set_blas_threads(1)
    except ConfigError as failure:
        error = str(failure)
    variable = kernels.CORETYPE_VARIABLE
    forced = f"{variable}={os.environ[variable]}" if kernels.is_set_by_user(os.environ) else ""
    asked = {name: os.environ.get(name, "1") for name in _THREAD_VARIABLES}
    about = host.numeric_platform()
    return BlasFacts(
        about["blas"],
        host.loaded_kernels(),
        kernels.native_kernels(Cpu.detect(os.environ)),
        about["simd"],
        forced,
        {name: value for name, value in asked.items() if value != "1"},
        error,
    )


def speed_facts() -> SpeedFacts:
    """Return how fast one BLAS thread multiplies matrices, and memory is read and written."""
    one, other = (np.ones(_STREAM_BYTES // 4, np.float32) for _ in range(2))
    seconds = median_seconds(partial(np.add, one, other, out=one))
    return SpeedFacts(_gflops("float32"), _gflops("float64"), 3 * _STREAM_BYTES / seconds / 1e9)


def _gflops(dtype: str) -> float:
    a, b, c = (np.ones((_MATRIX, _MATRIX), dtype) for _ in range(3))
    return 2 * _MATRIX**3 / median_seconds(partial(np.matmul, a, b, out=c)) / 1e9


def world_facts(comm: Topology, start_s: float, folders: Sequence[str]) -> WorldFacts:
    """Return what the ranks measure together; collective.

    Parameters
    ----------
    comm : Topology
    start_s : float
        Seconds until the ranks were connected.
    folders : sequence of str
        Of which all hosts have to see the same content.
    """
    small, large = Network((1, 1), dtype="float32"), Network(_LARGE_THETA, dtype="float32")
    latency, warning = _reduction_seconds(comm, small)
    seconds, _ = _reduction_seconds(comm, large)
    sums = [np.zeros(size, np.float32) for size in (1, large.theta.size)]
    allreduce = [collective_seconds(partial(comm.world.allreduce, one), comm.world) for one in sums]
    network, gbit = _network(comm)
    bytes_ = large.theta.nbytes
    return WorldFacts(
        comm.size, comm.nodes, start_s, warning or "",
        barrier_us=collective_seconds(comm.node_barrier(), comm.world) * 1e6,
        latency_us=latency * 1e6,
        bandwidth=bytes_ / seconds / 1e9,
        allreduce_latency_us=allreduce[0] * 1e6,
        allreduce_bandwidth=bytes_ / allreduce[1] / 1e9,
        network_latency_us=network * 1e6,
        network_gbit=gbit,
        clock_offsets_s=_clock_offsets(comm),
        not_shared=_not_shared(comm, folders),
    )  # fmt: skip


def _reduction_seconds(comm: Topology, network: Network) -> tuple[float, str | None]:
    """Return the seconds of distbp's reduction with the update, and a warning about it."""
    update = Update(network, OPTIMIZERS["sgd"]())
    reduction, warning = make_reduction("node", comm, comm.size, update)
    return collective_seconds(partial(reduction.reduce_and_update, 1, 0.0), comm.world), warning


def _network(comm: Topology) -> tuple[float, float]:
    """Return latency in seconds and Gbit/s between nodes; 0 on a single one."""
    found = [0.0, 0.0]
    if comm.nodes > 1 and comm.cross_node is not None and comm.node_rank == 0:
        size = _LARGE_THETA[0] * _LARGE_THETA[1]
        latency, bandwidth = measure_network(comm.cross_node, size, "float32")
        found = [latency, bandwidth * 8e-9]
    latency, gbit = comm.world.broadcast(found)
    return latency, gbit


def _clock_offsets(comm: Topology) -> list[float]:
    """Return by how many seconds the clock of each rank is ahead of that of rank 0, at least."""
    rounds = []
    for _ in range(_CLOCK_ROUNDS):
        comm.world.barrier()
        times = np.array(comm.world.allgather(time.time()))
        rounds.append(times - times[0])
    best = np.argmin(np.abs(rounds), axis=0)
    return [float(rounds[index][rank]) for rank, index in enumerate(best)]


def _not_shared(comm: Topology, folders: Sequence[str]) -> dict[str, list[str]]:
    """Return by folder the hosts that do not see a file that rank 0 writes there."""
    found: dict[str, list[str]] = {}
    if comm.nodes == 1:
        return found
    for folder in folders:
        path = Path(folder) / f".distbp-doctor-{comm.world.broadcast(os.getpid())}"
        if comm.rank == 0:
            with suppress(OSError):
                path.touch()
        comm.world.barrier()
        # Not `path.exists`, which raises errors such as that of a stale mount.
        hosts = comm.world.allgather("" if os.path.exists(path) else platform.node())
        comm.world.barrier()
        if comm.rank == 0:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        # If rank 0 does not see it either, no file can be written: another check says so.
        if any(hosts) and not hosts[0]:
            found[folder] = list(dict.fromkeys(filter(None, hosts)))
    return found
