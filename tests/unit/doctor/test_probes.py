"""What probes find: on this machine, and where it is broken by a fake."""

import errno
import fcntl
import os
import resource
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import h5py
import pytest

from distbp.doctor import host_probe, software_probe, storage_probe
from distbp.doctor.facts import LimitFacts, MpiFacts
from distbp.doctor.software_checks import check_libraries
from distbp.errors import LaunchError
from distbp.parallel import mpi

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


# Software


def test_every_requirement_is_understood():
    """Those of pyproject.toml, whether distbp is installed or only on the path."""
    found = {(one.name, one.extra): one for one in software_probe.software_facts().requirements}
    project = tomllib.loads(PROJECT.read_text())["project"]
    texts = [(text, "") for text in project["dependencies"]]
    texts += [(t, name) for name, of in project["optional-dependencies"].items() for t in of]
    for text, extra in texts:
        name, _, least = text.partition(">=")
        assert found[name, extra].least == least
    assert found["numpy", ""].installed == metadata.version("numpy")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h5py>=3.11", ("h5py", "3.11", "")),
        ('onnx >=1.16 ; extra == "onnx"', ("onnx", "1.16", "onnx")),
        ("scikit-learn<3,>=1.6; extra == 'sklearn'", ("scikit-learn", "1.6", "sklearn")),
        ('tool[cli]>=2; python_version < "3.12" and extra == "x"', ("tool", "2", "x")),
        ("rich", ("rich", "", "")),
    ],
)
def test_a_requirement_is_parsed(text, expected):
    found = software_probe._installed(text)
    assert (found.name, found.least, found.extra) == expected


def test_a_missing_library_is_a_problem(monkeypatch):
    """As if it were not installed."""
    version = metadata.version

    def find(name):
        if name == "h5py":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(software_probe.metadata, "version", find)
    finding = check_libraries(software_probe.software_facts())
    assert (finding.verdict, finding.found) == ("problem", "h5py is missing")
    assert finding.remedy == "pip install --upgrade 'h5py>=3.11'"


def test_no_compiler(monkeypatch):
    """A Numba that is missing is no error; one that cannot be imported, or compile, is."""
    monkeypatch.setitem(sys.modules, "numba", None)
    found = software_probe.compiler_facts()
    assert found.numba == ""

    class Broken:
        __version__ = "0.62"

        def njit(self, function):
            raise RuntimeError("no LLVM")

    monkeypatch.setitem(sys.modules, "numba", Broken())
    assert software_probe.compiler_facts().error == "RuntimeError: no LLVM"


def test_no_mpi_library(monkeypatch):
    monkeypatch.setattr(mpi, "library_version", lambda: "")
    monkeypatch.setattr(mpi, "load_error", lambda: "cannot load MPI library")
    assert software_probe.mpi_facts() == MpiFacts("", "cannot load MPI library")


def test_no_launcher(monkeypatch, tmp_path):
    """And one of another MPI is on the PATH."""

    def fail(ranks):
        raise LaunchError("There is none. Add it.")

    other = tmp_path / "mpirun"
    other.write_text("#!/bin/sh\necho Another 1.0\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(mpi, "library_version", lambda: "Open MPI 5.0.11")
    monkeypatch.setattr(software_probe, "make_launcher", fail)
    found = software_probe.mpi_facts()
    assert (found.error, found.launcher) == ("There is none. Add it.", "")
    assert found.foreign_launchers == [str(other)]


# The host


def test_this_host():
    """What is measured is possible."""
    cores, memory = host_probe.core_facts(), host_probe.memory_facts()
    assert sorted(core for group in cores.siblings for core in group) == cores.cores
    assert 0 < memory.available <= memory.machine
    assert memory.limit <= memory.machine
    assert host_probe.limit_facts().files > 0


def test_hardware_threads_are_found(monkeypatch, tmp_path):
    for core, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    monkeypatch.setattr(host_probe, "_CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 7})
    assert host_probe.core_facts().siblings == [[0, 2], [1], [7]]


def test_limits(monkeypatch):
    """Of a user with a limit on processes, in a group with another one."""
    limits = {
        resource.RLIMIT_NOFILE: 64, resource.RLIMIT_AS: resource.RLIM_INFINITY,
        resource.RLIMIT_NPROC: 10**6,
    }  # fmt: skip
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits[kind], -1))
    monkeypatch.setattr(os, "geteuid", os.getuid if os.getuid() else lambda: 10**5)
    monkeypatch.setattr(host_probe.cgroup, "processes_left", lambda: None)
    found = host_probe.limit_facts()
    assert (found.files, found.address_space) == (64, None)
    assert 0 < found.processes_left <= 10**6
    monkeypatch.setattr(host_probe.cgroup, "processes_left", lambda: 7)
    assert host_probe.limit_facts() == LimitFacts(64, 7, None)


