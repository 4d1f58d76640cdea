"""PlacedRunner: a placed model as the head sees it (`engine.runner.Runner`): its own device in this process, the others
across links, stages in the order of their layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from motley.cluster.assignment import Assignment
from motley.cluster.link import Link
from motley.cluster.remote import RemoteLoad, RemoteStage, ask
from motley.engine.assign import Address, assignments
from motley.engine.node import Connect, NodeRuntime
from motley.engine.runner import StageRunner, run_stages
from motley.engine.times import StepTimes
from motley.formats.checkpoint import open_checkpoint
from motley.lab.placement import Placement
from motley.ops.protocol import Batch

LoadProgress = Callable[[str, float], None]  # device, share loaded 0..1


@dataclass(frozen=True)
class Site:
    """Where a placement is to run: the head's own device, and every device's address."""

    device: str  # the device this process owns
    runtime: NodeRuntime
    addresses: Mapping[str, Address]
    connect: Connect


class _Here:
    """A stage in this process."""

    def __init__(self, runtime: NodeRuntime) -> None:
        self._runtime, self.times = runtime, StepTimes()

    def forward(self, batch: Batch, x: NDArray[np.float32] | None) -> NDArray[np.float32]:
        y, times = self._runtime.stage(batch, x)
        self.times += StepTimes(**times)
        return y


class _There:
    """A stage on another node: what the round trip takes beyond the node's own work is `link`."""

    def __init__(self, link: Link) -> None:
        self._remote, self.times = RemoteStage(link), StepTimes()

    def forward(self, batch: Batch, x: NDArray[np.float32] | None) -> NDArray[np.float32]:
        before = self._remote.traffic.link_s
        self._remote.start(batch, x)
        reply = self._remote.finish()
        self.times += StepTimes(**reply.times) + StepTimes(link=self._remote.traffic.link_s - before)
        return reply.y.copy()  # the link's buffer is reused by its next message


class PlacedRunner:
    """Loads on construction, all devices at once. Closing it leaves the nodes running, with the model dropped by the
    next load."""

    def __init__(
        self,
        model_path: str,
        placement: Placement,
        site: Site,
        *,
        n_slots: int = 1,
        context: int = 4096,
        progress: LoadProgress = lambda device, done: None,
    ) -> None:
        self.n_slots, self.context = n_slots, context
        self._site = site
        told = assignments(
            placement,
            model=model_path,
            file_hash=open_checkpoint(model_path).hash,
            context=context,
            slots=n_slots,
            addresses=site.addresses,
        )
        self._links = {d: site.connect(*site.addresses[d]) for d in told if d != site.device}
        self._load(told, progress)
        homes = [device for device, assignment in told.items() if assignment.home_layers]
        self._stages: dict[str, _Here | _There] = {
            d: _Here(site.runtime) if d == site.device else _There(self._links[d]) for d in homes
        }

    def step(self, batch: Batch) -> NDArray[np.float32]:
        stages: list[StageRunner] = list(self._stages.values())
        return run_stages(stages, batch)

    def times(self) -> StepTimes:
        return sum((stage.times for stage in self._stages.values()), start=StepTimes())

    def chosen(self) -> NDArray[np.int64]:
        counts = [
            self._site.runtime.chosen() if d == self._site.device else np.array(ask(self._links[d], "chosen")["chosen"])
            for d in self._stages
        ]
        return np.asarray(sum(counts[1:], start=counts[0]), np.int64)

    def exchanges(self) -> tuple[int, float]:
        """Of the head's own home layers: how often experts elsewhere were asked, and its cost in seconds."""
        return self._site.runtime.exchanges() if self._site.device in self._stages else (0, 0.0)

    def node_memory(self) -> dict[str, int]:
        """Peak resident bytes of every other node in use, by device."""
        return {device: ask(link, "memory")["peak_bytes"] for device, link in self._links.items()}

    def close(self) -> None:
        for link in self._links.values():
            link.close()

    def _load(self, told: Mapping[str, Assignment], progress: LoadProgress) -> None:
        loads = {device: RemoteLoad(link) for device, link in self._links.items()}
        for device, load in loads.items():
            load.start(told[device])
        here = self._site.device
        if here in told:
            self._site.runtime.load(told[here], lambda done, text: progress(here, done))
        for device, load in loads.items():
            load.finish(lambda done, text, device=device: progress(device, done))  # type: ignore[misc]
