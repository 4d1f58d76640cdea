"""PlacedRunner: a placed model as the head sees it (`engine.runner.Runner`): its own device in this process, the others
across links, stages in the order of their layers."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter, time_ns

import numpy as np
from numpy.typing import NDArray

from motley.cluster.assignment import Assignment
from motley.cluster.link import Link
from motley.cluster.remote import RemoteLoad, RemoteStage, ask
from motley.engine import pipeline
from motley.engine.assign import Address, assignments
from motley.engine.node import Connect, NodeRuntime
from motley.engine.reuse import Reuse
from motley.engine.runner import ExchangeCount
from motley.engine.times import StepTimes
from motley.engine.trace import Span, Tracer, offset_of, shifted
from motley.errors import ClusterError, MotleyError
from motley.lab.placement import Placement
from motley.ops.protocol import Batch
from motley.predict.workload import STEP_TOKENS
from motley.progress import Progress, silent
from motley.shape.mixer import CacheType


@dataclass(frozen=True)
class Site:
    """Where a placement is to run: the head's own device, and every device's address."""

    runtime: NodeRuntime  # of the device this process owns
    addresses: Mapping[str, Address]
    connect: Connect

    @property
    def device(self) -> str:
        return self.runtime.device


class _Here:
    """A stage in this process."""

    here = True

    def __init__(self, runtime: NodeRuntime) -> None:
        self._runtime, self.times = runtime, StepTimes()
        self._given: tuple[Batch, NDArray[np.float32] | None] | None = None

    def start(self, batch: Batch, x: NDArray[np.float32] | None) -> None:
        self._given = batch, x

    def finish(self) -> NDArray[np.float32]:
        assert self._given is not None
        y, times = self._runtime.stage(*self._given)
        self.times += StepTimes(**times)
        return y

    def routes(self) -> NDArray[np.int64]:
        return self._runtime.routes()

    def exchanges(self) -> list[ExchangeCount]:
        return self._runtime.exchanges()


class _There:
    """A stage on another node: what the round trip takes beyond the node's own work is `link`."""

    here = False

    def __init__(self, here: str, there: str, link: Link) -> None:
        self._here, self._there, self._link = here, there, link
        self._remote, self.times, self._seconds = RemoteStage(link), StepTimes(), 0.0
        self.tracer: Tracer | None = None
        self._started = 0.0

    def start(self, batch: Batch, x: NDArray[np.float32] | None) -> None:
        self._started = perf_counter()
        self._remote.start(batch, x)

    def finish(self) -> NDArray[np.float32]:
        reply = self._remote.finish()
        seconds = perf_counter() - self._started
        if self.tracer:
            self.tracer.note("layers", self._started, self._started + seconds, to=self._there)
        self._seconds += seconds
        self.times += StepTimes(**reply.times) + StepTimes(link=seconds - reply.busy_s)
        return reply.y.copy()  # the link's buffer is reused by its next message

    def routes(self) -> NDArray[np.int64]:
        return np.array(ask(self._link, "routes")["routes"], np.int64)

    def exchanges(self) -> list[ExchangeCount]:
        traffic = self._remote.traffic
        hops = ExchangeCount(
            self._here, self._there, self._link.transport, traffic.exchanges, self._seconds, traffic.busy_s
        )
        return [hops, *(ExchangeCount(**x) for x in ask(self._link, "exchanges")["exchanges"])]


