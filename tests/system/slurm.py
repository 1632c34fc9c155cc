"""A SLURM cluster on one machine: a controller and nodes, each on a host of its own.

Debian's slurmctld, slurmd and munge, with a configuration of their own. Every node says
that it has `cpus` cores, whatever the machine has. Ends with the `with` statement.

Jobs of the partition `high` preempt those of `main`, which are put back into the queue;
those of `graced` are told by SIGTERM first.
"""

import contextlib
import os
import platform
import resource
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hosts import Hosts

UP = 40.0  # seconds for all nodes to be idle
JOB = 100.0  # seconds for a job to end, however often it is put back into the queue
PACE = 0.7  # seconds from one start to the next: a slurmd does not always bear many at once
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")
PROGRAMS = ("/usr/sbin/slurmctld", "/usr/sbin/slurmd", "/usr/sbin/munged")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={head}({head_address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
TmpFS={folder}/tmp/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
ReturnToService=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=3600
KillWait=5
CompleteWait=0
SlurmctldTimeout=10
SlurmdTimeout=10
NodeName={nodes} NodeAddr={addresses} CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=DEFAULT Nodes=ALL MaxTime=60 DefaultTime=10 State=UP
PartitionName=main Default=YES PriorityTier=1 PreemptMode=REQUEUE
PartitionName=graced PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high PriorityTier=10 PreemptMode=OFF
"""


def has_slurm() -> bool:
    """Return whether Debian's packages are installed: slurmctld, slurmd, munge."""
    return all(Path(program).exists() for program in PROGRAMS)


@contextlib.contextmanager
def cluster(nodes: int, folder: Path, cpus: int = 4) -> Iterator["Slurm"]:
    """Let there be a cluster, with a folder for its hosts."""
    with tempfile.TemporaryDirectory(prefix="slurm") as name:
        Path(name).chmod(0o755)  # munge wants everybody to reach its socket
        with Hosts(nodes + 1, folder) as hosts, Slurm(hosts, Path(name), cpus) as up:
            yield up


class Slurm:
    """A cluster on hosts that are up: the last one is the controller's.

    Parameters
    ----------
    hosts : Hosts
    folder : path
        For keys, sockets, state and logs; short.
    cpus : int
        Of a node.

    Attributes
    ----------
    avoided : list of str
        Nodes on which no job is to start again.
    """

    def __init__(self, hosts: Hosts, folder: Path, cpus: int = 4) -> None:
        self.hosts, self.folder, self.cpus = hosts, folder, cpus
        *self.nodes, self.head = hosts.names
        self.avoided: list[str] = []
        self._hurried: set[str] = set()
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Slurm":
        folder, hosts = self.folder, self.hosts
        for name in (
            "state",
            *(f"spool/{n}" for n in self.nodes),
            *(f"tmp/{n}" for n in self.nodes),
        ):
            (folder / name).mkdir(parents=True)
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o600)
        self.configuration.write_text(
            CONFIGURATION.format(
                head=self.head,
                head_address=hosts.address(self.head),
                folder=folder,
                nodes=",".join(self.nodes),
                addresses=",".join(map(hosts.address, self.nodes)),
                cpus=self.cpus,
            )
        )
        make_pmix_found()
        try:
            self._start(
                "/usr/sbin/munged", "-F", "-S", folder / "munge.sock",
                f"--key-file={folder}/munge.key", f"--pid-file={folder}/munged.pid",
                f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munged.log",
            )  # fmt: skip
            wait_for(lambda: (folder / "munge.sock").exists(), "munged")
            inside = hosts.inside(self.head)
            self._start(*inside, "/usr/sbin/slurmctld", "-D", "-c", "-f", self.configuration)
            for node in self.nodes:
                words = ["/usr/sbin/slurmd", "-D", "-N", node, "-f", self.configuration]
                self._start(*hosts.inside(node), *words)
            wait_for(lambda: self._idle() == len(self.nodes), "all nodes of SLURM")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        for name in self.hosts.names:
            self.hosts.kill(name)
        for daemon in self._daemons:
            daemon.kill()
            daemon.wait()
        self._daemons.clear()

    @property
    def configuration(self) -> Path:
        return self.folder / "slurm.conf"

    def _start(self, *words: Any) -> None:
        with (self.folder / "daemons.log").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", *map(str, words)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
                )
            )  # fmt: skip

    def _idle(self) -> int:
        ended = self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", check=False)
        return len(set(ended.stdout.split()))  # one of each partition

    def submit(self, script: Path, *options: Any, **variables: str) -> str:
        """Submit a batch script from its folder, with more variables; return the job's number."""
        words = ["sbatch", "--parsable", "-D", script.parent, *options, script]
        time.sleep(PACE)
        return self.run("env", *(f"{k}={v}" for k, v in variables.items()), *words).stdout.strip()

    def about(self, job: str) -> dict[str, str]:
        """Return what SLURM knows of a job: JobState, Restarts, ExitCode and more."""
        text = self.run("scontrol", "show", "job", "-o", job).stdout
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def hurry(self) -> None:
        """Let the jobs that were put back start soon, on nodes that live, and have time.

        SLURM would let them wait for two minutes, and notices late that a node is lost.
        """
        form = "JobArrayID:30,RestartCnt:10"
        for line in self.run("squeue", "-h", "-t", "PENDING", "-O", form).stdout.splitlines():
            job, restarts = line.split()
            if restarts != "0" and line not in self._hurried:
                self._hurried.add(line)
                # At once is too soon: what was sent for the last start may end this one.
                change = "StartTime=now+4", "TimeLimit=10", "ReqNodeList="
                avoided = f"ExcNodeList={','.join(self.avoided)}"
                self.run("scontrol", "update", f"jobid={job}", *change, avoided)
                time.sleep(PACE)

    def ended(self, job: str) -> dict[str, str]:
        """Wait for the end of a job; return what is known of it then."""
        until, before = time.monotonic() + JOB, ""
        while True:
            about = self.about(job)
            state = about["JobState"]
            if state == "COMPLETED" or (state in ENDS and state == before):
                return about  # a job that is put back may look as if it had ended, for a moment
            if time.monotonic() > until:
                raise RuntimeError(f"job {job} has not ended: {about}")
            before = state
            self.hurry()
            time.sleep(0.5)

    def run(
        self, *words: Any, check: bool = True, limit: float = 90
    ) -> subprocess.CompletedProcess:
        """Run a client of SLURM on the controller's host."""
        return subprocess.run(
            [*self.hosts.inside(self.head), *map(str, words)],
            env=os.environ | {"SLURM_CONF": str(self.configuration)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=check, timeout=limit,
        )  # fmt: skip


def wait_for(is_there, what: str) -> None:
    until = time.monotonic() + UP
    while not is_there():
        if time.monotonic() > until:
            raise RuntimeError(f"{what}: not there after {UP:g} s")
        time.sleep(0.1)


def make_pmix_found() -> None:
    """Make the link by which Debian's SLURM opens PMIx; only libpmix-dev has it."""
    folder = Path(f"/usr/lib/{platform.machine()}-linux-gnu/pmix2/lib")
    link = folder / "libpmix.so"
    if not link.exists() and (folder / "libpmix.so.2").exists():
        link.symlink_to("libpmix.so.2")
