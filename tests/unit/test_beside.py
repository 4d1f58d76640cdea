"""While others compute their experts, the home computes its own: a lazy device too is set going before anybody is
waited for, and not waited for itself where nobody else is asked."""

from typing import Any

import numpy as np

from motley.engine.experts import PlacedExperts, Remote
from motley.engine.times import Clock


class Lazy:
    """Operations that only say when they are called."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def experts(self, *args: Any) -> str:
        self.log.append("own experts noted")
        return "own"

    def start(self, *arrays: Any) -> None:
        self.log.append(f"started {arrays}")

    def to_host(self, a: Any) -> Any:
        self.log.append("waited for")
        return a

    def from_host(self, a: Any) -> Any:
        return a


class Owner:
    transport = "memory"

    def __init__(self, log: list[str]) -> None:
        self.busy_s, self.traffic, self._log = 0.0, self, log

    def start(self, *args: Any) -> None:
        self._log.append("asked the other")

    def finish(self) -> np.ndarray:
        self._log.append("got the other's")
        return np.zeros((1, 4))


IDS = np.array([[0, 1]], np.int32)


def placed(ops: Lazy, remotes: list[Remote]) -> PlacedExperts:
    return PlacedExperts(ops, Clock(lambda: 0.0), {0: None}, remotes, 1, 2)  # type: ignore[arg-type]


def test_the_home_begins_before_it_waits() -> None:
    ops = Lazy()
    remote = Remote("b", Owner(ops.log), {0: np.array([False, True])})
    placed(ops, [remote])(0, np.zeros((1, 4), np.float32), IDS, np.ones((1, 2), np.float32))
    steps = [line for line in ops.log if line != "waited for"]
    assert steps == ["asked the other", "own experts noted", "started ('own',)", "got the other's"]


def test_nobody_waits_where_nobody_is_asked() -> None:
    ops = Lazy()
    experts = placed(ops, [])
    experts(0, np.zeros((1, 4), np.float32), IDS, np.ones((1, 2), np.float32))
    assert ops.log == ["own experts noted"]
    assert experts.chosen().tolist() == [[1, 1]]
    assert ops.log[-1] == "waited for"
