"""What a page may see of a running server: one snapshot, plain data, no text of anybody's prompt or answer.

service.state.snapshot() -> {
  "motley": version, "model": {...}, "context", "slots": [{"state", "prompt", "computed", "generated"}...],
  "queue": n, "uptime_s", "clock": seconds since the epoch,
  "tokens_per_s": generated, over the last 3 s, "totals": {"prompt_tokens", "tokens", "steps", "sequences"},
  "scheduler": {"own_ms_p50", "own_ms_p99", "ms_per_step"},
  "time": {"attention": s, ...} since the start,
  "experts": [[count of each expert] of each layer] since the start (empty lists: none there),
  "exchanges": [{"a", "b", "transport", "count", "seconds", "work_seconds"}],
  "placed": None, or {"lab", "placement", "prediction", "nodes", "head"}: `lab.lab.Lab`, `lab.placement.Placement`, ...
  "events": [{"n", "clock", "kind", "text"}]: the last ones, `n` counting up
}
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import msgspec

import motley
from motley.lab.lab import Lab
from motley.lab.placement import Placement
from motley.predict.predict import Prediction
from motley.shape.model import ModelShape

if TYPE_CHECKING:
    from motley.serve.service import Service

MOST_EVENTS = 100


@dataclass(frozen=True)
class Placed:
    """Where the model is now."""

    lab: Lab
    placement: Placement
    prediction: Prediction | None
    nodes: tuple[str, ...]  # in use now
    head: str
    stored: frozenset[str] = frozenset()  # nodes that leave their weights in the mapped file


class State:
    """`placed`: asked at each snapshot, so it must be quick; gives the same object while nothing changed. From any
    thread."""

    def __init__(
        self, service: "Service", shape: ModelShape | None = None, placed: Callable[[], Placed | None] = lambda: None
    ) -> None:
        self._service, self._shape, self._placed = service, shape, placed
        self._started, self._lock = monotonic(), Lock()
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._n = 0
        self._told: tuple[Placed | None, Any] = None, None

    def note(self, kind: str, text: str) -> None:
        """Something happened that whoever watches wants to know: `node`, `load`, `server`."""
        with self._lock:
            self._n += 1
            self._events.append({"n": self._n, "clock": time(), "kind": kind, "text": text})

    def snapshot(self, clock: bool = True) -> dict[str, Any]:
        """`clock` False: without what changes while nothing happens."""
        service = self._service
        scheduler, meters = service.scheduler, service.meters
        reading = scheduler.reading()
        with self._lock:
            events = list(self._events)
        steps = max(1.0, meters.steps.total)
        own = meters.step_own
        found: dict[str, Any] = {
            "motley": motley.__version__,
            "model": self._model(),
            "context": scheduler.context,
            "slots": scheduler.slots(),
            "queue": scheduler.n_waiting,
            "tokens_per_s": round(meters.pace.per_s(), 1),
            "totals": {
                "prompt_tokens": meters.prompt_tokens.total,
                "tokens": meters.tokens.total,
                "steps": meters.steps.total,
                "sequences": meters.requests.total,
            },
            "scheduler": {
                "own_ms_p50": 1e3 * own.quantile(0.5),
                "own_ms_p99": 1e3 * own.quantile(0.99),
                "ms_per_step": 1e3 * (meters.runner_s.total + own.sum) / steps,
            },
            "time": reading.times.parts(),
            "experts": reading.routes.tolist(),
            "exchanges": [vars(exchange) for exchange in reading.exchanges],
            "placed": self._placement(),
            "events": events,
        }
        return found | {"uptime_s": monotonic() - self._started, "clock": time()} if clock else found

    def _model(self) -> dict[str, Any]:
        served, shape = self._service.served, self._shape
        found: dict[str, Any] = {"name": served.name, "template": bool(served.chat.names)}
        if shape is not None:
            numbers = ("n_layers", "d_model", "n_heads", "n_kv_heads", "n_experts", "n_experts_used", "d_expert")
            found |= {name: getattr(shape, name) for name in numbers}
            found |= {"shape": shape.name, "architecture": shape.architecture, "vocab_size": shape.vocab_size}
            found |= {"n_params": shape.n_params, "n_active_params": shape.n_active_params, "n_bytes": shape.n_bytes}
            found["experts_in"] = [shape.experts_in(i) for i in range(shape.n_layers)]
        return found

    def _placement(self) -> Any:
        placed = self._placed()
        if placed is not self._told[0]:
            self._told = placed, msgspec.to_builtins(placed)
        return self._told[1]
