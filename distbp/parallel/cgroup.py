"""The limits that Linux sets to a container or batch job: control groups, version 1 and 2.

A process is in one group of each hierarchy, and the limits of the groups above it hold as well.
In a container `/proc/self/cgroup` may name the path that the host sees, and the limit is then at
the root of what is mounted. Source: the kernel's documentation, admin-guide/cgroup-v2.rst and
scheduler/sched-bwc.rst.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MOUNT = "/sys/fs/cgroup"


def memory_limits() -> list[int]:
    """Return the limits on the memory of this process, in bytes; empty if there is none."""
    limits = []
    for folder in _folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # `max` is no number
                limits.append(int((folder / name).read_text()))
    return limits


def cpu_quota() -> float | None:
    """Return how many cores' time this process's group may use; None if all of it."""
    quotas = []
    for folder in _folders("cpu"):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
            quotas.append(int(quota) / int(period))
    # Version 1 writes −1 for no limit.
    return min((quota for quota in quotas if quota > 0), default=None)


def processes_left() -> int | None:
    """Return how many processes or threads this process's group may still start; None if any."""
    left = []
    for folder in _folders("pids"):
        with suppress(OSError, ValueError):  # `max` is no number
            most = int((folder / "pids.max").read_text())
            left.append(most - int((folder / "pids.current").read_text()))
    return min(left, default=None)


def cpu_group() -> str:
    """Return what identifies this process's group among those of its machine.

    Processes of which it is equal share one quota.
    """
    namespace = "/proc/self/ns/cgroup"
    number = os.stat(namespace).st_ino if os.path.exists(namespace) else 0
    return f"{number}:{':'.join(path for _, path in _groups('cpu'))}"


def _groups(controller: str) -> Iterator[tuple[str, str]]:
    """Yield the hierarchy, '' for version 2, and the path of this process's groups."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):
                yield controllers, path


def _folders(controller: str) -> Iterator[Path]:
    """Yield the directories of this process's groups, and of those above them."""
    for controllers, path in _groups(controller):
        mount = Path(_MOUNT, controllers)
        folder = mount / path.lstrip("/")
        for one in (folder, *folder.parents):
            yield one
            if one == mount:
                break
