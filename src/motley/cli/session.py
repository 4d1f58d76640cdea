"""A session of the head: its own device, the other nodes, what they measured of themselves, and a placed model on them.

Composition only: `cluster` starts nodes and links, `lab` describes them, `plan` decides, `engine` runs.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import combinations
from types import TracebackType
from typing import Self

import msgspec

from motley.cli.options import Offered
from motley.cluster.joined import JoinedCluster
from motley.cluster.link import Link as ClusterLink
from motley.cluster.local import LocalCluster, LocalNode
from motley.cluster.remote import LinkSpeed, ask, measure
from motley.cluster.server import Server
from motley.cluster.spin import yield_core
from motley.engine.assign import Address
from motley.engine.near import Near
from motley.engine.node import NodeRuntime
from motley.engine.placed import PlacedRunner, Site
from motley.engine.survival import Layout, Members, SurvivingEngine, Tell
from motley.errors import ClusterError, NodeLost, UnsupportedError
from motley.lab.lab import Device, Lab, Link
from motley.lab.machine import this_machine
from motley.lab.placement import Placement
from motley.lab.probe import probe_device
from motley.ops.devices import CPU, device_names, kind_of, open_device, uses_main_memory
from motley.ops.meter import NativeMeter, OpsMeter
from motley.ops.native import NativeOps
from motley.ops.protocol import Ops
from motley.plan.search import find_placement
from motley.predict.memory import kv_bytes, work_bytes
from motley.predict.workload import STEP_TOKENS, Workload
from motley.progress import Progress, silent
from motley.shape.mixer import CacheType
from motley.shape.model import ModelShape

GLANCE = {"pings": 500, "bulk": 3}  # at a link of the head's beside its streams
REPLAN_S = 0.3  # streams wait for it
SILENCE_S = 60.0  # of a node that measures: between two figures, a tenth of a second each where nobody else works


@dataclass(frozen=True)
class Seat:
    """What a node brings: the head's own is the first of a session. `devices`: none given is the CPU."""

    name: str
    threads: int
    memory_bytes: int
    devices: tuple[Offered, ...] = ()

    def parts(self) -> list["Part"]:
        """Its devices. Those that use the machine's memory share what the node gives."""
        offered = self.devices or (Offered(CPU),)
        names = device_names(self.name, [o.spec for o in offered])
        sharing = [o for o in offered if not o.memory_bytes and uses_main_memory(o.spec)]
        given = self.memory_bytes or (this_machine().available_bytes if len(offered) > 1 else 0)
        share = given // len(sharing) if sharing else 0
        return [
            Part(name, o.spec, self.threads, o.memory_bytes or (share if o in sharing else 0))
            for name, o in zip(names, offered)
        ]


@dataclass(frozen=True)
class Part:
    """A device of a node. memory_bytes 0: no limit was given."""

    name: str
    spec: str
    threads: int
    memory_bytes: int

    def open(self) -> Ops:
        return open_device(self.spec, self.threads)

    def probe(self, node: str, ops: Ops, alone: bool, progress: Progress = silent) -> Device:
        """Measure it. `alone`: nobody else measures on this machine meanwhile."""
        memory = self.memory_bytes or ops.memory_bytes or None
        if memory is None and not uses_main_memory(self.spec):
            raise UnsupportedError(f"{self.spec} does not say how much memory it has: give --device {self.spec}=SIZE")
        if isinstance(ops, NativeOps):
            meter = NativeMeter(ops, alone)
            return probe_device(meter, self.name, node, self.threads, memory_bytes=memory, progress=progress)
        other = OpsMeter(ops)
        return probe_device(
            other,
            self.name,
            node,
            1,
            kind=kind_of(self.spec),
            memory_bytes=memory,
            working_sets=other.working_sets,
            rounds=1,
            progress=progress,
        )


