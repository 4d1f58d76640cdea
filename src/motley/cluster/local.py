"""LocalCluster: nodes as processes of this machine, started, connected, watched and ended together.

No process outlives the head: `close` ends the nodes (asking first), at Ctrl-C too; and should the head be killed,
each node sees the pipe to its standard input close and the head's token go, either of which ends it.
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import IO

from motley import __version__
from motley.cluster.access import Access
from motley.cluster.hello import new_token
from motley.cluster.membership import Inventory, Membership
from motley.cluster.pool import Pool
from motley.errors import ClusterError, NodeLost, UsageError

NODE_COMMAND = (sys.executable, "-m", "motley", "node")
ASK_S = 3.0  # from SIGTERM to SIGKILL


@dataclass(frozen=True)
class LocalNode:
    name: str
    threads: int
    memory_bytes: int
    devices: tuple[str, ...] = ()  # `--device` of `motley node`; none: the CPU


class _Process:
    """One node's process and what it wrote."""

    def __init__(self, name: str, command: Sequence[str], token: str) -> None:
        self.name = name
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 closed in `end`
        # A session of its own: Ctrl-C reaches the head only, which then ends the nodes in order.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it died at once: `died` will tell
            self._process.stdin.write(token.encode() + b"\n")
            self._process.stdin.flush()
        self.pid = self._process.pid

    def died(self) -> bool:
        return self._process.poll() is not None

    def last_words(self) -> str:
        """How it ended, if it did, and the end of what it wrote."""
        status = self._process.poll()
        words = "" if status is None else f"it ended with status {status}"
        size = self._output.seek(0, 2)
        self._output.seek(max(0, size - 2000))
        tail = self._output.read().decode(errors="replace").strip()
        return f"{words}; its last output:\n{tail}" if tail else words or "it wrote nothing"

    def ask_to_end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin:
                self._process.stdin.close()
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()
        self.end(time.monotonic() + ASK_S)

    def end(self, deadline: float) -> None:
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()


class LocalCluster(Pool):
    """`with LocalCluster(nodes) as cluster: cluster.links["small"]` ... One link to each node, greeted and ready.

    `command` starts a node; its arguments are appended (--name --threads --memory --peer --cluster --with-head).
    """

    def __init__(
        self,
        nodes: Sequence[LocalNode],
        *,
        command: Sequence[str] = NODE_COMMAND,
        timeout_s: float = 30.0,
        spin_us: float | None = None,
        named: str = "",
    ) -> None:
        names = [node.name for node in nodes]
        if len(set(names)) < len(names):
            raise UsageError(f"two local nodes have the same name: {', '.join(names)}")
        super().__init__(Access(f"local-{token_hex(4)}", "head", new_token(), named=named), spin_us)
        self._wanted, self._command = nodes, command
        self._timeout_s = timeout_s
        self._processes: dict[str, _Process] = {}
        self._closing = False

    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    def restart(self, name: str) -> None:
        """End a node's process, if it still runs, and start it anew. Returns when it is a member again."""
        assert self._membership
        old = self._processes[name]
        old.kill()
        deadline = time.monotonic() + self._timeout_s
        while name in self._membership.nodes():  # of two nodes with one name the elder would keep it
            if time.monotonic() > deadline:
                raise ClusterError(f"node {name} was ended, and is still announced after {self._timeout_s:.0f} s")
            time.sleep(0.01)
        self.links[name].close()
        node = next(node for node in self._wanted if node.name == name)
        self._processes[name] = _Process(name, self._command_for(node), self.access.token)
        self.nodes = {**self.nodes, **self._await_nodes(self._membership, [name])}
        self.links[name] = self.connect(name)

    def raise_if_lost(self) -> None:
        """NodeLost for a node that has ended since the start, with its last words."""
        for name, process in self._processes.items():
            if process.died():
                raise NodeLost(f"node {name} is gone: {process.last_words()}")

    def explain(self, error: ClusterError) -> ClusterError:
        """The NodeLost behind a broken link (of the head, or between nodes), or `error` itself if all nodes live. A
        dying process's connections end a moment before it can be seen to be dead."""
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            try:
                self.raise_if_lost()
            except NodeLost as lost:
                return lost
            time.sleep(0.01)
        return error

    def close(self) -> None:
        """End all nodes and wait for them. Idempotent."""
        self._closing = True
        super().close()
        for process in self._processes.values():
            process.ask_to_end()
        deadline = time.monotonic() + ASK_S
        for process in self._processes.values():
            process.end(deadline)
        self._processes = {}

    def _start(self) -> None:
        self._membership = self.access.seat(head=True, on_left=self._see_lost)
        for node in self._wanted:
            self._processes[node.name] = _Process(node.name, self._command_for(node), self.access.token)
        self.nodes = self._await_nodes(self._membership, list(self._processes))
        for name in self.nodes:
            self.links[name] = self.connect(name)

    def _command_for(self, node: LocalNode) -> list[str]:
        assert self._membership
        options = {
            "--name": node.name,
            "--threads": node.threads,
            "--memory": node.memory_bytes,
            "--peer": self._membership.endpoint,
            "--cluster": self.access.cluster,
        }
        words = [str(word) for option in options.items() for word in option]
        words += [word for d in node.devices for word in ("--device", d)]
        words += ["--link", self.access.named] if self.access.named else []
        return [*self._command, *words, "--with-head"]

    def _await_nodes(self, membership: Membership, names: Sequence[str]) -> dict[str, Inventory]:
        deadline = time.monotonic() + self._timeout_s
        while not membership.wait_for_nodes(names, timeout_s=0.05):
            for name in names:
                if self._processes[name].died():
                    raise ClusterError(f"node {name} did not start: {self._processes[name].last_words()}")
            if time.monotonic() > deadline:
                missing = set(names) - membership.nodes().keys()
                words = "; ".join(f"{name}: {self._processes[name].last_words()}" for name in sorted(missing))
                raise ClusterError(f"not all nodes announced themselves in {self._timeout_s:.0f} s: {words}")
        there = membership.nodes()
        return {name: same_version(there[name]) for name in names}

    def _see_lost(self, name: str) -> None:
        """From the membership's thread: whoever waits for this node's answer waits no longer; a hung node's, too."""
        if not self._closing and (link := self.links.get(name)):
            link.interrupt()


def same_version(inventory: Inventory) -> Inventory:
    if inventory.version != __version__:
        theirs, ours = inventory.version, __version__
        raise ClusterError(f"node {inventory.name} runs Motley {theirs}, the head {ours}: install the same on both")
    return inventory
