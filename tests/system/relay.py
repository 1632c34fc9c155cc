"""An Ethernet switch with slow links: relay.py READY RATE DELAY NAME=PID …

Kernels without netem cannot delay a frame. Therefore each host gets a TAP device, eth0, and
this program forwards every frame DELAY seconds after it has left the sender's link. All links
carry RATE bits per second (0: unlimited). Frames may be large: segmentation offload is passed
through, so that a large message is a few frames only.
"""

import ctypes
import fcntl
import heapq
import os
import select
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x2, 0x1000, 0x4000
CHECKSUMS, TSO4, TSO6 = 1, 2, 4
CLONE_NEWNET = 0x40000000
PR_SET_TIMERSLACK, PR_SET_PDEATHSIG, SIGKILL = 29, 1, 9
HEADER = 10  # bytes of the virtio header before a frame
MULTICAST = 1  # bit in the first byte of a destination address
libc = ctypes.CDLL(None, use_errno=True)


class Port:
    """The link of a host: until when it is busy, in each direction."""

    def __init__(self, tap: int) -> None:
        self.tap = tap
        self.sending_until = self.receiving_until = 0.0


def enter(namespace: int) -> None:
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def open_tap(pid: str) -> int:
    """Return a new TAP device that is eth0 in the network namespace of a process."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    other = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    enter(other)
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"eth0", flags))
    fcntl.ioctl(tap, TUNSETVNETHDRSZ, struct.pack("i", HEADER))
    fcntl.ioctl(tap, TUNSETOFFLOAD, CHECKSUMS | TSO4 | TSO6)
    enter(own)
    return tap


def relay(ports: dict[int, Port], rate: float, delay: float) -> None:
    """Forward frames until killed."""
    taps, tap_of = list(ports), {}  # tap_of: the device behind which a MAC address is
    queue: list[tuple[float, int, int, bytes]] = []
    count, per_byte = 0, 8.0 / rate if rate else 0.0
    while True:
        wait = max(0.0, queue[0][0] - time.monotonic()) if queue else None
        for tap in select.select(taps, [], [], wait)[0]:
            port = ports[tap]
            for _ in range(16):  # at most, so that no port starves the others
                try:
                    frame = os.read(tap, 70_000)
                except BlockingIOError:
                    break
                except OSError:  # the host has exited
                    taps.remove(tap)
                    break
                now, seconds = time.monotonic(), (len(frame) - HEADER) * per_byte
                start = max(port.sending_until, now)
                port.sending_until = start + seconds
                receiver, sender = frame[HEADER : HEADER + 6], frame[HEADER + 6 : HEADER + 12]
                tap_of[sender] = tap
                is_unicast = not receiver[0] & MULTICAST and receiver in tap_of
                for other in [tap_of[receiver]] if is_unicast else [t for t in taps if t != tap]:
                    arrives = max(start + delay, ports[other].receiving_until) + seconds
                    ports[other].receiving_until = arrives
                    count += 1
                    heapq.heappush(queue, (arrives, count, other, frame))
        while queue and queue[0][0] <= time.monotonic():
            _, _, tap, frame = heapq.heappop(queue)
            with suppress(OSError):  # a full queue drops it, as on a real switch
                os.write(tap, frame)


def main() -> None:
    ready, rate, delay, *hosts = sys.argv[1:]
    libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    ports = {tap: Port(tap) for tap in (open_tap(host.partition("=")[2]) for host in hosts)}
    libc.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with suppress(OSError):  # busy-waiting ranks must not slow the network down
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    Path(ready).touch()
    relay(ports, float(rate), float(delay))


main()
