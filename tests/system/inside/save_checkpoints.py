"""Save checkpoints while something goes wrong, and report which files exist afterwards.

    save_checkpoints.py killed FOLDER TIMES     SIGKILL at random times in a loop of saves
    save_checkpoints.py refused FOLDER CAUSE    save when the system refuses to write

Prints one JSON object.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distbp.errors import DistbpError
from distbp.network.network import Network
from distbp.storage.checkpoint import Checkpoint, describe_network, read_checkpoint
from distbp.storage.run_directory import RunDirectory, read_newest_checkpoint
from distbp.storage.scaling import Scaling

NOBODY_UID = 65534


def make(steps: int) -> Checkpoint:
    """Return a checkpoint of 1 MB whose parameters and state all equal its number of steps."""
    network = Network((400, 200, 10))
    network.theta[...] = steps
    state = {name: np.full_like(network.theta, steps) for name in ("first_moment", "second_moment")}
    about = {
        "network": describe_network(network), "task": "", "classes": [], "data": {},
        "config": {"optimizer": "adam", "threads": 1}, "progress": {"steps": steps},
        "machine": {}, "versions": {},
    }  # fmt: skip
    return Checkpoint(network, state, Scaling(np.zeros(1), np.ones(1)), about)


def steps_of(found: Checkpoint) -> int:
    """Return the number of steps of a checkpoint, after checking that all its arrays equal it."""
    steps: int = found.about["progress"]["steps"]
    for array in (found.network.theta, *found.state.values()):
        if not (array == steps).all():
            raise ValueError(f"arrays belong to another step than {steps}")
    return steps


def killed(folder: RunDirectory, times: str) -> dict[str, Any]:
    """Kill a process that saves checkpoints, repeatedly, and check the files each time."""
    folder.create()
    began = time.monotonic()
    folder.save(make(1), is_best=True)
    window = 6 * (time.monotonic() - began)
    done, strays = 1, 0
    for number in range(int(times)):
        acknowledged = max(done, save_until_killed(folder, done, window))
        strays += len(temporaries(folder))
        # As the next start of the run does.
        folder.remove_temporary_files()
        if left := temporaries(folder):
            raise ValueError(f"{left} were not removed")
        found, messages = read_newest_checkpoint(folder.path)
        done = steps_of(found)
        if messages or done < acknowledged:
            raise ValueError(f"kill {number}: {done} < {acknowledged}, {messages}")
        for path in folder.path.rglob("*.h5"):
            steps_of(read_checkpoint(path))
    return {"kills": int(times), "steps": done, "strays": strays}


def save_until_killed(folder: RunDirectory, done: int, window: float) -> int:
    """Kill a child that saves one checkpoint after the other; return the last acknowledged one."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        for steps in range(done + 1, done + 10_000):
            folder.save(make(steps), is_best=steps % 3 == 0)
            os.write(writing, f"{steps}\n".encode())
        os._exit(1)
    os.close(writing)
    time.sleep(random.uniform(0.0, window))  # noqa: S311
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(reading, "rb") as pipe:
        return max([0, *map(int, pipe.read().split())])


def temporaries(folder: RunDirectory) -> list[str]:
    return [path.name for path in folder.path.rglob("*.tmp")]


def fill_the_disk(folder: Path) -> None:
    with (folder / "junk").open("wb", buffering=0) as junk:
        try:
            while junk.write(bytes(4096)):
                pass
        except OSError:
            junk.truncate(max(0, junk.tell() - 100_000))


def make_read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)


def limit_files(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))


def limit_descriptors(folder: Path) -> None:
    free = os.open("/", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (free, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )


def become_nobody(folder: Path) -> None:
    """Give up write permission in the folders, also as root."""
    for path in (folder, *folder.rglob("*/")):
        path.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(NOBODY_UID)


def lift_limits() -> None:
    os.seteuid(os.getuid())
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (hard, hard))


CAUSES: dict[str, Callable[[Path], None]] = {
    "full": fill_the_disk,
    "read-only": make_read_only,
    "file size": limit_files,
    "descriptors": limit_descriptors,
    "permission": become_nobody,
}


def refused(folder: RunDirectory, cause: str) -> dict[str, Any]:
    """Save once, and again when the system refuses it; report which files exist then."""
    folder.create()
    folder.save(make(1), is_best=True)
    CAUSES[cause](folder.path)
    message = ""
    try:
        folder.save(make(2), is_best=True)
    except DistbpError as error:
        message = str(error)
    lift_limits()
    found, messages = read_newest_checkpoint(folder.path)
    return {
        "message": message,
        "steps": steps_of(found),
        "best": steps_of(read_checkpoint(folder.path / "best.h5")),
        "messages": messages,
        "files": sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*.*")),
    }


def main(mode: str, folder: str, argument: str) -> None:
    function = {"killed": killed, "refused": refused}[mode]
    print(json.dumps(function(RunDirectory(Path(folder), keep=2), argument)))


if __name__ == "__main__":
    main(*sys.argv[1:])
