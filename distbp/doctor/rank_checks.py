"""Judges ranks and hosts together: whether they connect, and whether they are alike."""

from collections.abc import Iterator, Sequence
from typing import Any

from distbp.doctor.facts import RankFacts, WorldFacts
from distbp.doctor.finding import Finding, problem, warning
from distbp.doctor.host_checks import size
from distbp.training.messages import count

_CONNECTING = (
    "Start them with the launcher of the MPI library above; under SLURM with srun --mpi=pmi2 for "
    "MPICH, --mpi=pmix for Open MPI. Check that hosts resolve each other's names, and that no "
    "firewall is between them."
)
_SLOW_START_S = 10.0
_MAX_CLOCK_OFFSET_S = 1.0
_SAME_SIZE = 1.1  # machines of one kind differ by less
_SIZES = (
    ("memory", "memory", "machine"), ("memory limit", "memory", "limit"),
    ("size of /dev/shm", "shared_memory", "size"), ("free /dev/shm", "shared_memory", "free"),
)  # fmt: skip


def check_start(facts: WorldFacts | None, error: str, ranks: int, is_trial: bool) -> Finding:
    """Judge whether ranks connect to each other.

    Parameters
    ----------
    facts : WorldFacts or None
        None if they did not.
    error : str
        Why not.
    ranks : int
        That were started.
    is_trial : bool
        Whether they were started for this check only.
    """
    if facts is None:
        # A LaunchError says what to do; what MPI has printed does not.
        reason, _, remedy = error.partition(". ") if error.endswith(".") else (error, "", "")
        return problem(
            "ranks", f"{count(ranks, 'rank')} did not connect: {reason or 'no reason is known'}",
            remedy or _CONNECTING,
        )  # fmt: skip
    where = f" on {count(facts.nodes, 'host')}" if facts.nodes > 1 else ""
    how = " (a trial)" if is_trial else ""
    found = f"{count(facts.ranks, 'rank')}{where} connected in {facts.start_s:.1f} s{how}"
    if facts.ranks != ranks:
        return problem(
            "ranks", f"{found}, but {count(ranks, 'rank')} were started",
            "Start all with one launcher, that of the MPI library above.",
        )  # fmt: skip
    if facts.start_s > _SLOW_START_S:
        return warning(
            "ranks", found, "Install Python and distbp on a disk of each host, not on a network."
        )
    return Finding("ranks", found)


def check_alike(ranks: Sequence[RankFacts]) -> Finding:
    """Judge whether all ranks run the same software on the same hardware."""
    texts, is_mixed_mpi = [], False
    for name in _properties(ranks[0]):
        values: dict[str, list[RankFacts]] = {}
        for one in ranks:
            values.setdefault(_properties(one).get(name, "unknown"), []).append(one)
        if len(values) > 1:
            is_mixed_mpi |= name == "MPI"
            parts = (f"{value} on {_where(those)}" for value, those in values.items())
            texts.append(f"{name} {', '.join(parts)}")
    texts += _different_sizes(ranks)
    if not texts:
        hosts = {one.host for one in ranks}
        return Finding("differences", f"none among {count(len(hosts), 'host')}")
    judge = problem if is_mixed_mpi else warning
    return judge(
        "differences", "; ".join(texts),
        "Use the same environment, and the same kind of host, for all ranks: otherwise the "
        "slowest sets the pace, and the last bits may differ.",
    )  # fmt: skip


def _properties(rank: RankFacts) -> dict[str, str]:
    """Return what should be the same on all ranks, by name."""
    areas, found = rank.areas, dict[str, Any]()
    if software := areas.get("software"):
        found |= {"Python": software.python, "distbp": software.distbp}
        found |= {one.name: one.installed for one in software.requirements if not one.extra}
    if compiler := areas.get("compiler"):
        found["Numba"] = compiler.numba
    if mpi := areas.get("mpi"):
        found["MPI"] = mpi.library
    if cores := areas.get("cores"):
        quota = "" if cores.quota is None else f" (quota {cores.quota:g})"
        found |= {"CPU": cores.cpu, "cores": f"{cores.machine}{quota}"}
    if blas := areas.get("blas"):
        found |= {"BLAS": blas.name, "SIMD": blas.simd}
    return {name: value or "none" for name, value in found.items()}


def _different_sizes(ranks: Sequence[RankFacts]) -> Iterator[str]:
    """Yield what memory differs between hosts, by more than alike machines do."""
    for name, area, attribute in _SIZES:
        sizes = {r.host: getattr(r.areas[area], attribute) for r in ranks if area in r.areas}
        if not sizes:
            continue
        least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        if sizes[most] > _SAME_SIZE * sizes[least]:
            yield f"{name} {size(sizes[least])} on {least}, {size(sizes[most])} on {most}"


def _where(ranks: Sequence[RankFacts]) -> str:
    """Return the hosts of some ranks, at most three of them."""
    hosts = list(dict.fromkeys(one.host for one in ranks))
    rest = len(hosts) - 3
    return ", ".join(hosts[:3]) + (f" and {rest} more" if rest > 0 else "")


def check_clocks(facts: WorldFacts, hosts: Sequence[str]) -> Finding:
    """Judge the clocks of the hosts; `hosts` is that of each rank."""
    worst = max(range(len(hosts)), key=lambda rank: abs(facts.clock_offsets_s[rank]))
    offset = facts.clock_offsets_s[worst]
    if abs(offset) <= _MAX_CLOCK_OFFSET_S:
        return Finding("clocks", f"{abs(offset) * 1e3:.0f} ms apart at most")
    where = "ahead of" if offset > 0 else "behind"
    return warning(
        "clocks", f"{hosts[worst]} is {abs(offset):.0f} s {where} {hosts[0]}",
        "Have all hosts set their clocks by NTP.",
    )  # fmt: skip


def check_shared_folders(facts: WorldFacts) -> Finding:
    """Judge whether all hosts see the same files."""
    if not facts.not_shared:
        return Finding("shared folders", "all hosts see the same files")
    texts = [f"{', '.join(hosts)} in {folder}" for folder, hosts in facts.not_shared.items()]
    return problem(
        "shared folders", f"files of rank 0 are not seen by {'; '.join(texts)}",
        "Use a folder that all hosts have mounted for data and runs.",
    )  # fmt: skip
