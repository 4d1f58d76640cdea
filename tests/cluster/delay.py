"""A cable of a fixed one-way delay between two network namespaces: two TUN devices, and this process between them.

python tests/cluster/delay.py MICROSECONDS SPACE_A ADDRESS_A SPACE_B ADDRESS_B, as root: prints "up" when it is, and
ends with its standard input. (The kernel's own delay, netem, is not in every kernel.) Packets wait in a queue until
their time; the last 60 us are looked at without sleeping, for a sleep is no more exact than that. It needs a core while
packets are under way: on two cores, two busy nodes have less than one each.
"""

import collections
import contextlib
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 1, 2, 4
PR_SET_TIMERSLACK = 29
AWAKE_S = 60e-6


def tun(name: str) -> int:
    """Whole segments of up to 64 KiB pass at once, checksums left to whoever reads them at the end."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(file, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
    return file


def set_up(name: str, space: str, address: str, peer: str) -> None:
    for words in (
        ["link", "set", name, "netns", space],
        ["-n", space, "addr", "add", address, "peer", peer, "dev", name],
        ["-n", space, "link", "set", name, "mtu", "9000", "up", "txqueuelen", "5000"],
    ):
        subprocess.run(["ip", *words], check=True)


def carry(files: list[int], delay_s: float) -> None:
    other = {files[0]: files[1], files[1]: files[0]}
    waiting: collections.deque[tuple[float, int, bytes]] = collections.deque()
    while True:
        now = time.perf_counter()
        while waiting and waiting[0][0] <= now:
            _, file, packet = waiting.popleft()
            with contextlib.suppress(OSError):  # a full queue drops, as a switch does
                os.write(file, packet)
        left = waiting[0][0] - now - AWAKE_S if waiting else 1.0
        ready, _, _ = select.select([*files, sys.stdin], [], [], max(0.0, left))
        if sys.stdin in ready and not sys.stdin.read(1):
            return
        due = time.perf_counter() + delay_s
        for file in ready:
            while file in other:
                try:
                    waiting.append((due, other[file], os.read(file, 1 << 17)))
                except BlockingIOError:
                    break


def main() -> None:
    delay_us, space_a, address_a, space_b, address_b = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)  # nanosecond: sleeps end when they should
    names = [f"mt{os.getpid()}{end}" for end in "ab"]
    files = [tun(name) for name in names]
    set_up(names[0], space_a, address_a, address_b)
    set_up(names[1], space_b, address_b, address_a)
    print("up", flush=True)
    carry(files, float(delay_us) * 1e-6)


if __name__ == "__main__":
    main()
