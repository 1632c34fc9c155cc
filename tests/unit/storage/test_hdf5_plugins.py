"""Plugin paths of libhdf5: hidden while an untrusted file is open, and the host's otherwise.

libhdf5 looks for an unknown filter in all libraries in the plugin paths. Here the library is
a named pipe: to open it for writing succeeds only while somebody has it open for reading.
"""

import errno
import os
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from h5py import h5pl

from distbp.storage import hdf5_checks

READ_PLAINLY = """
import sys, h5py
with h5py.File(sys.argv[1]) as file:
    try:
        file["x"][...]
    except OSError as error:
        print(error)
"""
READ_IN_SCOPE = """
import sys, h5py
from distbp.storage.hdf5_checks import open_untrusted
with open(sys.argv[1], "rb") as raw, open_untrusted(raw) as file:
    try:
        file["x"][...]
    except OSError as error:
        print(error)
"""
IMPORT_DATA = """
import sys
from distbp.data.importing import import_data
from distbp.data.tables import ImportOptions
from distbp.errors import DataError
try:
    import_data(sys.argv[1], sys.argv[1] + ".out.h5", ImportOptions(x="x", y="x"))
except DataError as error:
    print(error)
"""
PATHS_BEFORE_AND_AFTER = """
import importlib, pkgutil, h5py
from h5py import h5pl
def paths():
    return [h5pl.get(i) for i in range(h5pl.size())]
before = paths()
import distbp
for module in pkgutil.walk_packages(distbp.__path__, "distbp."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(before[:3] == [b"/a", b"/b", b"/c"], paths() == before)
"""


@pytest.fixture
def file_with_filter(tmp_path):
    """Return a file with an unknown filter, and make the pipe that stands for a plugin."""
    (tmp_path / "plugins").mkdir()
    os.mkfifo(tmp_path / "plugins" / "libfilter.so")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        made = file.create_dataset(
            "x", (8,), "u1", chunks=(8,), compression=32099, allow_unknown_filter=True
        )
        made.id.write_direct_chunk((0,), bytes(8))
    return tmp_path / "x.h5"


def is_plugin_loaded(code, path):
    """Run code on a file; return whether it opens the plugin, and what it prints."""
    plugins = path.parent / "plugins"
    child = subprocess.Popen(
        [sys.executable, "-c", code, path], env=os.environ | {"HDF5_PLUGIN_PATH": str(plugins)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    is_loaded = False
    while child.poll() is None:
        try:
            os.close(os.open(plugins / "libfilter.so", os.O_WRONLY | os.O_NONBLOCK))
            is_loaded = True
        except OSError as error:
            if error.errno != errno.ENXIO:  # it is not open for reading
                raise
        time.sleep(0.001)
    out, err = child.communicate()
    assert (child.returncode, err) == (0, "")
    return is_loaded, out


@pytest.mark.parametrize(
    ("code", "is_loaded", "message"),
    [
        (READ_PLAINLY, True, "dlopen"),
        (READ_IN_SCOPE, False, "can't find plugin"),
        (IMPORT_DATA, False, "uses the filter number 32099"),
    ],
)
def test_no_plugin_is_loaded_for_an_untrusted_file(file_with_filter, code, is_loaded, message):
    """An unknown filter is refused; a program that reads the file plainly does look for one."""
    found, text = is_plugin_loaded(code, file_with_filter)
    assert found == is_loaded
    assert message in text


def test_importing_distbp_leaves_the_plugin_paths():
    """All of its modules, with paths from the environment."""
    run = subprocess.run(
        [sys.executable, "-c", PATHS_BEFORE_AND_AFTER],
        env=os.environ | {"HDF5_PLUGIN_PATH": "/a:/b:/c"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.split() == ["True", "True"]


def plugin_paths():
    return [h5pl.get(position) for position in range(h5pl.size())]


@pytest.fixture
def host_paths():
    """Return the plugin paths, with one that the host program has added."""
    h5pl.append(b"/of/the/host")
    yield plugin_paths()
    h5pl.remove(plugin_paths().index(b"/of/the/host"))


def test_paths_are_restored_after_an_untrusted_file(tmp_path, host_paths):
    """In their order, also when the file is refused."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.zeros(3)
    with (tmp_path / "x.h5").open("rb") as raw, hdf5_checks.open_untrusted(raw):
        assert plugin_paths() == []
    assert plugin_paths() == host_paths
    (tmp_path / "x.h5").write_bytes(b"no HDF5")
    with (
        (tmp_path / "x.h5").open("rb") as raw, pytest.raises(OSError, match="signature"),
        hdf5_checks.open_untrusted(raw),
    ):  # fmt: skip
        pass
    assert plugin_paths() == host_paths


def test_overlapping_scopes(host_paths):
    """Two threads may leave in any order: the last one restores the paths."""
    first, second = hdf5_checks.without_plugins(), hdf5_checks.without_plugins()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert plugin_paths() == []
    second.__exit__(None, None, None)
    assert plugin_paths() == host_paths


def test_paths_added_inside_a_scope_are_kept(host_paths):
    """By another thread of the host, which knows nothing of the scope."""
    with hdf5_checks.without_plugins():
        h5pl.append(b"/added")
    assert plugin_paths() == [*host_paths, b"/added"]
    h5pl.remove(h5pl.size() - 1)
