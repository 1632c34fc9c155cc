"""Limits of control groups, of both versions, read from files like the kernel's."""

from pathlib import Path

import pytest

from distbp.parallel import cgroup


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Return a function that replaces /proc/self/cgroup and the files below /sys/fs/cgroup."""

    def write(table, files):
        (tmp_path / "table").write_text(table)
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        places = {"/proc/self/cgroup": tmp_path / "table", "/sys/fs/cgroup": tmp_path}
        monkeypatch.setattr(cgroup, "Path", lambda path, *more: Path(places[path], *more))

    return write


@pytest.mark.parametrize(
    ("table", "files", "limits"),
    [
        ("", {}, []),
        ("0::/a/b\n", {"a/memory.max": "5000\n", "a/b/memory.max": "max\n"}, [5000]),
        ("0::/../other\n", {"memory.max": "6000\n"}, [6000]),  # in a container
        (
            "4:memory:/a\n3:cpu:/\n0::/\n",
            {"memory/memory.limit_in_bytes": f"{1 << 62}", "memory/a/memory.limit_in_bytes": "7"},
            [7, 1 << 62],
        ),
    ],
    ids=["none", "v2", "container", "v1"],
)
def test_memory_limits(kernel, table, files, limits):
    """Of the groups that a process is in, and of those above them."""
    kernel(table, files)
    assert cgroup.memory_limits() == limits


@pytest.mark.parametrize(
    ("table", "files", "quota"),
    [
        ("", {}, None),
        ("0::/a/b\n", {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1.5),
        ("0::/../other\n", {"cpu.max": "200000 100000\n"}, 2.0),
        (
            "4:cpu,cpuacct:/a\n3:memory:/\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                "cpu,cpuacct/a/cpu.cfs_quota_us": "300000\n",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
    ],
    ids=["none", "v2", "container", "v1", "damaged"],
)
def test_cpu_quota(kernel, table, files, quota):
    """The least of a group's own and those above it, in cores."""
    kernel(table, files)
    assert cgroup.cpu_quota() == quota


@pytest.mark.parametrize(
    ("table", "files", "left"),
    [
        ("", {}, None),
        ("0::/a\n", {"a/pids.max": "max\n", "a/pids.current": "5\n"}, None),
        ("0::/a/b\n", {"a/pids.max": "50", "a/pids.current": "45", "a/b/pids.max": "max"}, 5),
        ("7:pids:/a\n", {"pids/a/pids.max": "30\n", "pids/a/pids.current": "10\n"}, 20),
    ],
    ids=["none", "max", "v2", "v1"],
)
def test_processes_left(kernel, table, files, left):
    """Before a limit of the group, or of one above it, is reached."""
    kernel(table, files)
    assert cgroup.processes_left() == left


def test_the_group_is_known():
    """Two calls in one process name the same one."""
    assert cgroup.cpu_group() == cgroup.cpu_group()
    assert ":" in cgroup.cpu_group()
