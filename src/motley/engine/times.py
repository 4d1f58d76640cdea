"""Where a step's time goes. Cumulative seconds by part, so that two readings can be subtracted."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter


@dataclass
class StepTimes:
    """`link` is the time spent sending to other nodes and waiting for their answers beyond the home's own work (their
    arithmetic included); `python` is what the interpreter took between two calls into the device."""

    attention: float = 0.0
    router: float = 0.0
    experts: float = 0.0
    link: float = 0.0
    head: float = 0.0
    python: float = 0.0
    other: float = 0.0

    def __add__(self, them: "StepTimes") -> "StepTimes":
        return StepTimes(*(a + b for a, b in zip(self.parts().values(), them.parts().values())))

    def __sub__(self, them: "StepTimes") -> "StepTimes":
        return StepTimes(*(a - b for a, b in zip(self.parts().values(), them.parts().values())))

    @property
    def total(self) -> float:
        return float(sum(self.parts().values()))

    def parts(self) -> dict[str, float]:
        """By name. Not `dataclasses.asdict`: it copies deeply, and every step comes by here several times."""
        return dict(vars(self))


class Clock:
    """Laps: what the device was busy with since the last lap goes to the named part, the rest to `python`; time
    reported by `waited` goes to `link`."""

    def __init__(self, busy_seconds: Callable[[], float]) -> None:
        self.times = StepTimes()
        self._busy = busy_seconds
        self._waited = 0.0
        self.start()

    def start(self) -> None:
        """Forget the time since the last lap: it was not part of a step."""
        self._at, self._busy_at, self._waited = perf_counter(), self._busy(), 0.0

    def waited(self, seconds: float) -> None:
        self._waited += seconds

    def lap(self, part: str) -> None:
        now, busy, times = perf_counter(), self._busy(), self.times
        spent = busy - self._busy_at
        setattr(times, part, getattr(times, part) + spent)
        times.link += self._waited
        times.python += now - self._at - spent - self._waited
        self._at, self._busy_at, self._waited = now, busy, 0.0
