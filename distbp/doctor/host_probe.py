"""Finds out what a host offers this process: cores, memory, limits, `/dev/shm`."""

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from distbp.doctor.facts import CoreFacts, LimitFacts, MemoryFacts, SharedMemoryFacts
from distbp.launch.processes import lasting_unused_segments
from distbp.parallel import cgroup, host

_CPUS = Path("/sys/devices/system/cpu")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (a random name, O_EXCL)


def core_facts() -> CoreFacts:
    """Return the processor, and what of it this process may use."""
    share = host.cpu_share()
    groups: dict[str, list[int]] = {}
    for core in share.cores:
        groups.setdefault(_siblings(core), []).append(core)
    return CoreFacts(
        host.cpu_model(), share.cores, list(groups.values()), os.cpu_count() or 1, share.quota,
        share.group, os.getloadavg()[0],
    )  # fmt: skip


def _siblings(core: int) -> str:
    """Return what the hardware threads of a core have in common; the core if that is not known."""
    try:
        return (_CPUS / f"cpu{core}" / "topology" / "thread_siblings_list").read_text()
    except OSError:
        return str(core)


def memory_facts() -> MemoryFacts:
    """Return the memory of the machine, and what of it this process may have."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = machine
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) << 10
    return MemoryFacts(machine, available, host.memory_limit())


def limit_facts() -> LimitFacts:
    """Return the limits of the operating system on this process."""
    left = [cgroup.processes_left(), _user_processes_left()]
    return LimitFacts(
        _soft_limit(resource.RLIMIT_NOFILE),
        min((one for one in left if one is not None), default=None),
        _soft_limit(resource.RLIMIT_AS),
    )


def _soft_limit(kind: int) -> int | None:
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft


def _user_processes_left() -> int | None:
    """Return how many threads this user may still start; None if as many as it likes."""
    most = _soft_limit(resource.RLIMIT_NPROC)
    if most is None or os.geteuid() == 0:  # root is not limited
        return None
    return most - sum(_own_thread_counts())


def _own_thread_counts() -> Iterator[int]:
    """Yield the number of threads of each process of this user."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has exited
            if folder.stat().st_uid == os.geteuid():
                yield len(os.listdir(folder / "task"))


def shared_memory_facts() -> SharedMemoryFacts:
    """Return what is in `/dev/shm`, and how much fits in."""
    try:
        size, _, free = shutil.disk_usage(_SHARED_MEMORY)
        path = _SHARED_MEMORY / f"distbp-{os.getpid()}-doctor"
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        path.unlink()
    except OSError as error:
        return SharedMemoryFacts(0, 0, error.strerror or str(error))
    leftovers = sorted(lasting_unused_segments(0.0))
    sizes = []
    for left in leftovers:
        with suppress(OSError):  # another program has removed it meanwhile
            sizes.append(left.stat().st_size)
    return SharedMemoryFacts(size, free, "", list(map(str, leftovers)), sum(sizes))
