"""Judges a host: cores, memory, limits, shared memory; from facts to findings."""

import shlex
from collections.abc import Sequence

from distbp.doctor.facts import CoreFacts, LimitFacts, MemoryFacts, SharedMemoryFacts
from distbp.doctor.finding import Finding, problem, warning
from distbp.parallel.host import CpuShare, count_cores
from distbp.training.messages import count

_RANK_MEMORY = 512 << 20  # bytes: Python, its libraries, and a small model
_MIN_FILES = 256  # of a rank, with its data, checkpoints and connections
_THREADS_PER_RANK = 8  # of BLAS, MPI and Python
_MIN_ADDRESS_SPACE = 4 << 30  # libraries map more than they use
_CONTAINER_SHARED_MEMORY = 64 << 20  # what Docker gives
_MIN_SHARED_MEMORY = 8 << 20  # bytes: what MPI itself takes
_BUSY = 0.5  # of the cores: from this load on, others disturb


def check_cores(ranks: Sequence[CoreFacts]) -> Finding:
    """Judge whether each rank of a host has a core of its own; of one, which there are.

    Parameters
    ----------
    ranks : sequence of CoreFacts
        Those of all ranks of the host.
    """
    first, ids = ranks[0], {core for one in ranks for core in one.cores}
    # Without the quota, of which the next line speaks.
    cores = count_cores([CpuShare(one.cores) for one in ranks])
    threads = {tuple(group) for one in ranks for group in one.siblings}
    physical = len(threads) if len(ranks) == 1 else len(_merged(threads))
    found = f"{first.cpu}: {count(cores, 'core')} of {first.machine}"
    if physical < len(ids):
        found += f", hardware threads of {physical}"
    if len(ranks) > 1:
        found = f"{count(len(ranks), 'rank')}; {found}"
    if len(ranks) > cores:
        return warning(
            "cores", f"{found}: ranks share cores",
            "Start fewer ranks, or let the launcher bind them to different cores.",
        )  # fmt: skip
    if len(ranks) > physical:
        return warning(
            "cores", f"{found}: two ranks share a core's units",
            f"Start {physical} ranks on this host: hardware threads add little to BLAS.",
        )  # fmt: skip
    return Finding("cores", found)


def _merged(groups: set[tuple[int, ...]]) -> list[set[int]]:
    """Return sets of hardware threads of a core, of which a rank may see a part only."""
    merged: list[set[int]] = []
    for group in sorted(groups):
        known = next((one for one in merged if one & set(group)), None)
        if known is None:
            merged.append(set(group))
        else:
            known |= set(group)
    return merged


def check_quota(ranks: Sequence[CoreFacts]) -> Finding:
    """Judge the CPU time that the container or batch job of a host's ranks gets."""
    shares = [CpuShare(one.cores, one.quota, one.group) for one in ranks]
    limited = count_cores(shares)
    allowed = count_cores([share._replace(quota=None) for share in shares])
    quotas = [one.quota for one in ranks if one.quota is not None]
    if not quotas:
        return Finding("cpu quota", "none")
    time = f"{min(quotas):g} core{'s' * (min(quotas) != 1)}"
    found = f"the time of {time}, of {allowed} that can be used"
    if len(ranks) > limited or (len(ranks) == 1 and limited < allowed) or min(quotas) < 1:
        return warning(
            "cpu quota", f"{found}: with more ranks than that, all are paused again and again",
            f"Use at most {count(limited, 'rank')} here, or raise the quota of the "
            "container or job (docker --cpus).",
        )  # fmt: skip
    return Finding("cpu quota", found)


def check_load(facts: CoreFacts) -> Finding:
    """Judge whether other programs use the cores, before anything was measured."""
    found = f"{facts.load:.1f} processes on {count(facts.machine, 'core')} in the last minute"
    if facts.load > _BUSY * facts.machine:
        return warning("load", found, "End other programs: the slowest rank sets the pace of all.")
    return Finding("load", found)


def check_memory(facts: MemoryFacts, ranks: int) -> Finding:
    """Judge whether there is memory for some ranks."""
    available = min(facts.available, facts.limit)
    found = f"{size(available)} available of {size(facts.machine)}"
    if facts.limit < facts.machine:
        found += f", limited to {size(facts.limit)} by a container or job"
    if available < ranks * _RANK_MEMORY:
        return warning(
            "memory", f"{found}, for {count(ranks, 'rank')}",
            "Start fewer ranks, end other programs, or ask for more memory.",
        )  # fmt: skip
    return Finding("memory", found)


def check_limits(facts: LimitFacts, ranks: int) -> Finding:
    """Judge the limits on files, processes and addresses for some ranks."""
    values = {
        "open files": facts.files, "more processes": facts.processes_left,
        "bytes of addresses": facts.address_space,
    }  # fmt: skip
    found = ", ".join(f"{value:,} {name}" for name, value in values.items() if value is not None)
    if facts.files is not None and facts.files < _MIN_FILES:
        return warning("limits", found, f"ulimit -n {4 * _MIN_FILES}")
    needed = ranks * _THREADS_PER_RANK
    if facts.processes_left is not None and facts.processes_left < needed:
        return warning(
            "limits", f"{found}, of which {count(ranks, 'rank')} may need {needed}",
            "Raise ulimit -u, or the limit of the container (docker --pids-limit).",
        )  # fmt: skip
    if facts.address_space is not None and facts.address_space < _MIN_ADDRESS_SPACE:
        return warning("limits", found, "ulimit -v unlimited")
    return Finding("limits", found or "none")


def check_shared_memory(facts: SharedMemoryFacts) -> Finding:
    """Judge `/dev/shm`, where ranks of a host share θ, and MPI its messages."""
    name = "/dev/shm"  # noqa: S108 (a name in the table)
    remedy = "Enlarge it: docker --shm-size=1g, or mount -o remount,size=1g /dev/shm."
    if facts.error:
        return problem(name, f"cannot be used: {facts.error}", remedy)
    found = f"{size(facts.free)} free of {size(facts.size)}"
    if facts.free < _MIN_SHARED_MEMORY:
        return problem(name, f"{found}: MPI may be killed by SIGBUS", remedy)
    if facts.free <= _CONTAINER_SHARED_MEMORY:
        return warning(name, f"{found}: too little for a large network", remedy)
    return Finding(name, found)


def check_leftovers(facts: SharedMemoryFacts) -> Finding:
    """Judge what dead ranks have left in `/dev/shm`."""
    n = len(facts.leftovers)
    if not n:
        return Finding("leftover segments", "none")
    return warning(
        "leftover segments", f"{n} in /dev/shm that no process uses, {size(facts.leftover_bytes)}",
        f"rm {shlex.join(facts.leftovers[:5])}{' …' * (n > 5)}",
    )  # fmt: skip


def size(number: float) -> str:
    """Return a number of bytes as text, such as 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
