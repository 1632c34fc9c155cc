"""The machine that a rank runs on: its cores, its BLAS, and what determines its rounding."""

import math
import os
import platform
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import h5py
import numpy as np
import threadpoolctl

from distbp import kernels
from distbp.errors import ConfigError
from distbp.parallel import cgroup
from distbp.version import __version__


def set_blas_threads(threads: int) -> None:
    """Make BLAS use `threads` threads from now on, whatever the environment says.

    Raises
    ------
    ConfigError
        The BLAS in use ignores it, or another thread of this process uses another number. Another
        number of threads may round differently.
    """
    use, own = _ThreadUse, threading.get_ident()
    with use.lock:
        others = {count for thread, count in use.counts.items() if thread != own}
        if others - {threads}:
            raise ConfigError(
                f"--threads {threads}: another thread of this process computes with "
                f"{', '.join(map(str, others))}, and BLAS has one number for the process. Use the "
                "same number, or separate processes."
            )
        if own in use.depths:
            use.counts[own] = threads
        _set_blas_thread_counts(dict.fromkeys(_blas_thread_counts(), threads))
        used = _blas_thread_counts().values()
    if any(count != threads for count in used):
        raise ConfigError(
            f"--threads {threads} has no effect: this BLAS still uses "
            f"{', '.join(map(str, used))}. Use another build of NumPy, or that number."
        )


class _ThreadUse:
    """Which threads of this process are inside `preserve_blas_threads`.

    State of the module, as the number of BLAS threads is that of the process.
    """

    lock = threading.Lock()
    # By the number of the thread: in how many such blocks it is, and how many BLAS threads it uses.
    depths: ClassVar[dict[int, int]] = {}
    counts: ClassVar[dict[int, int]] = {}
    original: ClassVar[dict[str, int]] = {}

    @classmethod
    def reset(cls) -> None:
        """Forget the threads of the parent, after a fork."""
        cls.lock = threading.Lock()
        cls.depths.clear()
        cls.counts.clear()


os.register_at_fork(after_in_child=_ThreadUse.reset)


@contextmanager
def preserve_blas_threads() -> Iterator[None]:
    """Restore the number of BLAS threads at the end of the block, whatever it was.

    For what a library user calls: the number belongs to the host process. If several threads are
    in such a block, the last one to leave it restores the number.
    """
    use, own = _ThreadUse, threading.get_ident()
    with use.lock:
        before, count = _blas_thread_counts(), use.counts.get(own)
        if not use.depths:
            use.original = before
        use.depths[own] = use.depths.get(own, 0) + 1
    try:
        yield
    finally:
        with use.lock:
            use.depths[own] -= 1
            use.counts.pop(own, None)
            if count is not None:
                use.counts[own] = count
            if use.depths[own]:  # within another block of the same thread
                _set_blas_thread_counts(before)
            else:
                del use.depths[own]
            if not use.depths:
                _set_blas_thread_counts(use.original)


@cache
def _blas_libraries() -> list[Any]:
    """Return threadpoolctl's controllers of the BLAS libraries that are loaded.

    Looked for once, which takes some milliseconds: NumPy's is among them, and it is the only one
    that computes here.
    """
    libraries = threadpoolctl.ThreadpoolController().lib_controllers
    return [one for one in libraries if one.user_api == "blas"]


def forget_blas_libraries() -> None:
    """Look for BLAS libraries again, as others may have been loaded since."""
    _blas_libraries.cache_clear()
    with _ThreadUse.lock:  # theirs have not been changed yet
        _ThreadUse.original = _blas_thread_counts() | _ThreadUse.original


def _blas_thread_counts() -> dict[str, int]:
    """Return the number of threads of each library, by its path."""
    return {str(one.filepath): int(one.num_threads) for one in _blas_libraries()}


def _set_blas_thread_counts(counts: dict[str, int]) -> None:
    for library in _blas_libraries():
        if library.filepath not in counts:  # it was loaded after the counts were read
            continue
        # threadpoolctl 3.8 ignores all threads of a process but the first one that has called it.
        give_up_control = getattr(library, "clear_controlling_thread", lambda force: None)
        give_up_control(force=True)
        library.set_num_threads(counts[library.filepath])
        give_up_control(force=True)


def _own_blas_libraries() -> list[Any]:
    """Return those that may compute here: not what another package has brought for itself.

    A wheel brings libraries in a folder of its own, `NAME.libs` on Linux and `NAME/.dylibs` on
    macOS. SciPy's OpenBLAS is loaded when a program imports scikit-learn, and is not used here.
    """
    return [one for one in _blas_libraries() if _package(Path(one.filepath)) in ("", "numpy")]


def _package(library: Path) -> str:
    """Return the package whose wheel has brought a library; '' if none has."""
    folder = library.parent
    if folder.name == ".dylibs":
        return folder.parent.name
    return folder.stem if folder.suffix == ".libs" else ""


