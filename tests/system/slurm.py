"""A SLURM cluster on one machine: a controller and nodes, each on a simulated host.

It runs Debian's slurmctld, slurmd and munge with a configuration of its own, and is shut down
at the end of the `with` statement. Every node claims to have `cpus` cores, whatever the
machine has.

Jobs in the partition `high` preempt those in `main` and `graced`, which are requeued; those in
`graced` receive SIGTERM first.
"""

import contextlib
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
from ranks import base_environment

CLUSTER_TIMEOUT_S = 180.0  # for all nodes to become idle
JOB_TIMEOUT_S = 600.0  # for a job to end, requeues included
START_INTERVAL_S = 0.7  # between two job starts: slurmd fails when many come at once
FINAL_STATES = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "OUT_OF_MEMORY",
)
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
    """Start a cluster, with a folder for the files of its hosts."""
    with tempfile.TemporaryDirectory(prefix="slurm") as name:
        Path(name).chmod(0o755)  # munge requires that all users can reach its socket
        with Hosts(nodes + 1, folder) as hosts, Slurm(hosts, Path(name), cpus) as slurm:
            yield slurm


class Slurm:
    """A cluster on running hosts, the last of which is the controller.

    Parameters
    ----------
    hosts : Hosts
    folder : path
        For keys, sockets, state and logs; a short path.
    cpus : int
        Per node.

    Attributes
    ----------
    excluded : list of str
        Nodes on which no requeued job may start.
    """

    def __init__(self, hosts: Hosts, folder: Path, cpus: int = 4) -> None:
        self.hosts, self.folder, self.cpus = hosts, folder, cpus
        *self.nodes, self.head = hosts.names
        self.excluded: list[str] = []
        self._released: set[str] = set()
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
        link_pmix()
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
        return len(set(ended.stdout.split()))  # a node is listed for each partition

    def submit(self, script: Path, *options: Any, **variables: str) -> str:
        """Submit a batch script from its folder, with more variables; return the job id."""
        words = ["sbatch", "--parsable", "-D", script.parent, *options, script]
        time.sleep(START_INTERVAL_S)
        return self.run("env", *(f"{k}={v}" for k, v in variables.items()), *words).stdout.strip()

    def about(self, job: str) -> dict[str, str]:
        """Return what SLURM reports about a job: JobState, Restarts, ExitCode and more."""
        text = self.run("scontrol", "show", "job", "-o", job).stdout
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def release_requeued_jobs(self) -> None:
        """Let requeued jobs start soon, on nodes that are up, with a full time limit.

        SLURM would delay them for two minutes, and is slow to notice that a node is down.
        """
        form = "JobArrayID:30,RestartCnt:10"
        for line in self.run("squeue", "-h", "-t", "PENDING", "-O", form).stdout.splitlines():
            job, restarts = line.split()
            if restarts != "0" and line not in self._released:
                self._released.add(line)
                # Not immediately: signals meant for the last start might end this one.
                change = "StartTime=now+4", "TimeLimit=10", "ReqNodeList="
                excluded = f"ExcNodeList={','.join(self.excluded)}"
                self.run("scontrol", "update", f"jobid={job}", *change, excluded)
                time.sleep(START_INTERVAL_S)

    def ended(self, job: str) -> dict[str, str]:
        """Wait for the end of a job; return what SLURM reports about it then."""
        deadline, previous = time.monotonic() + JOB_TIMEOUT_S, ""
        while True:
            about = self.about(job)
            state = about["JobState"]
            if state == "COMPLETED" or (state in FINAL_STATES and state == previous):
                return about  # a job that is being requeued has a final state for a moment
            if time.monotonic() > deadline:
                raise RuntimeError(f"job {job} did not end within {JOB_TIMEOUT_S:g} s: {about}")
            previous = state
            self.release_requeued_jobs()
            time.sleep(0.5)

    def run(
        self, *words: Any, check: bool = True, limit: float = 300
    ) -> subprocess.CompletedProcess:
        """Run one of SLURM's commands on the controller."""
        return subprocess.run(
            [*self.hosts.inside(self.head), *map(str, words)],
            env=base_environment() | {"SLURM_CONF": str(self.configuration)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=check, timeout=limit,
        )  # fmt: skip


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + CLUSTER_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not ready after {CLUSTER_TIMEOUT_S:g} s")
        time.sleep(0.1)


def link_pmix() -> None:
    """Create the link by which Debian's SLURM loads PMIx; only libpmix-dev has it."""
    folder = Path(f"/usr/lib/{platform.machine()}-linux-gnu/pmix2/lib")
    link = folder / "libpmix.so"
    if (folder / "libpmix.so.2").exists():
        with contextlib.suppress(FileExistsError):
            link.symlink_to("libpmix.so.2")
