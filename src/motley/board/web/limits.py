"""How often an address may do something: token buckets in memory, the longest unused forgotten first."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

MOST_ADDRESSES = 10_000


class Bucket:
    """`n` in `seconds`, refilled all the time; a whole bucket may be used at once."""

    def __init__(self, n: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.n, self.rate, self.clock = n, n / seconds, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> (left, when)
        self._lock = Lock()

    def take(self, address: str) -> float:
        """0 where it may; else the seconds until it may again."""
        with self._lock:
            now = self.clock()
            left, when = self._left.pop(address, (float(self.n), now))
            left = min(self.n, left + (now - when) * self.rate)
            allowed = left >= 1
            self._left[address] = (left - allowed, now)
            while len(self._left) > MOST_ADDRESSES:
                self._left.popitem(last=False)
            return 0.0 if allowed else (1 - left) / self.rate


def household(address: str) -> str:
    """The address, of IPv6 its /64: one connection has all of those."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
