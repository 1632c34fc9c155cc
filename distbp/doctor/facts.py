"""What is known about a machine before anything is judged: an immutable value for each area.

All fields are what JSON can represent: facts travel from probe processes, and from other
ranks, as JSON, and `distbp doctor --json` prints them. How they are found is in the probes, what
they mean in the checks.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Requirement:
    """A library that distbp needs, or can use.

    Attributes
    ----------
    name : str
        As pip knows it.
    least : str
        The lowest version that will do; '' if any will.
    extra : str
        The extra of distbp that it belongs to; '' if distbp always needs it.
    installed : str
        The version; '' if it is missing.
    """

    name: str
    least: str = ""
    extra: str = ""
    installed: str = ""


@dataclass(frozen=True)
class SoftwareFacts:
    """Python and the libraries that are installed."""

    python: str
    distbp: str
    requirements: list[Requirement]


@dataclass(frozen=True)
class CompilerFacts:
    """Numba's version, '' without it, and why it does not compile, '' if it does."""

    numba: str
    error: str = ""


@dataclass(frozen=True)
class MpiFacts:
    """The MPI library of this Python, and launchers.

    Attributes
    ----------
    library : str
        Name and version; '' if none can be loaded.
    error : str
        Why not.
    launcher : str
        The path of the launcher that `--ranks` uses; '' if there is none.
    foreign_launchers : list of str
        What `mpirun` and `mpiexec` on the PATH are, if they belong to another MPI.
    ranks_started : int
        By the launcher that has started this process; 1 without one.
    in_slurm_step : bool
    ulfm_enabled : bool
    """

    library: str
    error: str = ""
    launcher: str = ""
    foreign_launchers: list[str] = field(default_factory=list)
    ranks_started: int = 1
    in_slurm_step: bool = False
    ulfm_enabled: bool = False


@dataclass(frozen=True)
class CoreFacts:
    """The processor, and what of it this process may use.

    Attributes
    ----------
    cpu : str
        Its model.
    cores : list of int
        The IDs of the cores that this process may run on.
    siblings : list of list of int
        Those of `cores` that are hardware threads of the same core, together.
    machine : int
        The number of cores of the machine, hardware threads included.
    quota : float or None
        In cores, of the container or batch job; None if there is none.
    group : str
        Processes of which it is equal share the quota.
    load : float
        The mean number of running processes in the last minute.
    """

    cpu: str
    cores: list[int]
    siblings: list[list[int]]
    machine: int
    quota: float | None = None
    group: str = ""
    load: float = 0.0


@dataclass(frozen=True)
class MemoryFacts:
    """Bytes: of the machine, available now, and the limit of a control group or the machine."""

    machine: int
    available: int
    limit: int


@dataclass(frozen=True)
class LimitFacts:
    """Limits of the operating system on this process; None for none.

    Attributes
    ----------
    files : int or None
        Open files of a process.
    processes_left : int or None
        How many processes or threads may still be started.
    address_space : int or None
        Bytes.
    """

    files: int | None
    processes_left: int | None = None
    address_space: int | None = None


@dataclass(frozen=True)
class SharedMemoryFacts:
    """`/dev/shm`: its bytes, and segments that ranks have left behind."""

    size: int
    free: int
    error: str = ""
    leftovers: list[str] = field(default_factory=list)
    leftover_bytes: int = 0


@dataclass(frozen=True)
class BlasFacts:
    """The library that multiplies matrices.

    Attributes
    ----------
    name : str
        Name, version and kernels.
    kernels : str
        The kernels that OpenBLAS has loaded; '' for another library.
    native : str
        Those that are the fastest on this CPU; '' if that is not known.
    simd : str
        The widest vectors of NumPy's own code.
    forced : str
        The variable of the user that has chosen the kernels, with its value; '' if none has.
    thread_variables : dict of str
        The variables that ask for other than one thread.
    threads_error : str
        Why the number of threads cannot be set; '' if it can.
    """

    name: str
    kernels: str
    native: str
    simd: str
    forced: str = ""
    thread_variables: dict[str, str] = field(default_factory=dict)
    threads_error: str = ""


