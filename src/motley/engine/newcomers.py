"""Newcomers: devices of nodes that join while the head runs. A thread looks for them, has them measured and prices the
plan with them, while the streams go on; when they are taken in is the engine's matter (`survival`).
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping

from motley.engine.assign import Address
from motley.errors import MotleyError

LOOK_S = 1.0
AGAIN_S = 30.0  # after a measurement that failed

Meet = Callable[[frozenset[str]], None]


class Newcomers:
    """`addresses`: of the devices that are members now; `known`: those that need no introduction. `meet` measures
    devices, so that a plan may count on them; ClusterError where that fails. `offer` is called once for each group of
    them, when that is done. `tell`: what can't be done, in a sentence."""

    def __init__(
        self,
        addresses: Callable[[], Mapping[str, Address]],
        known: Collection[str],
        meet: Meet,
        offer: Callable[[frozenset[str]], None],
        tell: Callable[[str], None],
    ) -> None:
        self._addresses, self._meet, self._offer, self._tell = addresses, meet, offer, tell
        self._known = frozenset(known)
        self._measured: frozenset[str] = frozenset()
        self._not_before: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="newcomers", daemon=True)
        self._thread.start()

    def there(self) -> frozenset[str]:
        """Those that were measured, and are members now."""
        return self._measured & self._addresses().keys()

    def close(self) -> None:
        """A measurement under way is not waited for."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_S):
            now = time.monotonic()
            new = {name for name in self._addresses().keys() - self._known if self._not_before.get(name, 0.0) <= now}
            if new:
                self._introduce(frozenset(new))

    def _introduce(self, new: frozenset[str]) -> None:
        try:
            self._meet(new)
        except MotleyError as error:
            if len(new) > 1:  # one of them may be to blame
                for name in sorted(new):
                    self._introduce(frozenset({name}))
                return
            self._say(f"{', '.join(new)} came, and can't be measured: {error}")
            self._not_before |= dict.fromkeys(new, time.monotonic() + AGAIN_S)
            return
        self._known |= new
        self._measured |= new
        if self._ended.is_set():
            return
        try:
            self._offer(new)
        except MotleyError as error:  # the next load counts on them all the same
            self._say(f"{', '.join(sorted(new))} came; what it would bring is not known: {error}")

    def _say(self, sentence: str) -> None:
        if not self._ended.is_set():
            self._tell(sentence)
