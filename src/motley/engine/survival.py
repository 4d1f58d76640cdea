"""SurvivingEngine: an Engine whose streams outlive the nodes. Owns who is in use, the plan, and the load.

When a step or a load fails, every node in use is asked whether it is there; who does not answer is left out, the rest
is planned for anew and loaded, and the engine computes its sequences again from their tokens. That gives the same
tokens, because a token's bits depend neither on the placement nor on the chunks (docs/architecture.md). Where the rest
is too small, the step raises CapacityError and the streams stay: a later step tries again. A node that is back is
taken in between two steps where the plan with it is faster. It never sees a tensor.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

from motley.cluster.link import Link
from motley.engine.assign import Address, devices_of
from motley.engine.engine import Engine, Stream
from motley.engine.health import Health, Reach, Watch
from motley.engine.node import NodeRuntime
from motley.engine.placed import PlacedRunner, Site
from motley.errors import CapacityError, ClusterError
from motley.lab.placement import Placement

WORTH = 0.95  # of the present plan's seconds a step: a return that does not get below is not worth the loading
TRIES = 8  # loads in a row, before it is given up

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Members:
    """The head's own device, the other nodes wherever they are now, and how to reach them. `own`: the head's address,
    for nodes that ask its experts."""

    runtime: NodeRuntime
    own: Address
    addresses: Callable[[], Mapping[str, Address]]
    reach: Reach


@dataclass(frozen=True)
class Layout:
    """What a plan says that a load needs."""

    placement: Placement
    stored: frozenset[str] = frozenset()
    step_s: float = 1.0  # predicted


class SurvivingEngine(Engine):
    """`plan`: where the model goes on the nodes of these names (the head's included, at first all of them);
    CapacityError, with what is missing, if nowhere. `tell`: what happened, in a sentence."""

    def __init__(
        self,
        model: str,
        members: Members,
        plan: Callable[[frozenset[str]], Layout],
        *,
        slots: int,
        context: int,
        tell: Tell,
    ) -> None:
        self._model, self._members, self._plan = model, members, plan
        self._slots, self._context, self._tell = slots, context, tell
        self._head = members.runtime.device
        self._here = {self._head, *members.addresses()}
        self._full: dict[str, Address | None] = {}  # who had no room for its part, and which process that was
        self._links: list[Link] = []
        self._linking = threading.Lock()
        self._health = Health(members.addresses, members.reach)
        self._watch = Watch(self._health, self._interrupt)
        self._loaded: PlacedRunner | None = None
        try:
            super().__init__(self._load())
        except BaseException:
            self.close()
            raise

    def step(self) -> list[Stream]:
        """As an Engine's; no stream gets a token from a step that failed."""
        self._take_back()
        if not self._loaded:
            self.rebuild(self._load())
        try:
            with self._watch.over([name for name in self.used if name != self._head]):
                return super().step()
        except ClusterError as error:
            started = monotonic()
            self._part(error)
            self.rebuild(self._load())
            self._tell(f"the streams go on with {', '.join(self.used)}, {monotonic() - started:.1f} s after that")
            return []

    def close(self) -> None:
        self._watch.close()
        self._health.close()
        self._unload()

    # -- who is there

    def _part(self, error: ClusterError) -> None:
        """Drop the load, and who does not answer."""
        self._interrupt()  # nobody waits for the answers that were under way
        self._unload()
        known, self._watch.silent = self._watch.silent & self._here, frozenset()  # waiting for them once was enough
        silent = known | self._health.silent(self._here - known - {self._head}, anew=True)
        for name in sorted(silent):
            self._tell(f"{name} is lost: it does not answer ({error})")
        if not silent:
            self._tell(f"every node answers, but a call failed: loading again ({error})")
        self._here -= silent
        self._watch.lost |= silent

    def _refuse(self, error: CapacityError) -> None:
        """Leave out the node that had no room for its part, which the sentence begins with."""
        name = str(error).partition(":")[0]
        if name not in self._here or name == self._head:
            raise error
        self._tell(f"{name} is left out: {str(error).partition(': ')[2]}")
        self._full[name] = self._members.addresses().get(name)
        self._here -= {name}
        self._watch.lost |= {name}

    def _take_back(self) -> None:
        if not (back := self._accept(self._watch.returned & self._watch.lost)):
            return
        names = ", ".join(sorted(back))
        if self._loaded:
            if self._plan(frozenset(self._here)).step_s > WORTH * self._planned.step_s:
                self._tell(f"{names} is back; the streams stay where they are, as that is as fast")
                return
            self._unload()
        self._tell(f"{names} is back, and is taken in")

    def _call_back(self) -> bool:
        """Where the rest is too small: whether a lost node answers by now, before the watch looked again."""
        lost = self._watch.lost
        if back := self._accept(lost - self._health.silent(lost)):
            self._tell(f"{', '.join(sorted(back))} is back, and is taken in")
        return bool(back)

    def _accept(self, back: frozenset[str]) -> frozenset[str]:
        """Who of these can be used again."""
        if back & self._full.keys():  # the same process has no more room than before
            addresses = self._members.addresses()
            back -= {name for name, address in self._full.items() if addresses.get(name) == address}
        self._watch.lost -= back
        self._watch.returned -= back
        self._here |= back
        return back

    # -- the load

    def _load(self) -> PlacedRunner:
        """On who is there; who falls silent meanwhile is left out."""
        last: ClusterError | None = None
        for _ in range(TRIES):
            try:
                plan = self._plan(frozenset(self._here))
            except CapacityError as error:
                if self._call_back():
                    continue
                raise CapacityError(f"with {', '.join(sorted(self._here))} alone: {error}") from error
            try:
                return self._load_as(plan)
            except CapacityError as error:
                self._refuse(error)
            except ClusterError as error:
                last = error
                self._part(error)
        raise ClusterError(f"{TRIES} loads in a row failed: {last or 'nodes refused'}") from last

    def _load_as(self, plan: Layout) -> PlacedRunner:
        self.used = devices_of(plan.placement)
        addresses = {**self._members.addresses(), self._head: self._members.own}
        if missing := set(self.used) - addresses.keys():
            raise ClusterError(f"{', '.join(sorted(missing))} is no member now")
        site = Site(self._members.runtime, addresses, self._connect)
        with self._watch.over([name for name in self.used if name != self._head]):
            self._loaded = PlacedRunner(
                self._model, plan.placement, site, n_slots=self._slots, context=self._context, stored=plan.stored
            )
        self._planned = plan
        return self._loaded

    def _unload(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded:
            loaded.close()
        with self._linking:
            self._links = []

    def _connect(self, host: str, port: int) -> Link:
        link = self._members.reach(host, port, 2.0)
        with self._linking:
            self._links.append(link)
        return link

    def _interrupt(self) -> None:
        with self._linking:
            for link in self._links:
                link.interrupt()
        self._members.runtime.interrupt()