@dataclass(frozen=True)
class FolderFacts:
    """A folder for data or runs, and its file system.

    Attributes
    ----------
    folder : str
        As it was given.
    tried : str
        The folder itself, or if there is none yet, the one that it would be in.
    filesystem : str
        Such as ext4 or nfs4; '' if unknown.
    free, free_files : int
        Bytes, and files that can still be created (-1 if the file system does not count them).
    error : str
        Why no file can be written; '' if it can, and only then the rest is known.
    locks : str
        '' if a lock excludes others, otherwise what happens instead.
    atomic_error : str
        Why a file cannot be replaced and forced to the disk; '' if it can.
    fsync_s : float
        How long that takes.
    clock_offset_s : float
        By how much the times of new files are ahead of this host's clock.
    hdf5 : str
        The version of HDF5.
    hdf5_error : str
        Why an HDF5 file cannot be written and read; '' if it can.
    """

    folder: str
    tried: str
    filesystem: str = ""
    free: int = 0
    free_files: int = -1
    error: str = ""
    locks: str = ""
    atomic_error: str = ""
    fsync_s: float = 0.0
    clock_offset_s: float = 0.0
    hdf5: str = ""
    hdf5_error: str = ""


@dataclass(frozen=True)
class StorageFacts:
    """The folders that were asked for."""

    folders: list[FolderFacts]


@dataclass(frozen=True)
class SpeedFacts:
    """What one rank computes while the others do the same: GFLOP/s, and GB/s of memory."""

    float32: float
    float64: float
    memory: float


@dataclass(frozen=True)
class WorldFacts:
    """What the ranks have found together.

    Attributes
    ----------
    ranks, nodes : int
    start_s : float
        Until all ranks were connected.
    warning : str
        Why the reduction does not use the fastest memory; '' if it does.
    barrier_us : float
        Of a barrier among the ranks of a node.
    latency_us, bandwidth : float
        Of distbp's reduction: a step of two parameters, and GB/s of a large gradient.
    allreduce_latency_us, allreduce_bandwidth : float
        Of MPI's, for comparison.
    network_latency_us, network_gbit : float
        Between nodes; 0 on a single one.
    clock_offsets_s : list of float
        Of each rank's host from that of rank 0.
    not_shared : dict of list of str
        By folder, the hosts that do not see what rank 0 writes there.
    """

    ranks: int
    nodes: int
    start_s: float
    warning: str = ""
    barrier_us: float = 0.0
    latency_us: float = 0.0
    bandwidth: float = 0.0
    allreduce_latency_us: float = 0.0
    allreduce_bandwidth: float = 0.0
    network_latency_us: float = 0.0
    network_gbit: float = 0.0
    clock_offsets_s: list[float] = field(default_factory=list)
    not_shared: dict[str, list[str]] = field(default_factory=dict)


_KINDS: dict[str, type] = {
    "software": SoftwareFacts,
    "compiler": CompilerFacts,
    "mpi": MpiFacts,
    "cores": CoreFacts,
    "memory": MemoryFacts,
    "limits": LimitFacts,
    "shared_memory": SharedMemoryFacts,
    "blas": BlasFacts,
    "storage": StorageFacts,
    "speed": SpeedFacts,
    "world": WorldFacts,
}


@dataclass(frozen=True)
class RankFacts:
    """What is known about a rank and its host.

    Attributes
    ----------
    rank : int
    host : str
    areas : dict
        The facts of each area, by its name.
    failures : dict of str
        By area, why nothing is known about it.
    """

    rank: int
    host: str
    areas: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the facts as what JSON can represent."""
        areas = {name: asdict(one) for name, one in self.areas.items()}
        return {
            "rank": self.rank, "host": self.host, "areas": areas, "failures": dict(self.failures)
        }  # fmt: skip

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "RankFacts":
        """Return the facts that `to_json` has described."""
        areas = {name: parse_area(name, one) for name, one in found["areas"].items()}
        return cls(found["rank"], found["host"], areas, found["failures"])


def parse_area(name: str, found: dict[str, Any]) -> Any:
    """Return the facts of an area, from JSON."""
    if name == "software":
        found = found | {"requirements": [Requirement(**one) for one in found["requirements"]]}
    if name == "storage":
        found = {"folders": [FolderFacts(**one) for one in found["folders"]]}
    return _KINDS[name](**found)
