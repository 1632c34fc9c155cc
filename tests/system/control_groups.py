"""Control groups for programs that the tests start: limits as of a container or a batch job."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

# By controller, in version 1 and in version 2: a file, and what is written for a limit.
LIMITS = {
    "memory": (("memory.limit_in_bytes", "{}"), ("memory.max", "{}")),
    "cpu": (("cpu.cfs_quota_us", "{}"), ("cpu.max", "{} 100000")),  # µs in each 100 ms
}


@contextmanager
def control_group(controller: str, limit: int) -> Iterator[Path]:
    """Make a control group of either version with a limit; skip if that is refused."""
    parent = Path("/sys/fs/cgroup", controller)
    is_first_version = parent.is_dir()
    parent = parent if is_first_version else Path("/sys/fs/cgroup")
    name, text = LIMITS[controller][0 if is_first_version else 1]
    group = parent / f"distbp-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(text.format(limit))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield group
    finally:
        group.rmdir()


def inside(group: Path, command: list[str]) -> list[str]:
    """Return a command that runs another one in a control group."""
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command]