class Session:
    """`with Session(own, nodes) as session`: the head owns its own seat's device, the other devices are the nodes'."""

    def __init__(self, own: Seat, nodes: LocalCluster | JoinedCluster) -> None:
        self.own, self.cluster = own, nodes
        self.lab = Lab(())  # what `surviving` plans with: grows with who joins
        self._stack = ExitStack()

    @classmethod
    def local(cls, seats: Sequence[Seat], named: str = "") -> Self:
        """The first seat is the head's, the others become processes of this machine."""
        others = [LocalNode(s.name, s.threads, s.memory_bytes, tuple(map(str, s.devices))) for s in seats[1:]]
        return cls(seats[0], LocalCluster(others, named=named))

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
        self._near = Near(self.cluster.reach)
        self._runtimes: dict[str, NodeRuntime] = {}
        self._own: dict[str, tuple[str, int]] = {}
        for part in own.parts():
            ops = part.open()
            self._stack.callback(ops.close)
            runtime = NodeRuntime(part.name, ops, self._near.connect, part.memory_bytes)
            listener = access.listen()
            server = Server(
                listener, runtime, cluster=access.cluster, name=part.name, token=access.token, named=access.named
            )
            self._stack.callback(server.close)
            self._own[part.name] = address = listener.host, listener.port
            self._near.put(part.name, address, runtime)
            self._runtimes[part.name] = runtime
        self.runtime = self._runtimes[own.name]
        self.site = Site(self.runtime, self._addresses(), self._near.connect)

    def _addresses(self) -> dict[str, tuple[str, int]]:
        """Of every device."""
        there = {name: at for node in self.cluster.nodes.values() for name, at in node.addresses.items()}
        return {**self._own, **there}

    def specs(self) -> dict[str, str]:
        """What each device computes with, as `--device` has it."""
        own = {part.name: part.spec for part in self.own.parts()}
        there = [d for node in self.cluster.nodes.values() for d in node.devices]
        return {**own, **{str(d.get("name")): str(d.get("spec", CPU)) for d in there}}

    def processes(self) -> str:
        """Who is which process, for whoever wants to see one end."""
        there = [f"{name} (process {node.pid} on {node.host})" for name, node in self.cluster.nodes.items()]
        return ", ".join([f"{self.own.name} (here)", *there])

    def probe(self) -> Lab:
        """Measure every node, all at the same time, then every pair's link. Nodes of one machine share its caches,
        memory and often the units of one core: measured alone, each would promise what it can't keep beside the
        others, which spin while they wait for work. The devices of one process take turns: they share its Python."""
        own = self.own.parts()
        others = self.cluster.nodes.values()
        with ExitStack() as stack, ThreadPoolExecutor(max_workers=max(1, len(others))) as pool:
            links = {name: stack.enter_context(closing(self.link(name))) for name in self.site.addresses}
            alone = not others
            addresses = self.site.addresses
            asked = [pool.submit(_probed, [links[name] for name in node.addresses]) for node in others]
            devices = [p.probe(self.own.name, self._runtimes[p.name].ops, alone) for p in own]
            while not all(answer.done() for answer in asked):  # busy, as a node that waits for another is
                yield_core()
            devices += [device for answer in asked for device in answer.result()]
            return Lab(tuple(devices), tuple(self._measure(links, addresses, a, b) for a, b in _pairs(devices)))

    def link(self, device: str) -> ClusterLink:
        """One more to a device; the caller closes it."""
        return self._near.connect(*self.site.addresses[device])

    def _measure(
        self, links: Mapping[str, ClusterLink], addresses: Mapping[str, Address], a: Device, b: Device, **times: int
    ) -> Link:
        """Between the devices of a node there is memory; else the nodes' first devices speak for all. `links`: to each
        but the head's own first."""
        speed = self.speed(links, addresses, a.name, b.name, **times)
        return Link(a.name, b.name, speed.transport, round(speed.rtt_us, 1), round(speed.gb_s, 2))

    def speed(
        self, links: Mapping[str, ClusterLink], addresses: Mapping[str, Address], a: str, b: str, **times: int
    ) -> LinkSpeed:
        """From device `a` to `b`. `times`: of a measurement of the head's own, else the node's."""
        if a == self.own.name:
            return measure(links[b], **times)
        host, port = addresses[b]
        return msgspec.convert(ask(links[a], "measure", SILENCE_S, host=host, port=port), LinkSpeed)

    def met(self, lab: Lab, names: Collection[str]) -> Lab:
        """The devices of these names, whose nodes came later, measured by themselves, and their links to all of the
        lab who are there. Streams may run meanwhile: the head itself measures for a tenth of a second a device."""
        addresses = self._now(names)
        with ExitStack() as stack:
            links = {name: stack.enter_context(closing(self._near.connect(*addresses[name]))) for name in names}
            devices = _probed(list(links.values()))
            there = [device for device in lab.devices if device.name in addresses]
            found = []
            for a, b in _pairs([*there, *devices]):
                if b.name in links:
                    near, far = (a, b) if a.name == self.own.name or a.name in links else (b, a)
                    found.append(self._measure(links, addresses, near, far, **GLANCE))
            return Lab(tuple(devices), tuple(found))

    def new_links(self, lab: Lab, names: Collection[str]) -> tuple[Link, ...]:
        """The links that the lab lacks between these of its devices: their nodes were never there together before."""
        there = lab.subset(names)
        missing = {frozenset(pair) for pair in there.missing_links()}
        pairs = [pair for pair in _pairs(there.devices) if frozenset(d.name for d in pair) in missing]
        if not pairs:
            return ()
        addresses = self._now(names)
        with ExitStack() as stack:
            found = []
            for a, b in pairs:
                near, far = (b, a) if b.name == self.own.name else (a, b)
                asked = far.name if near.name == self.own.name else near.name
                link = stack.enter_context(closing(self._near.connect(*addresses[asked])))
                found.append(self._measure({asked: link}, addresses, near, far, **GLANCE))
            return tuple(found)

    def _now(self, names: Collection[str]) -> dict[str, Address]:
        """The devices' addresses. ClusterError where one of these is not there."""
        addresses = {**self._own, **self.cluster.addresses()}
        if missing := set(names) - addresses.keys():
            raise ClusterError(f"{', '.join(sorted(missing))} left again")
        return addresses

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
        step_tokens: int = STEP_TOKENS,
        cache: CacheType | None = None,
        stored: Collection[str] = (),
        progress: Progress = silent,
    ) -> Iterator[PlacedRunner]:
        """The model, loaded on all devices of the placement; dropped from them at the end. `stored`: the devices that
        leave their weights in the mapped file."""
        runner = PlacedRunner(
            model,
            placement,
            self.site,
            n_slots=slots,
            context=context,
            step_tokens=step_tokens,
            cache=cache,
            stored=stored,
            progress=progress,
        )
        try:
            yield runner
        finally:
            runner.close()

    @contextmanager
    def surviving(
        self,
        model: str,
        lab: Lab,
        shape: ModelShape,
        *,
        slots: int,
        context: int,
        step_tokens: int = STEP_TOKENS,
        repack: bool = True,
        grow: bool = False,
        tell: Tell,
    ) -> Iterator[SurvivingEngine]:
        """An engine whose streams go on when nodes end, stop, return or join. `grow`: who joins is used at once, where
        that is faster."""
        self.lab = lab
        adding = threading.Lock()  # newcomers are met by a thread of their own

        def add(devices: Sequence[Device], links: Sequence[Link]) -> None:
            with adding:
                self.lab = Lab((*self.lab.devices, *devices), (*self.lab.links, *links))

        def meet(names: frozenset[str]) -> None:
            found = self.met(self.lab, names)
            add(found.devices, found.links)

        def plan(names: frozenset[str]) -> Layout:
            if links := self.new_links(self.lab, names):
                add((), links)
            there = self.lab.subset(names)
            work = Workload(batch=slots, chunk=step_tokens)
            found = find_placement(
                shape,
                there,
                work,
                context=context,
                slots=slots,
                head=self.own.name,
                repack=repack,
                seconds=REPLAN_S,
                split_rows=True,
            )
            return Layout(found.placement, found.stored, found.seconds[1])

        def addresses() -> dict[str, tuple[str, int]]:
            """The head's further devices are as near as itself."""
            further = {name: at for name, at in self._own.items() if name != self.own.name}
            return {**further, **self.cluster.addresses()}

        members = Members(
            self.runtime, self._own[self.own.name], addresses, self._near.connect, meet, [d.name for d in lab.devices]
        )
        engine = SurvivingEngine(
            model,
            members,
            plan,
            slots=slots,
            context=context,
            step_tokens=step_tokens,
            cache=shape.cache,
            grow=grow,
            tell=tell,
        )
        try:
            yield engine
        finally:
            engine.close()


