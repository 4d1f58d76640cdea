"""Health: which nodes answer. A link of its own to each one, so that a node deep in its work still answers (one
thread per connection), and a step's link is never disturbed.

Why a question, and not the membership's lease: on a busy machine a lease of 2 s took healthy nodes for dead, and one
of 10 s lets a stopped process hold every stream for as long. Here a step that lasts longer than `SLOW_S` is only a
reason to ask; who then does not answer within `ANSWER_S` is lost. A slow node answers, and is waited for.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from motley.cluster.link import Link
from motley.cluster.remote import ping
from motley.engine.assign import Address
from motley.errors import ClusterError

SLOW_S = 0.3
ANSWER_S = 2.5
LOOK_S = 0.1

Reach = Callable[[str, int, float], Link]  # host, port, seconds


class Health:
    """`addresses`: of the nodes that are members now."""

    def __init__(self, addresses: Callable[[], Mapping[str, Address]], reach: Reach) -> None:
        self._addresses, self._reach = addresses, reach
        self._links: dict[str, tuple[Address, Link]] = {}
        self._lock = threading.Lock()

    def silent(self, names: Collection[str], timeout_s: float = ANSWER_S, anew: bool = False) -> set[str]:
        """Of `names`, who is no member or does not answer; all are asked at once. `anew`: over a new connection, which
        a node without memory for one more thread can't serve."""
        if not names:
            return set()
        with self._lock, ThreadPoolExecutor(len(names)) as pool:
            for name in names if anew else ():
                self._forget(name)
            answers = pool.map(lambda name: self._answers(name, timeout_s), names)
            return {name for name, there in zip(names, answers) if not there}

    def close(self) -> None:
        with self._lock:
            for _, link in self._links.values():
                link.close()
            self._links = {}

    def _answers(self, name: str, timeout_s: float) -> bool:
        address = self._addresses().get(name)
        known, link = self._links.get(name, (None, None))
        try:
            if link and known != address:  # it was restarted
                self._forget(name)
                link = None
            if address is None:
                return False
            if link is None:
                link = self._reach(*address, timeout_s)
                self._links[name] = address, link
            ping(link, timeout_s)
        except ClusterError:
            self._forget(name)
            return False
        return True

    def _forget(self, name: str) -> None:
        if found := self._links.pop(name, None):
            found[1].close()


class Watch:
    """A thread that looks after the head's waiting: while it waits long, whether all `used` nodes answer (if not,
    `interrupt` is called, once); otherwise, whether one of `lost` is back."""

    def __init__(self, health: Health, interrupt: Callable[[], None]) -> None:
        self.used: frozenset[str] = frozenset()
        self.lost: frozenset[str] = frozenset()
        self.returned: frozenset[str] = frozenset()
        self.silent: frozenset[str] = frozenset()  # for whose sake it interrupted
        self._health, self._interrupt = health, interrupt
        self._since = 0.0  # when the waiting began; 0: nobody waits
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    @contextmanager
    def over(self, used: Collection[str]) -> Iterator[None]:
        """Around a step or a load."""
        self.used, self._since = frozenset(used), time.monotonic()
        try:
            yield
        finally:
            self._since = 0.0

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        looked = 0.0
        while not self._ended.wait(LOOK_S):
            now, since = time.monotonic(), self._since
            if since and now - since > SLOW_S:
                if (silent := self._health.silent(self.used)) and self._since == since:
                    self.silent = frozenset(silent)
                    self._interrupt()
            elif self.lost and now - looked > 1.0:
                lost, looked = self.lost, now
                self.returned = lost - self._health.silent(lost, timeout_s=0.5)
