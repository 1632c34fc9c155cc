"""Simulated hosts on one machine, on network links that can be slow, or disconnected.

A host is a process with network, mount, IPC and host-name namespaces of its own, and thus with
an address, /etc/hosts and /dev/shm of its own. Files, users and process ids are shared with the
machine. The links end in a bridge, or in a `relay` if they have a delay. It has a namespace
too: nothing is added to the machine's network, and no host can reach it. Requires root.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RELAY = Path(__file__).with_name("relay.py")
PREFIX = "10.77.0."
START_TIMEOUT_S = 60.0  # for the relay

# The process that keeps the namespaces of a host: it prints "ready" and sleeps.
HOLD_SCRIPT = """
hostname "$1" && ip link set lo up && mount -t tmpfs -o mode=1777 tmpfs /dev/shm &&
mount --bind "$2" /etc/hosts && echo ready && exec sleep infinity
"""
RSH_SCRIPT = """#!/bin/sh
# Replaces ssh between the hosts: runs a shell command in an empty environment.
while :; do case $1 in -[lpioFbcDEeIJLmOQRSWw]) shift 2 ;; -*) shift ;; *) break ;; esac done
case $1 in
{cases}
*) echo "no host $1" >&2; exit 255 ;;
esac
shift
exec nsenter -t "$pid" -n -u -i -m --wd=/ -- env -i HOME="$HOME" USER=root \\
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /bin/sh -c "$*"
"""


def can_make_hosts() -> bool:
    """Return whether this machine allows it: root, and namespaces in the kernel."""
    tried = subprocess.run(
        ["unshare", "--net", "--uts", "--ipc", "--mount", "ip", "link", "set", "lo", "up"],
        capture_output=True, check=False,
    ) if os.geteuid() == 0 else None  # fmt: skip
    return tried is not None and tried.returncode == 0


class Hosts:
    """Hosts n1, n2, …, in a `with` statement.

    Parameters
    ----------
    count : int
    folder : path
        For their files; a short path, not shared with other hosts.
    rate : float, optional
        Of a link, in bits per second and direction.
    delay : float, optional
        Of a link, in seconds and direction.
    """

    def __init__(
        self, count: int, folder: Path, rate: float | None = None, delay: float | None = None
    ) -> None:
        self.names = [f"n{i + 1}" for i in range(count)]
        self.folder, self.rate, self.delay = folder, rate, delay
        self._holders: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> "Hosts":
        self.folder.mkdir(parents=True, exist_ok=True)
        names = [*self.names, "switch"]
        lines = "".join(f"{self.address(name)} {name}\n" for name in names)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{lines}")
        try:
            for name in names:
                self._hold(name)
            self._connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        for name in {*self.names, "switch"} & set(self._holders):
            self.kill(name)
        for holder in self._holders.values():
            holder.kill()
            holder.wait()
            if holder.stdout:
                holder.stdout.close()
        self._holders.clear()

    def _hold(self, name: str) -> None:
        words = ["sh", "-c", HOLD_SCRIPT, "sh", name, self.folder / "hosts"]
        self._holders[name] = holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--uts", "--ipc", "--mount",
             "--propagation", "private", "--", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True, text=True,
        )  # fmt: skip
        assert holder.stdout is not None
        if holder.stdout.readline() != "ready\n":
            raise RuntimeError(f"host {name} did not start")

    def _connect(self) -> None:
        if self.delay is None:
            self._run("switch", "ip link add br0 type bridge forward_delay 0")
            self._run(
                "switch", f"ip link set br0 up; ip addr add {self.address('switch')}/24 dev br0"
            )
            for name in self.names:
                pid = self._holders[name].pid
                self._run("switch", f"ip link add p-{name} type veth peer name eth0 netns {pid}")
                self._run("switch", f"ip link set p-{name} master br0 up")
        else:
            ready = self.folder / "relay-ready"
            ready.unlink(missing_ok=True)
            ports = [f"{name}={self._holders[name].pid}" for name in self.names]
            words = [ready, self.rate or 0, self.delay, *ports]
            self._holders["relay"] = subprocess.Popen(
                [*self.inside("switch"), sys.executable, RELAY, *map(str, words)],
                stdin=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            deadline = time.monotonic() + START_TIMEOUT_S
            while not ready.exists():
                if time.monotonic() > deadline:
                    raise RuntimeError("the relay did not start")
                time.sleep(0.02)
        for name in self.names:
            self._run(name, f"ip link set eth0 up; ip addr add {self.address(name)}/24 dev eth0")
            if self.rate and self.delay is None:
                shape = f"root tbf rate {self.rate:.0f} burst 256kb latency 50ms"
                self._run(name, f"tc qdisc add dev eth0 {shape}")
                self._run("switch", f"tc qdisc add dev p-{name} {shape}")

    def _run(self, name: str, line: str) -> None:
        subprocess.run([*self.inside(name), "sh", "-e", "-c", line], check=True)

    def address(self, name: str) -> str:
        return PREFIX + ("254" if name == "switch" else name[1:])

    def inside(self, name: str) -> list[str]:
        """Return the prefix of a command that runs it on a host."""
        pid = str(self._holders[name].pid)
        return ["nsenter", "-t", pid, "-n", "-u", "-i", "-m", f"--wd={Path.cwd()}", "--"]

    def processes(self, name: str) -> list[int]:
        """Return the processes on a host, without the one that keeps its namespaces."""
        holder = self._holders[name].pid
        namespace, found = os.readlink(f"/proc/{holder}/ns/net"), []
        for path in Path("/proc").glob("[0-9]*/ns/net"):
            try:
                if os.readlink(path) == namespace:
                    found.append(int(path.parts[2]))
            except OSError:  # it has exited
                continue
        return [pid for pid in found if pid != holder]

    def kill(self, name: str) -> None:
        """Kill all processes of a host, as a power failure does."""
        for pid in self.processes(name):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def set_link(self, name: str, is_up: bool) -> None:
        """Disconnect a host from the network, or connect it again."""
        self._run(name, f"ip link set eth0 {'up' if is_up else 'down'}")

    def bytes_sent(self, name: str) -> int:
        """Return the number of bytes that a host has sent so far."""
        text = subprocess.run(
            [*self.inside(name), "cat", "/proc/net/dev"], capture_output=True, text=True, check=True
        ).stdout
        line = next(line for line in text.splitlines() if line.strip().startswith("eth0:"))
        return int(line.split(":")[1].split()[8])

    def mpirun(
        self,
        bin_folder: Path,
        layout: Sequence[int],
        words: Sequence[Any],
        fault_tolerant: bool = False,
    ) -> list[str]:
        """Return the command that starts `layout[i]` ranks on the i-th host.

        `words` is the program by its full path, its arguments, and in front of it the
        environment that it needs (`environment`), because ssh passes none on.
        `fault_tolerant` lets Open MPI continue after a rank failure.
        """
        names = self.names[: len(layout)]
        rsh = self.folder / "rsh"
        cases = "\n".join(
            f"{name} | {self.address(name)}) pid={self._holders[name].pid} ;;"
            for name in self.names
        )
        rsh.write_text(RSH_SCRIPT.format(cases=cases))
        rsh.chmod(0o755)
        is_openmpi = (bin_folder / "prterun").exists()
        # Programs of both MPIs may run at the same time.
        file = self.folder / f"layout-{'-'.join(map(str, layout))}-{is_openmpi:d}"
        line = "{} slots={}\n" if is_openmpi else "{}:{}\n"
        file.write_text("".join(line.format(*pair) for pair in zip(names, layout, strict=True)))
        if is_openmpi:
            launcher = [
                *("mpirun", "--hostfile", file),
                *("--mca", "plm", "ssh", "--mca", "plm_ssh_agent", rsh),
                *("--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "-np", sum(layout)),
                *(("--with-ft", "ulfm") if fault_tolerant else ()),
            ]
        else:
            launcher = [
                *("mpiexec", "-f", file, "-launcher", "ssh", "-launcher-exec", rsh),
                *("-iface", "eth0", "-n", sum(layout)),
            ]
        program, *options = launcher
        return [*self.inside(names[0]), *map(str, [bin_folder / program, *options, *words])]


def environment(**variables: str) -> list[str]:
    """Return the prefix of a command that sets variables, to be started over ssh."""
    variables = {"DISTBP_ENGINE": os.environ.get("DISTBP_ENGINE", "auto")} | variables
    return ["/usr/bin/env", *(f"{name}={value}" for name, value in variables.items())]


def quoted(words: Sequence[Any]) -> str:
    """Return a command quoted for the shell."""
    return shlex.join(map(str, words))
