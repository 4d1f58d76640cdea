"""A session of the head: its own device, the other nodes, what they measured of themselves, and a placed model on them.

Composition only: `cluster` starts nodes and links, `lab` describes them, `plan` decides, `engine` runs.
"""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import msgspec

from motley.cluster.joined import JoinedCluster
from motley.cluster.local import LocalCluster, LocalNode
from motley.cluster.remote import ask, measure
from motley.cluster.server import Server
from motley.engine.node import NodeRuntime
from motley.engine.placed import PlacedRunner, Site
from motley.engine.survival import Layout, Members, SurvivingEngine, Tell
from motley.errors import ClusterError, NodeLost
from motley.lab.lab import Device, Lab, Link
from motley.lab.placement import Placement
from motley.lab.probe import probe_device
from motley.ops.meter import NativeMeter
from motley.ops.native import NativeOps
from motley.plan.search import find_placement
from motley.predict.memory import kv_bytes, work_bytes
from motley.predict.workload import STEP_TOKENS, Workload
from motley.progress import Progress, silent
from motley.shape.model import ModelShape

REPLAN_S = 0.3  # streams wait for it


@dataclass(frozen=True)
class Seat:
    """What a node brings: the head's own is the first of a session."""

    name: str
    threads: int
    memory_bytes: int


def probe_runtime(name: str, threads: int, memory_bytes: int, ops: NativeOps, alone: bool) -> Device:
    return probe_device(NativeMeter(ops, alone), name, name, threads, memory_bytes=memory_bytes or None)


class Session:
    """`with Session(own, nodes) as session`: the head owns its own seat's device, the other devices are the nodes'."""

    def __init__(self, own: Seat, nodes: LocalCluster | JoinedCluster) -> None:
        self.own, self.cluster = own, nodes
        self._stack = ExitStack()

    @classmethod
    def local(cls, seats: Sequence[Seat]) -> Self:
        """The first seat is the head's, the others become processes of this machine."""
        others = [LocalNode(s.name, s.threads, s.memory_bytes) for s in seats[1:]]
        return cls(seats[0], LocalCluster(others))

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:  # Ctrl-C while starting, too
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, ClusterError) and not isinstance(error, NodeLost):
                self._explain(error)
        finally:
            self._stack.close()

    def _explain(self, error: ClusterError) -> None:
        if (cause := self.cluster.explain(error)) is not error:
            raise cause from error

    @property
    def across_machines(self) -> bool:
        return isinstance(self.cluster, JoinedCluster)

    def _start(self) -> None:
        own, access = self.own, self.cluster.access
        self._stack.enter_context(self.cluster)
        self.ops = NativeOps(threads=own.threads)
        self._stack.callback(self.ops.close)
        self.runtime = NodeRuntime(own.name, self.ops, self.cluster.reach, own.memory_bytes)
        listener = access.listen()
        server = Server(listener, self.runtime, cluster=access.cluster, name=own.name, token=access.token)
        self._stack.callback(server.close)
        addresses = {name: (node.host, node.port) for name, node in self.cluster.nodes.items()}
        self.site = Site(self.runtime, {own.name: (listener.host, listener.port), **addresses}, self.cluster.reach)

    def processes(self) -> str:
        """Who is which process, for whoever wants to see one end."""
        there = [f"{name} (process {node.pid} on {node.host})" for name, node in self.cluster.nodes.items()]
        return ", ".join([f"{self.own.name} (here)", *there])

    def probe(self) -> Lab:
        """Measure every device, all at the same time, then every pair's link. Nodes of one machine share its caches,
        memory and often the units of one core: measured alone, each would promise what it can't keep beside the
        others, which spin while they wait for work."""
        own, alone = self.own, not self.cluster.nodes
        with ThreadPoolExecutor(max_workers=max(1, len(self.cluster.nodes))) as others:
            asked = [others.submit(ask, link, "probe", 60.0) for link in self.cluster.links.values()]
            devices = [probe_runtime(own.name, own.threads, own.memory_bytes, self.ops, alone)]
            while not all(answer.done() for answer in asked):  # busy, as a node that waits for another is
                pass
            devices += [msgspec.convert(answer.result(), Device) for answer in asked]
        links = []
        for i, a in enumerate(devices):
            for b in devices[i + 1 :]:
                links.append(self._measure(a.name, b.name))
        return Lab(tuple(devices), tuple(links))

    def _measure(self, a: str, b: str) -> Link:
        if a == self.own.name:
            speed = measure(self.cluster.links[b])
            return Link(a, b, speed.transport, round(speed.rtt_us, 1), round(speed.gb_s, 2))
        host, port = self.site.addresses[b]
        found = ask(self.cluster.links[a], "measure", timeout_s=60.0, host=host, port=port)
        return Link(a, b, found["transport"], round(found["rtt_us"], 1), round(found["gb_s"], 2))

    def meter(self, threads: int) -> NativeOps:
        """For the machine's own figures, with the threads of all nodes together; closed with the session."""
        ops = NativeOps(threads=threads)
        self._stack.callback(ops.close)
        return ops

    @contextmanager
    def placed(
        self,
        model: str,
        placement: Placement,
        *,
        slots: int,
        context: int,
        stored: Collection[str] = (),
        progress: Progress = silent,
    ) -> Iterator[PlacedRunner]:
        """The model, loaded on all devices of the placement; dropped from them at the end. `stored`: the devices that
        leave their weights in the mapped file."""
        runner = PlacedRunner(
            model, placement, self.site, n_slots=slots, context=context, stored=stored, progress=progress
        )
        try:
            yield runner
        finally:
            runner.close()

    @contextmanager
    def surviving(
        self, model: str, lab: Lab, shape: ModelShape, *, slots: int, context: int, repack: bool = True, tell: Tell
    ) -> Iterator[SurvivingEngine]:
        """An engine whose streams go on when nodes end, stop or return."""

        def plan(names: frozenset[str]) -> Layout:
            there = lab.subset(d.name for d in lab.devices if d.name in names)
            work = Workload(batch=slots)
            found = find_placement(
                shape,
                there,
                work,
                context=context,
                slots=slots,
                head=self.own.name,
                repack=repack,
                seconds=REPLAN_S,
                split_head=True,
            )
            return Layout(found.placement, found.stored, found.seconds[1])

        members = Members(self.runtime, self.site.addresses[self.own.name], self.cluster.addresses, self.cluster.reach)
        engine = SurvivingEngine(model, members, plan, slots=slots, context=context, tell=tell)
        try:
            yield engine
        finally:
            engine.close()


def local_seats(
    n: int, cores: int, shape: ModelShape, context: int, slots: int, threads: int | None = None
) -> list[Seat]:
    """Nodes that do not match, cut from this machine: the first has most of the cores and can't hold the model, each
    other has an equal share of the rest and could. One thread each is the least."""
    if n == 1:
        return [Seat("node0", threads or cores, 0)]
    first = threads or max(1, cores - max(n - 1, cores // 4))
    rest = max(1, (cores - first) // (n - 1))
    cache = kv_bytes(shape, range(shape.n_layers), context, slots)
    room = cache + work_bytes(shape, STEP_TOKENS, home=True)
    small, large = int(0.6 * shape.n_bytes) + room, int(1.1 * shape.n_bytes + shape.embed_bytes) + room
    return [Seat("node0", first, small), *(Seat(f"node{i}", rest, large) for i in range(1, n))]