class PlacedRunner:
    """Loads on construction, all devices at once; if one can't, none keeps its part. Closing it drops the model from
    every device; the nodes run on. `step_tokens`: the most that a step will carry."""

    def __init__(
        self,
        model_path: str,
        placement: Placement,
        site: Site,
        *,
        n_slots: int = 1,
        context: int = 4096,
        step_tokens: int = STEP_TOKENS,
        cache: CacheType | None = None,
        stored: Collection[str] = (),
        progress: Progress = silent,
    ) -> None:
        self.n_slots, self.context = n_slots, context
        self._site = site
        told = assignments(
            placement,
            model=model_path,
            file_hash=site.runtime.serve_file(model_path),
            context=context,
            slots=n_slots,
            step_tokens=step_tokens,
            cache=cache,
            addresses=site.addresses,
            stored=stored,
            epoch=time_ns(),
            source=site.addresses[site.device],
        )
        self._links: dict[str, Link] = {}
        try:
            for device in told.keys() - {site.device}:
                self._links[device] = site.connect(*site.addresses[device])
            self.reuse = self._load(told, progress)
        except BaseException:
            self.close()
            raise
        here = site.device
        homes = [device for device, assignment in told.items() if assignment.home_layers]
        self._stages: dict[str, _Here | _There] = {
            d: _Here(site.runtime) if d == here else _There(here, d, self._links[d]) for d in homes
        }

    def step(self, batch: Batch) -> NDArray[np.float32]:
        stages = list(self._stages.values())
        chunks = pipeline.chunks_of(batch, len(stages))
        if len(chunks) == 1:
            return pipeline.run(stages, batch, chunks)
        before, started = [stage.times for stage in stages], perf_counter()
        logits = pipeline.run(stages, batch, chunks)
        self._fit_times(before, perf_counter() - started)
        return logits

    def _fit_times(self, before: Sequence[StepTimes], seconds: float) -> None:
        """Stages that worked at the same time took more time together than passed: their shares of what passed."""
        stages = list(self._stages.values())
        together = sum((stage.times - was for stage, was in zip(stages, before)), start=StepTimes())
        for stage, was in zip(stages, before):
            stage.times = was + (stage.times - was).scaled(seconds / max(together.total, 1e-9))

    def times(self) -> StepTimes:
        """Where stages work at the same time, their shares of the time that passed."""
        return sum((stage.times for stage in self._stages.values()), start=StepTimes())

    def routes(self) -> NDArray[np.int64]:
        counts = [stage.routes() for stage in self._stages.values()]
        return np.asarray(sum(counts[1:], start=counts[0]), np.int64)

    def exchanges(self) -> list[ExchangeCount]:
        """Experts asked of other devices, by home; and x handed to stages on other nodes."""
        return [count for stage in self._stages.values() for count in stage.exchanges() if count.count]

    def devices(self) -> set[str]:
        """Whoever holds a part."""
        return {self._site.device, *self._links}

    def trace(self, on: bool) -> tuple[list[Span], dict[str, float]]:
        """What all devices collected so far, by the head's clock, and by device how many microseconds a time may be
        off; from now on they collect, or no longer. Raises ClusterError where the head's device has no part."""
        spans, errors = self._site.runtime.trace(on), dict[str, float]()
        for stage in self._stages.values():
            if isinstance(stage, _There):
                spans += stage.tracer.take() if stage.tracer else []
                stage.tracer = Tracer(self._site.device) if on else None
        for device, link in self._links.items():
            offset, error = offset_of(lambda link=link: float(ask(link, "clock")["now"]))  # type: ignore[misc]
            spans += shifted([Span(*s) for s in ask(link, "trace", timeout_s=60.0, on=on)["spans"]], offset)
            errors[device] = 1e6 * error
        return spans, errors

    def node_memory(self) -> dict[str, int]:
        """Peak resident bytes of every other node in use, by device."""
        return {device: ask(link, "memory")["peak_bytes"] for device, link in self._links.items()}

    def close(self) -> None:
        self._site.runtime.unload()
        for link in self._links.values():
            with suppress(ClusterError):  # a node that is gone holds nothing any more
                ask(link, "unload")
            link.close()

    def _load(self, told: Mapping[str, Assignment], progress: Progress) -> Reuse:
        shares = dict.fromkeys(told, 0.0)

        def of(device: str) -> Progress:
            def watch(what: str, fraction: float) -> None:
                shares[device] = fraction
                progress(f"{what} on {device}", sum(shares.values()) / len(shares))

            return watch

        loads = {device: RemoteLoad(link) for device, link in self._links.items()}
        for device, load in loads.items():
            load.start(told[device])
        here, problems, reuse = self._site.device, list[MotleyError](), Reuse()
        try:
            if here in told:
                reuse = Reuse(**self._site.runtime.load(told[here], of(here))["reuse"])
        except MotleyError as error:
            problems.append(error)
        for device, load in loads.items():  # all of them, whatever became of the others: their answers are on the way
            try:
                reuse = reuse.beside(Reuse(**load.finish(of(device))["reuse"]))
            except MotleyError as error:
                problems.append(error)
        if problems:
            raise problems[0]
        return reuse
