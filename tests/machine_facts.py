"""The facts of healthy machines, for the checks of `distbp doctor`."""

from dataclasses import replace

from distbp.doctor.facts import (
    BlasFacts,
    CompilerFacts,
    CoreFacts,
    FolderFacts,
    LimitFacts,
    MemoryFacts,
    MpiFacts,
    RankFacts,
    Requirement,
    SharedMemoryFacts,
    SoftwareFacts,
    SpeedFacts,
    StorageFacts,
    WorldFacts,
)

GB = 10**9
SOFTWARE = SoftwareFacts(
    "3.12.1", "1.0",
    [
        Requirement("numpy", "2.0", "", "2.4.6"), Requirement("h5py", "3.11", "", "3.16.0"),
        Requirement("onnx", "1.16", "onnx", ""), Requirement("pyarrow", "19.0.1", "tables", "21.0"),
        Requirement("pytest", "9.0", "test", ""),
    ],
)  # fmt: skip
COMPILER = CompilerFacts("0.62.1")
MPI = MpiFacts("MPICH 5.0.2", "", "/opt/bin/mpiexec")
OPEN_MPI = MpiFacts("Open MPI 5.0.11", "", "/opt/bin/mpiexec")
CORES = CoreFacts("EPYC", [0, 1, 2, 3], [[0], [1], [2], [3]], 4)
MEMORY = MemoryFacts(64 * GB, 60 * GB, 64 * GB)
LIMITS = LimitFacts(1024, 5000, None)
SHARED = SharedMemoryFacts(32 * GB, 31 * GB)
BLAS = BlasFacts("openblas 0.3.31 SkylakeX", "SkylakeX", "SkylakeX", "AVX-512")
FOLDER = FolderFacts(
    "runs", "/data/runs", "ext4", 500 * GB, 10**6, fsync_s=0.01, hdf5="1.14.6"
)  # fmt: skip
SPEED = SpeedFacts(90.0, 45.0, 10.0)
WORLD = WorldFacts(
    2, 1, 0.5, "", 1.0, 20.0, 5.0, 10.0, 4.0, 0.0, 0.0, [0.0, 0.0]
)  # fmt: skip
HOSTS = replace(
    WORLD, nodes=2, network_latency_us=20.0, network_gbit=90.0, clock_offsets_s=[0.0, -0.002]
)

AREAS = {
    "software": SOFTWARE, "compiler": COMPILER, "mpi": MPI, "cores": CORES, "memory": MEMORY,
    "limits": LIMITS, "shared_memory": SHARED, "blas": BLAS, "speed": SPEED,
    "storage": StorageFacts([FOLDER]),
}  # fmt: skip


def ranks_of_two_hosts(**differing):
    """Return two ranks on a and one on b, whose facts differ in some areas."""
    first, other = AREAS, AREAS | differing
    return [RankFacts(0, "a", first), RankFacts(1, "a", first), RankFacts(2, "b", other)]
