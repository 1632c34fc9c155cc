"""From ranks and folders to findings: what is gathered where, and which check sees what.

An `Examination` is all that is known, before it is judged. `examine` gathers it, in one of three
ways: alone, where two ranks are started as a trial; with `--ranks`, where those are started; and
as one of the ranks that a launcher has started, of which the first one reports.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from distbp.doctor import (
    host_checks,
    rank_checks,
    software_checks,
    speed_checks,
    storage_checks,
)
from distbp.doctor.facts import RankFacts, WorldFacts, parse_area
from distbp.doctor.finding import Finding, merge_hosts, problem
from distbp.doctor.probe import HOST_AREAS, RANK_AREAS, WORLD
from distbp.doctor.probing import Answers, probe_as_rank, probe_here, probe_on_ranks
from distbp.parallel.environment import LaunchEnvironment

_TRIAL_RANKS = 2


@dataclass(frozen=True)
class Examination:
    """All that is known, before it is judged.

    Attributes
    ----------
    ranks : list of RankFacts
        At least one.
    started : int
        The number of ranks that were started; 0 if none were.
    is_trial : bool
        Whether they were started for the examination only.
    world : WorldFacts or None
        What they have measured together; None if they could not.
    world_error : str
        Why not.
    """

    ranks: list[RankFacts]
    started: int = 0
    is_trial: bool = False
    world: WorldFacts | None = None
    world_error: str = ""

    @property
    def hosts(self) -> dict[str, list[RankFacts]]:
        """Return the ranks of each host."""
        found: dict[str, list[RankFacts]] = {}
        for rank in self.ranks:
            found.setdefault(rank.host, []).append(rank)
        return found


def examine(folders: Sequence[str], ranks: int | None = None) -> Examination | None:
    """Return what is known about this process's ranks and their hosts.

    Parameters
    ----------
    folders : sequence of str
        To try.
    ranks : int, optional
        To start on this host; by default two, as a trial, and none if it is 1.

    Returns
    -------
    Examination or None
        None on all but one of the ranks that a launcher has started.
    """
    launch = LaunchEnvironment.from_environ()
    is_starting = ranks is not None and ranks > 1
    if launch.has_launcher and not is_starting:
        return _examine_launched(launch, folders)
    if ranks is not None and is_starting:
        here = probe_here(HOST_AREAS, folders)
        return _with_world(here, probe_on_ranks(ranks, RANK_AREAS, folders), ranks, folders)
    here = probe_here([*RANK_AREAS, *HOST_AREAS], folders)
    has_mpi = bool(here.facts.get("mpi", {}).get("launcher"))
    if ranks == 1 or not has_mpi:  # what is missing is found without a trial
        return Examination([_rank_facts(here)])
    trial = probe_on_ranks(_TRIAL_RANKS, (), folders)
    return _examination([_rank_facts(here)], trial, _TRIAL_RANKS, is_trial=True)


def _examine_launched(launch: LaunchEnvironment, folders: Sequence[str]) -> Examination | None:
    """Return what the ranks of a launcher know, on its first one; collective."""
    here = probe_here(HOST_AREAS if launch.local_rank == 0 else (), folders)
    answers = probe_as_rank(RANK_AREAS, folders, _rank_facts(here).to_json())
    if launch.launcher_rank != 0:
        return None
    if WORLD not in answers.facts:  # each rank for itself, then
        return _with_world(here, answers, launch.ranks_started, folders)
    ranks = [RankFacts.from_json(one) for one in answers.facts[WORLD]["ranks"]]
    return _examination(ranks, answers, launch.ranks_started)


def _with_world(
    here: Answers, answers: Answers, started: int, folders: Sequence[str]
) -> Examination:
    """Return what is known about this host and the ranks on it, if they have answered."""
    if WORLD not in answers.facts:
        alone = probe_here(RANK_AREAS, folders)
        here = Answers(here.facts | alone.facts, here.failures | alone.failures)
        return _examination([_rank_facts(here)], answers, started)
    first, *others = (RankFacts.from_json(one) for one in answers.facts[WORLD]["ranks"])
    return _examination([_joined(first, _rank_facts(here)), *others], answers, started)


def _joined(one: RankFacts, other: RankFacts) -> RankFacts:
    """Return the facts of a rank, with those that another one has found on the same host."""
    return replace(
        one, areas={**other.areas, **one.areas}, failures={**other.failures, **one.failures}
    )


def _examination(
    ranks: list[RankFacts], answers: Answers, started: int, is_trial: bool = False
) -> Examination:
    hosts: dict[str, RankFacts] = {}
    for one in ranks:
        hosts[one.host] = _joined(one, hosts.get(one.host, one))
    ranks = [_joined(one, hosts[one.host]) for one in ranks]
    if WORLD not in answers.facts:
        error = answers.failures.get(WORLD, "")
        return Examination(ranks, started, is_trial, None, error)
    world = parse_area(WORLD, answers.facts[WORLD]["together"])
    return Examination(ranks, started, is_trial, world)


def _rank_facts(answers: Answers) -> RankFacts:
    areas = {name: parse_area(name, one) for name, one in answers.facts.items()}
    return RankFacts(0, platform.node(), areas, answers.failures)


# Of a host: an area, and what judges its facts and the number of ranks that are meant to run.
_HostCheck = Callable[[Any, int], Finding]
_HOST_CHECKS: tuple[tuple[str, _HostCheck], ...] = (
    ("software", lambda facts, ranks: software_checks.check_python(facts)),
    ("software", lambda facts, ranks: software_checks.check_libraries(facts)),
    ("software", lambda facts, ranks: software_checks.check_extras(facts)),
    ("compiler", lambda facts, ranks: software_checks.check_compiler(facts)),
    ("mpi", software_checks.check_mpi_library),
    ("mpi", lambda facts, ranks: software_checks.check_launcher(facts)),
    ("mpi", lambda facts, ranks: software_checks.check_fault_tolerance(facts)),
    ("cores", lambda facts, ranks: host_checks.check_load(facts)),
    ("memory", host_checks.check_memory),
    ("limits", host_checks.check_limits),
    ("shared_memory", lambda facts, ranks: host_checks.check_shared_memory(facts)),
    ("shared_memory", lambda facts, ranks: host_checks.check_leftovers(facts)),
    ("blas", lambda facts, ranks: speed_checks.check_blas(facts)),
    ("blas", lambda facts, ranks: speed_checks.check_kernels(facts)),
    ("blas", speed_checks.check_threads),
)
_FOLDER_CHECKS = (
    storage_checks.check_file_system,
    storage_checks.check_space,
    storage_checks.check_locks,
    storage_checks.check_replacing,
    storage_checks.check_file_times,
    storage_checks.check_hdf5,
)
# What the table calls an area of which nothing is known, and what may help.
_AREA_REMEDIES = {
    "software": "Install distbp again.",
    "compiler": "Install Numba again, or do without: pip uninstall numba.",
    "mpi": "Install an MPI library: pip install mpich.",
    "blas": "Install NumPy again: pip install --force-reinstall numpy.",
    "speed": "Install NumPy again: pip install --force-reinstall numpy.",
    "storage": "Choose other folders: this file system does not respond.",
}


def judge(found: Examination) -> list[Finding]:
    """Return the findings about an examination, in the order of the table."""
    return [*_failures(found), *_of_hosts(found), *_of_folders(found), *_of_ranks(found)]


def _failures(found: Examination) -> Iterator[Finding]:
    """Yield what could not be looked at."""
    areas = dict.fromkeys(area for rank in found.ranks for area in rank.failures)
    for area in areas:
        failed = [(one.host, one.failures[area]) for one in found.ranks if area in one.failures]
        remedy = _AREA_REMEDIES.get(area, "See what the message says.")
        yield merge_hosts([(h, problem(area.replace("_", " "), why, remedy)) for h, why in failed])


def _of_hosts(found: Examination) -> Iterator[Finding]:
    """Yield what is judged host by host."""
    for area, check in _HOST_CHECKS:
        if area == "cores":
            yield from _of_cores(found)
        facts = {h: ranks[0].areas[area] for h, ranks in found.hosts.items()
                 if area in ranks[0].areas}  # fmt: skip
        if facts:
            yield merge_hosts([(h, check(one, _ranks_meant(found, h))) for h, one in facts.items()])


def _ranks_meant(found: Examination, host: str) -> int:
    """Return how many ranks of a host the user has asked for, as far as that is known."""
    if found.is_trial or found.world is None:
        return 1 if found.is_trial else max(found.started, 1)
    return len(found.hosts[host])


def _of_cores(found: Examination) -> Iterator[Finding]:
    """Yield what all ranks of a host together have of its processor."""
    by_host: Mapping[str, list[Any]] = {
        host: [one.areas["cores"] for one in ranks if "cores" in one.areas]
        for host, ranks in found.hosts.items()
    }
    for check in (host_checks.check_cores, host_checks.check_quota):
        if findings := [(host, check(cores)) for host, cores in by_host.items() if cores]:
            yield merge_hosts(findings)


def _of_folders(found: Examination) -> Iterator[Finding]:
    """Yield what is judged folder by folder, on each host."""
    storages = {
        host: ranks[0].areas["storage"].folders
        for host, ranks in found.hosts.items()
        if "storage" in ranks[0].areas
    }
    for index in range(min(map(len, storages.values()), default=0)):
        for check in _FOLDER_CHECKS:
            known = [(host, one[index]) for host, one in storages.items()]
            if check is not storage_checks.check_file_system:  # which tells the error itself
                known = [(host, one) for host, one in known if not one.error]
            if known:
                yield merge_hosts([(host, check(one)) for host, one in known])


def _of_ranks(found: Examination) -> Iterator[Finding]:
    """Yield what is judged of all ranks together."""
    if found.started:
        start = partial(rank_checks.check_start, found.world, found.world_error)
        yield start(found.started, found.is_trial)
    names = [f"rank {one.rank} on {one.host}" for one in found.ranks]
    speeds = [
        (name, one.areas["speed"])
        for name, one in zip(names, found.ranks, strict=True)
        if "speed" in one.areas
    ]
    if speeds:
        yield speed_checks.check_matrix_products(speeds)
        yield speed_checks.check_memory_bandwidth(speeds)
    if found.world is not None and found.world.ranks > 1:
        yield speed_checks.check_reduction(found.world)
    if len(found.ranks) > 1:
        yield rank_checks.check_alike(found.ranks)
    if found.world is not None and found.world.nodes > 1:
        yield speed_checks.check_network(found.world)
        yield rank_checks.check_clocks(found.world, [one.host for one in found.ranks])
        yield rank_checks.check_shared_folders(found.world)
