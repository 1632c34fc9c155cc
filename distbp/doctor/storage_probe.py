"""Tries a folder as runs use it: locks, replaced files, HDF5, and what file system it is.

Everything is tried in a temporary folder inside, which is removed. A file system that does not
respond makes a function here wait forever: hence the processes of `probing`.
"""

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distbp.doctor.facts import FolderFacts, StorageFacts
from distbp.errors import CheckpointError
from distbp.storage.atomic import atomic_write, failure_reason
from distbp.storage.hdf5_checks import HDF5_READ_ERRORS

_CONTENT = b"distbp" * 1000


def storage_facts(folders: Sequence[str]) -> StorageFacts:
    """Return what each of some folders is like; one that is missing counts as its parent."""
    return StorageFacts([_folder_facts(folder) for folder in folders])


def _folder_facts(folder: str) -> FolderFacts:
    tried = Path(folder).absolute()
    while not os.path.exists(tried):
        tried = tried.parent
    facts = FolderFacts(folder, str(tried), _filesystem(tried))
    try:
        about = os.statvfs(tried)
        facts = replace(
            facts,
            free=about.f_bavail * about.f_frsize,
            free_files=about.f_favail if about.f_files else -1,
        )
        with tempfile.TemporaryDirectory(prefix=".distbp-doctor-", dir=tried) as inside:
            return _try_files(facts, Path(inside))
    except OSError as error:
        return replace(facts, error=error.strerror or str(error))


def _filesystem(folder: Path) -> str:
    """Return the type of the file system that a folder is on; '' if it is not known."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    best, kind, real = -1, "", str(folder.resolve())
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), before.split()[4])
        is_inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if is_inside and len(mount) >= best:  # of mounts on the same folder, the last one
            best, kind = len(mount), after.split()[0]
    return kind


def _try_files(facts: FolderFacts, inside: Path) -> FolderFacts:
    """Return the facts with what has worked in an empty folder."""
    path = inside / "file"
    path.write_bytes(_CONTENT)  # an error here means that nothing can be written
    offset = path.stat().st_mtime - time.time()
    began = time.perf_counter()
    atomic_error = _try_replacing(path)
    fsync_s = time.perf_counter() - began
    version, hdf5_error = _try_hdf5(inside / "file.h5")
    return replace(
        facts, locks=_try_locks(inside / "lock"), atomic_error=atomic_error, fsync_s=fsync_s,
        clock_offset_s=offset, hdf5=version, hdf5_error=hdf5_error,
    )  # fmt: skip


def _try_locks(path: Path) -> str:
    """Return '' if the lock of a run keeps others out, otherwise what happens."""
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for _ in range(2))
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
        return "two processes get the same lock"
    except OSError as error:
        return f"flock: {error.strerror}"
    finally:
        os.close(first)
        os.close(second)


def _try_replacing(path: Path) -> str:
    """Return '' if a file can be replaced while it is open, and is then the new one."""
    try:
        with path.open("rb") as old:
            with atomic_write(path, CheckpointError) as temporary:
                temporary.write_bytes(_CONTENT[::-1])
            if old.read() != _CONTENT:
                return "a file changes under whoever reads it"
        return "" if path.read_bytes() == _CONTENT[::-1] else "a new file is not there"
    except OSError as error:
        return error.strerror or str(error)
    except CheckpointError as error:
        return failure_reason(error).rpartition(": ")[2]


def _try_hdf5(path: Path) -> tuple[str, str]:
    """Return the version of HDF5, and why it cannot write and read a file here."""
    import h5py
    import numpy as np

    version = str(h5py.version.hdf5_version)
    try:
        with h5py.File(path, "w") as file:
            file["x"] = np.arange(10)
        with h5py.File(path, "r") as file:
            is_equal = bool(np.array_equal(file["x"][...], np.arange(10)))
    except HDF5_READ_ERRORS as error:
        return version, failure_reason(error)
    return version, "" if is_equal else "what is read is not what was written"