def _probed(links: Sequence[ClusterLink]) -> list[Device]:
    """The devices of one node."""
    return [msgspec.convert(ask(link, "probe", SILENCE_S), Device) for link in links]


def _pairs(devices: Sequence[Device]) -> list[tuple[Device, Device]]:
    """Whose link is measured: devices of one node, and the first devices of two nodes. Further devices of a node stand
    before its first, whose name is the node's and would stand for all of them."""
    firsts = [d for d in devices if d.name == d.node]
    within = [(a, b) for a, b in combinations(devices, 2) if a.node == b.node]
    return sorted(within, key=lambda pair: pair[0].name == pair[0].node) + list(combinations(firsts, 2))


def local_seats(
    n: int,
    cores: int,
    shape: ModelShape,
    context: int,
    slots: int,
    threads: int | None = None,
    devices: Sequence[Offered] = (),
    step_tokens: int = STEP_TOKENS,
) -> list[Seat]:
    """Nodes that do not match, cut from this machine: the first has most of the cores and can't hold the model, each
    other has an equal share of the rest and could. One thread each is the least. `devices`: of the first."""
    if n == 1:
        return [Seat("node0", threads or cores, 0, tuple(devices))]
    first = threads or max(1, cores - max(n - 1, cores // 4))
    rest = max(1, (cores - first) // (n - 1))
    cache = kv_bytes(shape, range(shape.n_layers), context, slots)
    room = cache + work_bytes(shape, step_tokens, home=True)
    small, large = int(0.6 * shape.n_bytes) + room, int(1.1 * shape.n_bytes + shape.embed_bytes) + room
    return [Seat("node0", first, small, tuple(devices)), *(Seat(f"node{i}", rest, large) for i in range(1, n))]
