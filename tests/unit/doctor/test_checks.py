"""Each check of `distbp doctor`, tripped by the facts of a machine that is not here."""

from dataclasses import fields, replace

import pytest
from machine_facts import (
    AREAS,
    BLAS,
    COMPILER,
    CORES,
    FOLDER,
    GB,
    HOSTS,
    LIMITS,
    MEMORY,
    MPI,
    OPEN_MPI,
    SHARED,
    SOFTWARE,
    SPEED,
    WORLD,
    ranks_of_two_hosts,
)

from distbp.doctor import host_checks, rank_checks, software_checks, speed_checks, storage_checks
from distbp.doctor.facts import (
    CompilerFacts,
    LimitFacts,
    MemoryFacts,
    MpiFacts,
    RankFacts,
    Requirement,
    SharedMemoryFacts,
)
from distbp.doctor.finding import Verdict

# A check, its arguments, the verdict, and what the finding and its remedy must contain.
TRIPPED = [
    (software_checks.check_python, [replace(SOFTWARE, python="3.10.4")], "problem", "3.10.4",
     "3.11"),
    (software_checks.check_libraries,
     [replace(SOFTWARE, requirements=[Requirement("numpy", "2.0", "", "1.26.4")])], "problem",
     "numpy 1.26.4 is older than 2.0", "pip install --upgrade 'numpy>=2.0'"),
    (software_checks.check_libraries,
     [replace(SOFTWARE, requirements=[Requirement("h5py", "3.11")])], "problem",
     "h5py is missing", "pip install"),
    (software_checks.check_extras,
     [replace(SOFTWARE, requirements=[Requirement("onnx", "1.16", "onnx", "1.9")])], "warning",
     "onnx 1.9 is older than 1.16", "pip install --upgrade 'onnx>=1.16'"),
    (software_checks.check_compiler, [CompilerFacts("0.62", "LLVM is broken")], "warning",
     "LLVM is broken", "numba"),
    (software_checks.check_mpi_library, [MpiFacts("", "cannot load libmpi.so"), 1], "warning",
     "cannot load libmpi.so; distbp runs on one rank only", "pip install mpich"),
    (software_checks.check_mpi_library, [MpiFacts("", "cannot load libmpi.so"), 4], "problem",
     "cannot load libmpi.so", "pip install mpich"),
    (software_checks.check_launcher,
     [MpiFacts("MPICH 5.0.2", "--ranks needs the mpiexec of MPICH. Add its bin folder.")],
     "warning", "--ranks needs the mpiexec of MPICH", "PATH"),
    (software_checks.check_launcher, [replace(MPI, foreign_launchers=["/usr/bin/mpirun"])],
     "warning", "/usr/bin/mpirun belongs to another MPI", "/opt/bin/mpiexec"),
    (software_checks.check_fault_tolerance, [replace(OPEN_MPI, ranks_started=4)], "warning",
     "not enabled", "--with-ft ulfm"),
    (host_checks.check_cores, [[CORES] * 5], "warning", "5 ranks; EPYC: 4 cores of 4", "fewer"),
    (host_checks.check_cores, [[replace(CORES, cores=[2], siblings=[[2]])] * 2], "warning",
     "2 ranks; EPYC: 1 core of 4: ranks share cores", "bind"),
    (host_checks.check_cores, [[replace(CORES, siblings=[[0, 1], [2, 3]])] * 3], "warning",
     "hardware threads of 2", "Start 2 ranks"),
    (host_checks.check_quota, [[replace(CORES, quota=2.5)]], "warning",
     "the time of 2.5 cores, of 4 that can be used", "at most 2 ranks"),
    (host_checks.check_quota, [[replace(CORES, quota=1.0)] * 2], "warning", "1 core, of",
     "at most 1 rank here"),
    (host_checks.check_quota, [[replace(CORES, cores=[0], quota=0.5)]], "warning", "0.5",
     "docker --cpus"),
    (host_checks.check_load, [replace(CORES, load=3.4)], "warning", "3.4 processes", "End other"),
    (host_checks.check_memory, [replace(MEMORY, limit=GB), 4], "warning",
     "limited to 1 GB by a container or job, for 4 ranks", "fewer"),
    (host_checks.check_memory, [replace(MEMORY, available=GB // 10), 1], "warning", "100 MB",
     "more memory"),
    (host_checks.check_limits, [replace(LIMITS, files=64), 1], "warning", "64 open files",
     "ulimit -n"),
    (host_checks.check_limits, [replace(LIMITS, processes_left=20), 4], "warning",
     "4 ranks may need 32", "ulimit -u"),
    (host_checks.check_limits, [replace(LIMITS, address_space=GB), 1], "warning",
     "1,000,000,000 bytes of addresses", "ulimit -v"),
    (host_checks.check_shared_memory, [SharedMemoryFacts(0, 0, "Permission denied")], "problem",
     "Permission denied", "--shm-size"),
    (host_checks.check_shared_memory, [replace(SHARED, free=GB // 1000)], "problem",
     "1 MB free of 32 GB: MPI may be killed by SIGBUS", "--shm-size"),
    (host_checks.check_shared_memory, [SharedMemoryFacts(64 << 20, 64 << 20)], "warning",
     "67.1 MB free of 67.1 MB", "--shm-size"),
    (host_checks.check_leftovers,
     [replace(SHARED, leftovers=["/dev/shm/mpich_shm_1"], leftover_bytes=17 * 10**6)], "warning",
     "1 in /dev/shm that no process uses, 17 MB", "rm /dev/shm/mpich_shm_1"),
    (storage_checks.check_file_system, [replace(FOLDER, error="Read-only file system")],
     "problem", "ext4, no file can be written: Read-only file system", "another folder"),
    (storage_checks.check_file_system, [replace(FOLDER, filesystem="overlay")], "warning",
     "overlay: runs are lost when the container is removed", "disk"),
    (storage_checks.check_locks, [replace(FOLDER, locks="flock: No locks available")], "warning",
     "No locks available", "-o flock"),
    (storage_checks.check_replacing, [replace(FOLDER, atomic_error="Operation not permitted")],
     "problem", "cannot be replaced: Operation not permitted", "--out"),
    (storage_checks.check_replacing, [replace(FOLDER, fsync_s=4.2)], "warning", "in 4.200 s",
     "--checkpoint-every"),
    (storage_checks.check_space, [replace(FOLDER, free=10**7)], "problem", "10 MB free", "Free"),
    (storage_checks.check_space, [replace(FOLDER, free=GB // 2)], "warning", "500 MB", "Free"),
    (storage_checks.check_space, [replace(FOLDER, free_files=0)], "problem", "0 files", "Free"),
    (storage_checks.check_space, [replace(FOLDER, free_files=30)], "warning", "30 files", "Free"),
    (storage_checks.check_file_times, [replace(FOLDER, clock_offset_s=-40.0)], "warning",
     "40 s behind this host's clock", "NTP"),
    (storage_checks.check_hdf5, [replace(FOLDER, hdf5_error="no room")], "problem",
     "HDF5 1.14.6: no room", "another folder"),
    (storage_checks.check_hdf5, [replace(FOLDER, hdf5_error="unable to lock file, errno = 38")],
     "problem", "unable to lock file", "HDF5_USE_FILE_LOCKING=FALSE"),
    (speed_checks.check_blas, [replace(BLAS, name="unknown")], "warning", "reference",
     "NumPy from PyPI"),
    (speed_checks.check_kernels,
     [replace(BLAS, kernels="SkylakeX", native="Haswell", forced="OPENBLAS_CORETYPE=SkylakeX")],
     "warning", "because of OPENBLAS_CORETYPE=SkylakeX: Haswell is faster on this CPU",
     "unset OPENBLAS_CORETYPE"),
    (speed_checks.check_kernels, [replace(BLAS, kernels="Zen")], "warning",
     "Zen; NumPy AVX-512: SkylakeX is faster", "--kernels native"),
    (speed_checks.check_threads, [replace(BLAS, thread_variables={"OMP_NUM_THREADS": "8"}), 4],
     "warning", "OMP_NUM_THREADS=8: NumPy starts these threads on each of 4 ranks",
     "unset OMP_NUM_THREADS"),
    (speed_checks.check_threads, [replace(BLAS, threads_error="--threads 1 has no effect"), 1],
     "problem", "no effect", "OPENBLAS_NUM_THREADS=1"),
    (speed_checks.check_matrix_products, [[("rank 0 on a", replace(SPEED, float32=4.0))]],
     "warning", "float32 4, float64 45 GFLOP/s a core: slow", "NumPy from PyPI"),
    (speed_checks.check_matrix_products,
     [[("rank 0 on a", SPEED), ("rank 1 on b", replace(SPEED, float32=50.0))]], "warning",
     "float32 50 to 90, float64 45 GFLOP/s a core: rank 1 on b is the slowest", "CPU quota"),
    (speed_checks.check_memory_bandwidth,
     [[("rank 0 on a", SPEED), ("rank 1 on b", replace(SPEED, memory=0.3))]], "warning",
     "0.3 to 10 GB/s a rank, the least on rank 1 on b", "bind"),
    (speed_checks.check_reduction, [replace(WORLD, latency_us=4000.0)], "warning",
     "2 ranks: 4000 µs and 5 GB/s", "bind"),
    (speed_checks.check_reduction, [replace(WORLD, bandwidth=0.05)], "warning", "0.05 GB/s",
     "bind"),
    (speed_checks.check_reduction, [replace(WORLD, warning="Ranks cannot share memory.")],
     "warning", "Ranks cannot share memory", "/dev/shm"),
    (speed_checks.check_network, [replace(HOSTS, network_latency_us=900.0)], "warning", "900 µs",
     "UCX_NET_DEVICES"),
    (speed_checks.check_network, [replace(HOSTS, network_gbit=0.4)], "warning", "0.4 Gbit/s",
     "btl_tcp_if_include"),
    (rank_checks.check_start, [None, "", 2, False], "problem", "no reason is known", "srun"),
    (rank_checks.check_start, [None, "ended by SIGABRT: no such host", 2, False], "problem",
     "2 ranks did not connect: ended by SIGABRT: no such host", "firewall"),
    (rank_checks.check_start, [None, "Each one sees only itself. Use mpirun of MPICH.", 2, False],
     "problem", "2 ranks did not connect: Each one sees only itself", "Use mpirun of MPICH."),
    (rank_checks.check_start, [WORLD, "", 3, False], "problem",
     "2 ranks connected in 0.5 s, but 3 ranks were started", "one launcher"),
    (rank_checks.check_start, [replace(WORLD, start_s=40.0), "", 2, False], "warning",
     "in 40.0 s", "disk of each host"),
    (rank_checks.check_clocks, [replace(HOSTS, clock_offsets_s=[0.0, -7.0]), ["a", "b"]],
     "warning", "b is 7 s behind a", "NTP"),
    (rank_checks.check_shared_folders, [replace(HOSTS, not_shared={"runs": ["b", "c"]})],
     "problem", "not seen by b, c in runs", "mounted"),
]  # fmt: skip
HEALTHY = [
    (software_checks.check_python, [SOFTWARE], "Python 3.12.1, distbp 1.0"),
    (software_checks.check_libraries, [SOFTWARE], "numpy 2.4.6, h5py 3.16.0"),
    (software_checks.check_libraries, [replace(SOFTWARE, requirements=[])], "not known"),
    (software_checks.check_extras, [SOFTWARE], "tables; not installed: onnx"),
    (software_checks.check_compiler, [COMPILER], "Numba 0.62.1"),
    (software_checks.check_compiler, [CompilerFacts("")], "distbp[fast]"),
    (software_checks.check_mpi_library, [MPI, 4], "MPICH 5.0.2"),
    (software_checks.check_launcher, [MPI], "/opt/bin/mpiexec"),
    (software_checks.check_launcher, [MpiFacts("")], "not needed"),
    (software_checks.check_fault_tolerance, [MPI], "MPICH 5.0.2 has none"),
    (software_checks.check_fault_tolerance, [OPEN_MPI], "available"),
    (software_checks.check_fault_tolerance, [replace(OPEN_MPI, ulfm_enabled=True)], "continue"),
    (software_checks.check_fault_tolerance, [MpiFacts("Open MPI 4.1.4")], "4.1.4 has none"),
    (software_checks.check_fault_tolerance, [MpiFacts("")], "no MPI"),
    (host_checks.check_cores, [[CORES]], "EPYC: 4 cores of 4"),
    (host_checks.check_cores,
     [[replace(CORES, cores=[n], siblings=[[n]]) for n in range(4)]], "4 ranks; EPYC: 4 cores"),
    (host_checks.check_cores, [[replace(CORES, siblings=[[0, 1], [2, 3]])] * 2], "threads of 2"),
    (host_checks.check_quota, [[CORES]], "none"),
    (host_checks.check_quota, [[replace(CORES, quota=2.0)] * 2], "the time of 2 cores"),
    (host_checks.check_quota,  # of two containers
     [[replace(CORES, quota=1.0, group=name) for name in "ab"]], "the time of 1 core"),
    (host_checks.check_load, [CORES], "0.0 processes on 4 cores"),
    (host_checks.check_memory, [MEMORY, 4], "60 GB available of 64 GB"),
    (host_checks.check_limits, [LIMITS, 4], "1,024 open files, 5,000 more processes"),
    (host_checks.check_limits, [LimitFacts(None), 4], "none"),
    (host_checks.check_shared_memory, [SHARED], "31 GB free of 32 GB"),
    (host_checks.check_leftovers, [SHARED], "none"),
    (storage_checks.check_file_system, [FOLDER], "ext4"),
    (storage_checks.check_file_system, [replace(FOLDER, filesystem="nfs4")], "over the network"),
    (storage_checks.check_file_system, [replace(FOLDER, filesystem="lustre")], "the network"),
    (storage_checks.check_locks, [FOLDER], "a second run is kept out"),
    (storage_checks.check_replacing, [FOLDER], "replaced at once, in 0.010 s"),
    (storage_checks.check_space, [FOLDER], "500 GB free"),
    (storage_checks.check_space, [replace(FOLDER, free_files=-1)], "500 GB free"),
    (storage_checks.check_file_times, [FOLDER], "this host's clock"),
    (storage_checks.check_hdf5, [FOLDER], "HDF5 1.14.6"),
    (speed_checks.check_blas, [BLAS], "openblas 0.3.31 SkylakeX"),
    (speed_checks.check_kernels, [BLAS], "SkylakeX; NumPy AVX-512"),
    (speed_checks.check_kernels, [replace(BLAS, name="mkl", kernels="")], "chosen by mkl"),
    (speed_checks.check_threads, [BLAS, 4], "1 a rank"),
    (speed_checks.check_matrix_products, [[("a", SPEED)] * 2], "float32 90, float64 45 GFLOP/s"),
    (speed_checks.check_memory_bandwidth, [[("a", SPEED)]], "10 GB/s"),
    (speed_checks.check_reduction, [WORLD], "2 ranks: 20 µs and 5 GB/s"),
    (speed_checks.check_network, [HOSTS], "20 µs, 90 Gbit/s"),
    (rank_checks.check_start, [WORLD, "", 2, True], "connected in 0.5 s (a trial)"),
    (rank_checks.check_clocks, [HOSTS, ["a", "b"]], "2 ms apart at most"),
    (rank_checks.check_shared_folders, [HOSTS], "the same files"),
]  # fmt: skip
ALL_CHECKS = {
    function
    for module in (host_checks, rank_checks, software_checks, speed_checks, storage_checks)
    for name, function in vars(module).items()
    if name.startswith("check_")
}


def name_of(value):
    return getattr(value, "__name__", "")


@pytest.mark.parametrize(("check", "facts", "verdict", "found", "remedy"), TRIPPED, ids=name_of)
def test_a_check_trips(check, facts, verdict, found, remedy):
    finding = check(*facts)
    assert finding.verdict == verdict, finding
    assert found in finding.found, finding
    assert remedy in finding.remedy, finding
    assert not finding.found.endswith("."), finding


@pytest.mark.parametrize(("check", "facts", "found"), HEALTHY, ids=name_of)
def test_a_check_passes(check, facts, found):
    """What is as it should be is ok, and needs no remedy."""
    finding = check(*facts)
    assert (finding.verdict, finding.remedy) == (Verdict.OK, ""), finding
    assert found in finding.found, finding


def test_no_check_is_left_out():
    """Each of them is tripped here, and passes."""
    assert {entry[0] for entry in TRIPPED} | {rank_checks.check_alike} == ALL_CHECKS
    assert {entry[0] for entry in HEALTHY} | {rank_checks.check_alike} == ALL_CHECKS


@pytest.mark.parametrize(
    ("differing", "verdict", "found"),
    [
        ({}, "ok", "none among 2 hosts"),
        ({"software": replace(SOFTWARE, python="3.13.0")}, "warning",
         "Python 3.12.1 on a, 3.13.0 on b"),
        ({"software": replace(SOFTWARE, requirements=SOFTWARE.requirements[1:])}, "warning",
         "numpy 2.4.6 on a, unknown on b"),
        ({"mpi": OPEN_MPI}, "problem", "MPI MPICH 5.0.2 on a, Open MPI 5.0.11 on b"),
        ({"cores": replace(CORES, cpu="Xeon")}, "warning", "CPU EPYC on a, Xeon on b"),
        ({"cores": replace(CORES, machine=8)}, "warning", "cores 4 on a, 8 on b"),
        ({"cores": replace(CORES, quota=2.0)}, "warning", "cores 4 on a, 4 (quota 2) on b"),
        ({"cores": replace(CORES, cores=[3])}, "ok", "none"),
        ({"blas": replace(BLAS, name="openblas 0.3.31 Haswell")}, "warning",
         "BLAS openblas 0.3.31 SkylakeX on a, openblas 0.3.31 Haswell on b"),
        ({"blas": replace(BLAS, simd="AVX2")}, "warning", "SIMD AVX-512 on a, AVX2 on b"),
        ({"compiler": CompilerFacts("")}, "warning", "Numba 0.62.1 on a, none on b"),
        ({"shared_memory": replace(SHARED, free=GB)}, "warning",
         "free /dev/shm 1 GB on b, 31 GB on a"),
        ({"memory": MemoryFacts(62 * GB, 50 * GB, 62 * GB)}, "ok", "none"),
        ({"memory": MemoryFacts(16 * GB, 15 * GB, 16 * GB)}, "warning",
         "memory 16 GB on b, 64 GB on a"),
    ],
    ids=str,
)  # fmt: skip
def test_differences_between_hosts_are_named(differing, verdict, found):
    finding = rank_checks.check_alike(ranks_of_two_hosts(**differing))
    assert finding.verdict == verdict
    assert found in finding.found
    assert bool(finding.remedy) == (verdict != "ok")


def test_facts_survive_the_journey_as_json():
    """Of a rank, with all areas."""
    rank = RankFacts(3, "a", AREAS, {"speed": "no answer within 12 s"})
    assert RankFacts.from_json(rank.to_json()) == rank
    assert {one.name for one in fields(RankFacts)} == set(rank.to_json())
