"""Several hosts on one machine: network namespaces on one bridge, each with a cable that can be pulled. Takes root.

`with netlab("a", "b", "c") as hosts`: each has an address of its own, and is removed at the end; what an earlier run
that was killed left behind is removed at the start, by its prefix and the process that is no more.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "motley-"
NETS = Path("/run/netns")
DELAY = Path(__file__).with_name("delay.py")
_labs = itertools.count(1)


@dataclass(frozen=True)
class Host:
    name: str
    space: str  # the namespace
    address: str

    def popen(self, words: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(["ip", "netns", "exec", self.space, *words], **options)

    def run(self, words: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["ip", "netns", "exec", self.space, *words], capture_output=True, text=True, **options)

    def set_mtu(self, n_bytes: int) -> None:
        _ip("-n", self.space, "link", "set", "eth0", "mtu", str(n_bytes))

    def pull_cable(self) -> None:
        _ip("-n", self.space, "link", "set", "eth0", "down")

    def plug_cable(self) -> None:
        _ip("-n", self.space, "link", "set", "eth0", "up")
        _ip("-n", self.space, "route", "replace", "default", "dev", "eth0")  # it went with the link


def why_not() -> str:
    """Why no lab can be made here; "" if one can."""
    if os.geteuid() != 0:
        return "network namespaces take root"
    try:
        with netlab("probe"):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces can't be made here: {error}"


@contextmanager
def delayed(a: Host, b: Host, delay_us: float) -> Iterator[tuple[str, str]]:
    """A second cable between two hosts, of so many microseconds one way: the addresses of a and b on it."""
    net = f"10.{os.getpid() % 200 + 20}.{200 + next(_labs) % 50}"
    ends = f"{net}.1", f"{net}.2"
    words = [sys.executable, str(DELAY), str(delay_us), a.space, ends[0], b.space, ends[1]]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as carrier:
        assert carrier.stdin is not None
        assert carrier.stdout is not None
        try:
            assert carrier.stdout.readline() == b"up\n", f"no delay of {delay_us} us could be made"
            yield ends
        finally:
            carrier.stdin.close()


@contextmanager
def netlab(*names: str) -> Iterator[dict[str, Host]]:
    _sweep()
    number_of_lab = next(_labs)
    prefix, net = f"{PREFIX}{os.getpid()}-{number_of_lab}-", f"10.{os.getpid() % 200 + 20}.{number_of_lab}"
    switch = f"{prefix}switch"
    with ExitStack() as stack:
        _add(stack, switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        hosts = {}
        for number, name in enumerate(names, 1):
            host = Host(name, f"{prefix}{name}", f"{net}.{number}")
            _add(stack, host.space)
            port = f"p{number}"
            _ip("link", "add", "eth0", "netns", host.space, "type", "veth", "peer", "name", port, "netns", switch)
            _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            _ip("-n", host.space, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.space, "link", "set", "lo", "up")
            host.plug_cable()
            hosts[name] = host
        yield hosts


def _add(stack: ExitStack, space: str) -> None:
    _ip("netns", "add", space)
    stack.callback(_ip, "netns", "del", space)


def _sweep() -> None:
    for path in NETS.glob(f"{PREFIX}*-*"):
        pid = path.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            _ip("netns", "del", path.name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
