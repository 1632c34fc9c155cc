"""What a probe process does: gather the facts of some areas, and write each to a file at once.

A probe is `distbp doctor --probe REQUEST.json`, started by `probing`, alone or on all ranks.
Whatever happens to it, what it had found until then is in the file, a line of JSON each:

    {"begin": AREA}                  before it looks
    {"area": AREA, "facts": {…}}     what it has found
    {"area": AREA, "error": "…"}     why it has found nothing
"""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from distbp import kernels
from distbp.doctor.facts import RankFacts, parse_area
from distbp.errors import LaunchError
from distbp.kernels import Cpu
from distbp.parallel import mpi
from distbp.parallel.environment import LaunchEnvironment

# The areas that depend on the rank, and not on its host alone.
RANK_AREAS = ("cores", "blas", "speed")
HOST_AREAS = (
    "software", "mpi", "memory", "limits", "shared_memory", "storage", "compiler",
)  # fmt: skip
WORLD = "world"


@dataclass(frozen=True)
class Request:
    """What a probe is asked for, as JSON in a file.

    Attributes
    ----------
    result : str
        The file for the result; on several ranks their numbers are added to its name.
    areas : list of str
    folders : list of str
        To try.
    is_collective : bool
        Whether the probe is one of several ranks, which also measure together.
    host_facts : dict
        What is known about this host already, for the other ranks: as `RankFacts.to_json`.
    """

    result: str
    areas: list[str]
    folders: list[str]
    is_collective: bool = False
    host_facts: dict[str, Any] = field(default_factory=dict)

    def result_file(self, rank: int) -> Path:
        """Return the file that a rank writes to, by the launcher's number."""
        return Path(f"{self.result}-{rank}")


def run_probe(request_file: str) -> None:
    """Gather what a request asks for."""
    request = Request(**json.loads(Path(request_file).read_text("utf-8")))
    rank = LaunchEnvironment.from_environ().launcher_rank if request.is_collective else 0
    with request.result_file(rank).open("a", encoding="utf-8") as file:

        def write(**entry: Any) -> None:
            file.write(json.dumps(entry) + "\n")
            file.flush()

        if request.is_collective:
            write(begin=WORLD)
            write(area=WORLD, **_attempt(partial(_meet, request)))
            return
        kernels.select(kernels.NATIVE, [Cpu.detect(os.environ)], os.environ)
        for area in request.areas:
            write(begin=area)
            write(area=area, **_attempt(partial(_gather_json, area, request.folders)))


def _attempt(function: Callable[[], Any]) -> dict[str, Any]:
    """Return what a function returns as `facts`, or why it could not as `error`."""
    try:
        return {"facts": function()}
    except LaunchError as error:
        return {"error": str(error)}
    except Exception as error:  # a finding, whatever it is
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _gather(area: str, folders: Sequence[str]) -> Any:
    """Return the facts of an area, of which only this imports what is needed."""
    if area in ("software", "compiler", "mpi"):
        from distbp.doctor import software_probe

        return {
            "software": software_probe.software_facts, "mpi": software_probe.mpi_facts,
            "compiler": software_probe.compiler_facts,
        }[area]()  # fmt: skip
    if area in ("blas", "speed"):
        from distbp.doctor import speed_probe

        return {"blas": speed_probe.blas_facts, "speed": speed_probe.speed_facts}[area]()
    if area == "storage":
        from distbp.doctor.storage_probe import storage_facts

        return storage_facts(folders)
    from distbp.doctor import host_probe

    return {
        "cores": host_probe.core_facts, "memory": host_probe.memory_facts,
        "limits": host_probe.limit_facts, "shared_memory": host_probe.shared_memory_facts,
    }[area]()  # fmt: skip


def _gather_json(area: str, folders: Sequence[str]) -> dict[str, Any]:
    return asdict(_gather(area, folders))


def _meet(request: Request) -> dict[str, Any]:
    """Return the facts of all ranks, and those that they have measured together; collective."""
    began = time.monotonic()
    cpus = [Cpu.detect(os.environ)]
    if not mpi.is_launcher_refused(LaunchEnvironment.from_environ()):
        cpus = [Cpu.from_text(text) for text in mpi.allgather_text(cpus[0].to_text())]
    kernels.select(kernels.NATIVE, cpus, os.environ)  # before NumPy is loaded
    from distbp.doctor.speed_probe import world_facts
    from distbp.parallel.topology import connect

    comm = connect()
    start_s = time.monotonic() - began
    areas, failures = dict[str, Any](), dict[str, str]()
    for area in request.areas:
        comm.world.barrier()  # all ranks compute at the same time
        found = _attempt(partial(_gather, area, request.folders))
        areas |= {area: found["facts"]} if "facts" in found else {}
        failures |= {area: found["error"]} if "error" in found else {}
    together = world_facts(comm, start_s, request.folders)
    known = request.host_facts
    areas |= {name: parse_area(name, one) for name, one in known.get("areas", {}).items()}
    own = RankFacts(
        comm.rank, platform.node(), areas, failures | known.get("failures", {})
    ).to_json()
    return {"ranks": comm.world.allgather(own), "together": asdict(together)}