def loaded_kernels() -> str:
    """Return the name of the kernels that OpenBLAS uses; '' if NumPy uses no OpenBLAS."""
    libraries = [one for one in _own_blas_libraries() if one.internal_api == "openblas"]
    return " + ".join(sorted({str(one.architecture) for one in libraries}))


def kernels_in_use() -> str:
    """Return the value of `--kernels` that gives those of this process; '' without OpenBLAS."""
    is_portable = kernels.selected(os.environ) == kernels.PORTABLE
    return kernels.PORTABLE if is_portable else loaded_kernels()


def check_kernels(choice: str) -> None:
    """Raise ConfigError if other kernels are loaded than those chosen; `native` may be any."""
    if choice == kernels.NATIVE:
        return
    loaded, expected = loaded_kernels(), kernels.openblas_name(choice)
    if not loaded:
        raise ConfigError(
            f"--kernels {choice} needs OpenBLAS, but NumPy uses {numeric_platform()['blas']}, "
            f"whose kernels cannot be chosen. Use NumPy from PyPI, or --kernels native."
        )
    variables = f"{kernels.CORETYPE_VARIABLE}={expected}"
    if choice == kernels.PORTABLE:
        variables += f" and {kernels.NUMPY_VARIABLE}='{kernels.numpy_avx512_names()}'"
        if loaded == expected and simd_level() == "AVX-512":
            loaded += ", and NumPy those for AVX-512"
    if loaded.lower() != expected.lower():
        raise ConfigError(
            f"--kernels {choice} has no effect: OpenBLAS uses the kernels {loaded}. It has no "
            f"others here, or a variable says so, or it was loaded before. Set {variables} before "
            f"NumPy is loaded, or use --kernels native."
        )


def simd_level() -> str:
    """Return the widest vectors that NumPy's own code uses: AVX-512, AVX2, or another's name."""
    info: Any = np.show_config(mode="dicts")
    extensions = info.get("SIMD Extensions", {})
    names = [*extensions.get("baseline", []), *extensions.get("found", [])]
    levels = {"AVX-512": ("X86_V4", "AVX512_SKX"), "AVX2": ("X86_V3", "AVX2")}
    widest = (level for level, known in levels.items() if set(known) & set(names))
    return next(widest, names[-1] if names else "")


class CpuShare(NamedTuple):
    """What of a node's processor a process may use.

    Attributes
    ----------
    cores : list of int
        The IDs of the cores that it may run on.
    quota : float or None
        How many cores' time its container or batch job may use; None if all of it.
    group : str
        Identifies the container or job on the node: processes of one share its quota.
    """

    cores: list[int]
    quota: float | None = None
    group: str = ""


def cpu_share() -> CpuShare:
    """Return what of its node's processor this process may use."""
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = list(range(os.cpu_count() or 1))
    return CpuShare(cores, cgroup.cpu_quota(), cgroup.cpu_group())


def count_cores(shares: Iterable[CpuShare]) -> int:
    """Return how many cores the processes of a node have together, at least 1.

    A quota is rounded down: a thread that has to wait for the rest of its time every 100 ms makes
    all others wait.
    """
    ids: set[int] = set()
    quotas: dict[str, float] = {}
    for cores, quota, group in shares:
        ids |= set(cores)
        quotas[group] = math.inf if quota is None else quota
    return max(1, math.floor(min(len(ids), sum(quotas.values()))))


def usable_cores() -> int:
    """Return how many cores this process may use: of those it may run on, within its quota."""
    return count_cores([cpu_share()])


def numeric_platform() -> dict[str, str]:
    """Return what the last bits of a result depend on, besides configuration and data."""
    blas = " + ".join(
        f"{one.internal_api} {one.version} {getattr(one, 'architecture', '')}".strip()
        for one in _own_blas_libraries()
    )
    return {
        "cpu": cpu_model(), "numpy": np.__version__, "simd": simd_level(), "blas": blas or "unknown"
    }  # fmt: skip


def software_versions() -> dict[str, str]:
    """Return the versions of the software that writes a checkpoint."""
    return {
        "distbp": __version__,
        "python": platform.python_version(),
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }


@cache
def cpu_model() -> str:
    """Return the processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "CPU part")):  # x86-64, ARM
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_limit() -> int:
    """Return how many bytes this process may use at most: those of the machine, or of a cgroup."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *cgroup.memory_limits()])


def cpu_delay_s() -> float:
    """Return the seconds for which this thread was ready to run and had no core.

    That is because others use it; 0 where the kernel does not tell.
    """
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) * 1e-9
    except (OSError, IndexError):
        return 0.0


def process_state(pid: int) -> str:
    """Return what Linux says about a process: running, sleeping, stopped, …"""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return "state unknown"
    return next(
        (line.partition("(")[2].rstrip(")") for line in lines if line.startswith("State")), ""
    )
