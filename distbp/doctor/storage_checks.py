"""Judges a folder for data or runs, and its file system; from facts to findings."""

from distbp.doctor.facts import FolderFacts
from distbp.doctor.finding import Finding, problem, warning
from distbp.doctor.host_checks import size

_NETWORK_FILE_SYSTEMS = (
    *("nfs", "lustre", "gpfs", "beegfs", "cifs", "smb", "ceph", "9p", "fuse", "pvfs", "glusterfs"),
    *("afs", "virtiofs", "orangefs", "wekafs", "panfs"),
)
# What is in them is lost at the end: of a container, or when the machine is switched off.
_TEMPORARY_FILE_SYSTEMS = {
    "overlay": "the container is removed", "aufs": "the container is removed",
    "tmpfs": "the machine restarts", "ramfs": "the machine restarts",
}  # fmt: skip
_MIN_SPACE, _LITTLE_SPACE = 64 << 20, 1 << 30
_LITTLE_FILES = 1000
_SLOW_FSYNC_S = 1.0
_MAX_CLOCK_OFFSET_S = 2.0


def check_file_system(facts: FolderFacts) -> Finding:
    """Judge whether files can be written, and how long they last."""
    name, kind = f"folder {facts.folder}", facts.filesystem
    found = kind or "unknown file system"
    if facts.error:
        return problem(
            name, f"{found}, no file can be written: {facts.error}",
            "Choose another folder, or have it mounted for writing.",
        )  # fmt: skip
    if kind in _TEMPORARY_FILE_SYSTEMS:
        return warning(
            name, f"{found}: runs are lost when {_TEMPORARY_FILE_SYSTEMS[kind]}",
            "Write runs to a folder on a disk.",
        )  # fmt: skip
    if is_network_file_system(kind):
        found += ", over the network"
    return Finding(name, found)


def is_network_file_system(kind: str) -> bool:
    """Return whether a type of file system usually is on another machine."""
    return kind.startswith(_NETWORK_FILE_SYSTEMS)


def check_locks(facts: FolderFacts) -> Finding:
    """Judge whether two runs can write to the same directory."""
    name = f"locks in {facts.folder}"
    if not facts.locks:
        return Finding(name, "a second run is kept out")
    return warning(
        name, f"{facts.locks}: two runs could write to the same directory for a while",
        "Mount the file system with locks (Lustre: -o flock, NFS: not nolock), or give every run "
        "its own --out.",
    )  # fmt: skip


def check_replacing(facts: FolderFacts) -> Finding:
    """Judge whether a checkpoint is replaced at once, and how long the disk takes."""
    name, found = f"checkpoints in {facts.folder}", f"replaced at once, in {facts.fsync_s:.3f} s"
    if facts.atomic_error:
        return problem(
            name, f"a file cannot be replaced: {facts.atomic_error}",
            "Choose a folder on another file system for --out.",
        )  # fmt: skip
    if facts.fsync_s > _SLOW_FSYNC_S:
        return warning(name, found, "Write fewer checkpoints (--checkpoint-every), or elsewhere.")
    return Finding(name, found)


def check_space(facts: FolderFacts) -> Finding:
    """Judge whether there is room for checkpoints."""
    name, found = f"space in {facts.folder}", f"{size(facts.free)} free"
    remedy = "Free space, or choose another folder."
    if 0 <= facts.free_files < _LITTLE_FILES:
        found += f", {facts.free_files:,} files"
    if facts.free < _MIN_SPACE or facts.free_files == 0:
        return problem(name, found, remedy)
    if facts.free < _LITTLE_SPACE or 0 <= facts.free_files < _LITTLE_FILES:
        return warning(name, found, remedy)
    return Finding(name, found)


def check_hdf5(facts: FolderFacts) -> Finding:
    """Judge whether HDF5 can write and read a file."""
    name, found = f"hdf5 in {facts.folder}", f"HDF5 {facts.hdf5} writes and reads"
    if not facts.hdf5_error:
        return Finding(name, found)
    remedy = "Install h5py again, or choose another folder."
    if "lock" in facts.hdf5_error:
        remedy = "Set HDF5_USE_FILE_LOCKING=FALSE, or mount the file system with locks."
    return problem(name, f"HDF5 {facts.hdf5}: {facts.hdf5_error}", remedy)


def check_file_times(facts: FolderFacts) -> Finding:
    """Judge the clock of the machine that the files are on."""
    name = f"file times in {facts.folder}"
    if abs(facts.clock_offset_s) > _MAX_CLOCK_OFFSET_S:
        where = "ahead of" if facts.clock_offset_s > 0 else "behind"
        return warning(
            name, f"{abs(facts.clock_offset_s):.0f} s {where} this host's clock",
            "Have both machines set their clocks by NTP.",
        )  # fmt: skip
    return Finding(name, "those of this host's clock")
