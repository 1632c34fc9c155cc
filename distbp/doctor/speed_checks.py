"""Judges BLAS and what was measured; from facts to findings."""

from collections.abc import Sequence

from distbp.doctor.facts import BlasFacts, SpeedFacts, WorldFacts
from distbp.doctor.finding import Finding, problem, warning
from distbp.training.messages import count

_FAST_LIBRARIES = ("openblas", "mkl", "blis", "armpl", "accelerate")
_SLOW_GFLOPS = 10.0  # in float32: every server CPU since 2013 has more
_SLOW_MEMORY = 1.0  # GB/s of a rank
_UNEVEN = 0.7  # of the fastest rank
_SLOW_REDUCTION_US = 500.0
_SLOW_REDUCTION = 0.1  # GB/s
_SLOW_NETWORK_US, _SLOW_NETWORK_GBIT = 200.0, 1.0
_BUSY_REMEDY = "End other programs, bind ranks to cores, or see the CPU quota."


def check_blas(facts: BlasFacts) -> Finding:
    """Judge which library multiplies matrices."""
    if not any(name in facts.name.lower() for name in _FAST_LIBRARIES):
        return warning(
            "blas", f"{facts.name}, perhaps the reference implementation: many times slower",
            "Use NumPy from PyPI, which has OpenBLAS: pip install --force-reinstall numpy.",
        )  # fmt: skip
    return Finding("blas", facts.name)


def check_kernels(facts: BlasFacts) -> Finding:
    """Judge which machine code BLAS uses."""
    if not facts.kernels or not facts.native:
        found = f"chosen by {facts.name}" if not facts.kernels else facts.kernels
        return Finding("kernels", f"{found}; NumPy {facts.simd}")
    found = f"{facts.kernels}; NumPy {facts.simd}"
    if facts.kernels.lower() == facts.native.lower():
        return Finding("kernels", found)
    why, remedy = "", "Use NumPy from PyPI, or --kernels native."
    if facts.forced:
        why, remedy = f" because of {facts.forced}", f"unset {facts.forced.partition('=')[0]}"
    return warning("kernels", f"{found}{why}: {facts.native} is faster on this CPU", remedy)


def check_threads(facts: BlasFacts, ranks: int) -> Finding:
    """Judge how many threads BLAS uses on each of a host's ranks."""
    if facts.threads_error:
        return problem(
            "blas threads", facts.threads_error, "Set OPENBLAS_NUM_THREADS=1 and OMP_NUM_THREADS=1."
        )
    if facts.thread_variables:
        texts = " and ".join(f"{name}={value}" for name, value in facts.thread_variables.items())
        return warning(
            "blas threads",
            f"{texts}: NumPy starts these threads on each of {count(ranks, 'rank')}, though "
            "distbp computes with --threads",
            f"unset {' '.join(facts.thread_variables)}; use --threads.",
        )
    return Finding("blas threads", "1 a rank")


def check_matrix_products(ranks: Sequence[tuple[str, SpeedFacts]]) -> Finding:
    """Judge the matrix products of all ranks, each with a name that says where it runs."""
    slowest = min(ranks, key=lambda one: one[1].float32)
    fastest = max(one.float32 for _, one in ranks)
    doubles = [one.float64 for _, one in ranks]
    found = (
        f"float32 {_span([one.float32 for _, one in ranks])}, float64 {_span(doubles)} GFLOP/s a "
        "core"
    )
    if slowest[1].float32 < _UNEVEN * fastest:
        return warning(
            "matrix products", f"{found}: {slowest[0]} is the slowest, and sets the pace of all",
            _BUSY_REMEDY,
        )  # fmt: skip
    if slowest[1].float32 < _SLOW_GFLOPS:
        remedy = f"Use NumPy from PyPI, if it has another BLAS. {_BUSY_REMEDY}"
        return warning("matrix products", f"{found}: slow for any server CPU", remedy)
    return Finding("matrix products", found)


def check_memory_bandwidth(ranks: Sequence[tuple[str, SpeedFacts]]) -> Finding:
    """Judge how fast all ranks read and write memory at the same time."""
    slowest = min(ranks, key=lambda one: one[1].memory)
    found = f"{_span([one.memory for _, one in ranks])} GB/s a rank"
    if slowest[1].memory < _SLOW_MEMORY:
        return warning("memory bandwidth", f"{found}, the least on {slowest[0]}", _BUSY_REMEDY)
    return Finding("memory bandwidth", found)


def check_reduction(facts: WorldFacts) -> Finding:
    """Judge how fast ranks add up their gradients."""
    found = (
        f"{count(facts.ranks, 'rank')}: {facts.latency_us:.0f} µs and {facts.bandwidth:.2g} GB/s "
        f"(MPI's Allreduce {facts.allreduce_latency_us:.0f} µs, "
        f"{facts.allreduce_bandwidth:.2g} GB/s), {facts.barrier_us:.1f} µs a barrier"
    )
    if facts.warning:
        return warning(
            "reduction", f"{found}; {facts.warning.rstrip('.')}",
            "Enlarge /dev/shm, and start all ranks of a host in one container.",
        )  # fmt: skip
    is_slow = facts.latency_us > _SLOW_REDUCTION_US * facts.nodes
    if is_slow or facts.bandwidth < _SLOW_REDUCTION:
        return warning("reduction", f"{found}: ranks wait for cores, or the network", _BUSY_REMEDY)
    return Finding("reduction", found)


def check_network(facts: WorldFacts) -> Finding:
    """Judge the network between the hosts."""
    found = f"{facts.network_latency_us:.0f} µs, {facts.network_gbit:.2g} Gbit/s between hosts"
    is_slow = facts.network_latency_us > _SLOW_NETWORK_US
    if is_slow or facts.network_gbit < _SLOW_NETWORK_GBIT:
        return warning(
            "network", found,
            "Have MPI use the fast network (UCX_NET_DEVICES, or btl_tcp_if_include for Open MPI); "
            "distbp plan says whether more hosts pay.",
        )  # fmt: skip
    return Finding("network", found)


def _span(values: Sequence[float]) -> str:
    """Return the least and the largest of some values, or the only one."""
    least, most = f"{min(values):.3g}", f"{max(values):.3g}"
    return least if least == most else f"{least} to {most}"