def test_shared_memory(monkeypatch, tmp_path):
    """With what a dead rank has left there, and without the folder."""
    left = tmp_path / "mpich_shm_1"
    left.write_bytes(bytes(1000))
    monkeypatch.setattr(host_probe, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(host_probe, "lasting_unused_segments", lambda since: {left})
    found = host_probe.shared_memory_facts()
    assert (found.leftovers, found.leftover_bytes, found.error) == ([str(left)], 1000, "")
    assert found.size >= found.free > 0
    monkeypatch.setattr(host_probe, "_SHARED_MEMORY", tmp_path / "nowhere")
    assert host_probe.shared_memory_facts().error == "No such file or directory"


# Folders


def tried(folder):
    (found,) = storage_probe.storage_facts([str(folder)]).folders
    return found


def test_a_good_folder(tmp_path):
    """Nothing is left in it; one that does not exist yet counts as the one it would be in."""
    found = tried(tmp_path / "run" / "deep")
    assert found.tried == str(tmp_path)
    errors = (found.error, found.locks, found.atomic_error, found.hdf5_error)
    assert errors == ("", "", "", "")
    assert found.filesystem
    assert found.hdf5 == h5py.version.hdf5_version
    assert found.free > 0
    assert abs(found.clock_offset_s) < 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written():
    found = tried("/proc")
    assert found.filesystem == "proc"
    assert found.error


def test_a_file_system_without_locks(monkeypatch, tmp_path):
    """Or with locks that do not exclude anybody."""

    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert tried(tmp_path).locks == "flock: No locks available"
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, operation: None)
    assert tried(tmp_path).locks == "two processes get the same lock"


def test_a_file_system_that_cannot_replace(monkeypatch, tmp_path):
    def refuse(self, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "replace", refuse)
    assert tried(tmp_path).atomic_error == "Operation not permitted"


def test_hdf5_that_fails(monkeypatch, tmp_path):
    def refuse(*arguments):
        raise BlockingIOError("Unable to synchronously create file (unable to lock file)")

    monkeypatch.setattr(h5py, "File", refuse)
    assert "unable to lock file" in tried(tmp_path).hdf5_error


def test_the_file_system_is_that_of_the_mount(monkeypatch, tmp_path):
    """The innermost one, of two at the same place the later; names may contain spaces."""
    lines = [
        "1 0 8:1 / / rw - ext4 /dev/sda rw", r"2 1 0:9 / /a\040b rw - nfs4 server:/a rw",
        r"3 1 0:9 / /a\040b rw master:1 - lustre x rw", "4 1 0:9 / /a rw - xfs x rw",
    ]  # fmt: skip
    table = tmp_path / "mountinfo"
    table.write_text("\n".join(lines))
    monkeypatch.setattr(
        storage_probe, "Path", lambda path: table if path == "/proc/self/mountinfo" else Path(path)
    )
    kinds = [storage_probe._filesystem(Path(one)) for one in ("/a b/c", "/a/x", "/ab", "/")]
    assert kinds == ["lustre", "xfs", "ext4", "ext4"]
