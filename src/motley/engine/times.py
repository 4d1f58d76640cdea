"""Where a step's time goes. Cumulative seconds by part, so that two readings can be subtracted."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter

from motley.engine.trace import Tracer

_MOST_LAPS = 1 << 14


@dataclass
class StepTimes:
    """`link` is the time spent sending to other nodes and waiting for their answers beyond the home's own work (their
    arithmetic included); `upload` is spent bringing weights that are not kept here; `python` is what the interpreter
    took between two calls into the device."""

    attention: float = 0.0
    router: float = 0.0
    experts: float = 0.0
    upload: float = 0.0
    link: float = 0.0
    head: float = 0.0
    python: float = 0.0
    other: float = 0.0

    def __add__(self, them: "StepTimes") -> "StepTimes":
        return StepTimes(*(a + b for a, b in zip(self.parts().values(), them.parts().values())))

    def __sub__(self, them: "StepTimes") -> "StepTimes":
        return StepTimes(*(a - b for a, b in zip(self.parts().values(), them.parts().values())))

    def scaled(self, factor: float) -> "StepTimes":
        return StepTimes(*(factor * part for part in self.parts().values()))

    @property
    def total(self) -> float:
        return float(sum(self.parts().values()))

    def parts(self) -> dict[str, float]:
        """By name. Not `dataclasses.asdict`: it copies deeply, and every step comes by here several times."""
        return dict(vars(self))


class Clock:
    """Laps: what the device was busy with since the last lap goes to the named part, the rest to `python`; time
    reported by `waited` goes to `link`, by `uploaded` to `upload`.

    A lap is only noted; the sums are made when `times` is read: a step's weights sweep the caches, and every line of
    Python between two operations starts cold."""

    def __init__(self, busy_seconds: Callable[[], float]) -> None:
        self._times = StepTimes()
        self._busy = busy_seconds
        self._waited = self._uploaded = 0.0
        # part, time; busy, waited and uploaded so far
        self._laps: list[tuple[str | None, float, float, float, float]] = []
        self.tracer: Tracer | None = None
        self.start()

    @property
    def times(self) -> StepTimes:
        """A copy."""
        self._add_up()
        return self._times + StepTimes()

    def start(self) -> None:
        """Forget the time since the last lap: it was not part of a step."""
        if len(self._laps) > _MOST_LAPS:
            self._add_up()
        self._laps.append((None, perf_counter(), self._busy(), self._waited, self._uploaded))

    def trace(self, tracer: Tracer | None) -> None:
        """From now on; None: no longer."""
        self._add_up()
        self.tracer = tracer

    def asked(self, device: str, what: str, start: float) -> None:
        """An exchange with another device ends now."""
        if self.tracer:
            self.tracer.note(what, start, perf_counter(), to=device)

    def waited(self, seconds: float) -> None:
        self._waited += seconds

    def uploaded(self, what: str, start: float, seconds: float) -> None:
        """Weights that were brought since `start` are here now, after `seconds` in which the device was not busy."""
        self._uploaded += seconds
        if self.tracer:
            self.tracer.note(what, start, perf_counter())

    def lap(self, part: str) -> None:
        self._laps.append((part, perf_counter(), self._busy(), self._waited, self._uploaded))

    def note(self, part: str, time: float, busy: float) -> None:
        """A lap that ended at `time` (of `perf_counter`), when the device had been busy for `busy` seconds."""
        self._laps.append((part, time, busy, self._waited, self._uploaded))

    def _add_up(self) -> None:
        parts = self._times.parts()
        for (_, from_time, *before), (part, time, *now) in pairwise(self._laps):
            if part is None:
                continue
            if self.tracer:
                self.tracer.note(part, from_time, time)
            busy, waited, uploaded = (b - a for a, b in zip(before, now))
            parts[part] += busy
            parts["link"] += waited
            parts["upload"] += uploaded
            parts["python"] += time - from_time - busy - waited - uploaded
        self._times, self._laps = StepTimes(**parts), self._laps[-1:]
