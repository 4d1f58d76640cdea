"""SurvivingEngine: an Engine whose streams outlive the nodes. Owns who is in use, the plan, and the load.

When a step or a load fails, every node in use is asked whether it is there; who does not answer is left out, the rest
is planned for anew and loaded, and the engine computes its sequences again from their tokens. That gives the same
tokens, because a token's bits depend neither on the placement nor on the chunks (docs/architecture.md). Where the rest
is too small, the step raises CapacityError and the streams stay: a later step tries again. A node that is back is
taken in between two steps where the plan with it is faster. One that was never here before is measured while the
streams go on (`newcomers`), and what it would bring is told; it is taken in like one that is back where `grow` says so,
otherwise with the next load that has another reason. It never sees a tensor.
"""

import queue
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from time import monotonic

from motley.cluster.link import Link
from motley.engine.assign import Address, devices_of
from motley.engine.engine import Engine, Stream
from motley.engine.health import Health, Reach, Watch
from motley.engine.newcomers import Meet, Newcomers
from motley.engine.node import NodeRuntime
from motley.engine.placed import PlacedRunner, Site
from motley.errors import CapacityError, ClusterError
from motley.lab.placement import Placement
from motley.predict.workload import STEP_TOKENS
from motley.shape.mixer import CacheType

WORTH = 0.95  # of the present plan's seconds a step: a return that does not get below is not worth the loading
TRIES = 8  # loads in a row, before it is given up

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Members:
    """The head's own device, the other nodes wherever they are now, and how to reach them. `own`: the head's address,
    for nodes that ask its experts. `meet` measures those that are not `known`; without it they are not looked for."""

    runtime: NodeRuntime
    own: Address
    addresses: Callable[[], Mapping[str, Address]]
    reach: Reach
    meet: Meet | None = None
    known: Collection[str] = ()


@dataclass(frozen=True)
class Layout:
    """What a plan says that a load needs."""

    placement: Placement
    stored: frozenset[str] = frozenset()
    step_s: float = 1.0  # predicted


class SurvivingEngine(Engine):
    """`plan`: where the model goes on the nodes of these names (the head's included, at first all of them);
    CapacityError, with what is missing, if nowhere; ClusterError if one can't be asked. `grow`: newcomers are taken in
    at once. `tell`: what happened, in a sentence."""

    def __init__(
        self,
        model: str,
        members: Members,
        plan: Callable[[frozenset[str]], Layout],
        *,
        slots: int,
        context: int,
        step_tokens: int = STEP_TOKENS,
        cache: CacheType | None = None,
        grow: bool = False,
        tell: Tell,
    ) -> None:
        self._model, self._members, self._plan = model, members, plan
        self._slots, self._context, self._cache, self._tell = slots, context, cache, tell
        self._step_tokens = step_tokens
        self._head, self._grow = members.runtime.device, grow
        self._here = {self._head, *members.addresses()}
        self._full: dict[str, Address | None] = {}  # who had no room for its part, and which process that was
        self._links: list[Link] = []
        self._linking = threading.Lock()
        self._health = Health(members.addresses, members.reach)
        self._watch = Watch(self._health, self._interrupt)
        self._loaded: PlacedRunner | None = None
        self._newcomers: Newcomers | None = None
        self._met: frozenset[str] = frozenset()  # newcomers of which loads know
        self._wanted: queue.SimpleQueue[frozenset[str]] = queue.SimpleQueue()  # newcomers that are worth a load
        try:
            super().__init__(self._load(), chunk=step_tokens)
        except BaseException:
            self.close()
            raise
        if members.meet:
            self._newcomers = Newcomers(members.addresses, members.known, members.meet, self._offer, tell)

    def step(self) -> list[Stream]:
        """As an Engine's; no stream gets a token from a step that failed, or that loaded."""
        self._take_back()
        if wanted := self._take_wanted():
            self._tell(f"{', '.join(sorted(wanted))} is taken in")
            self._unload()
            self._load_anew(monotonic())
            return []
        if not self._loaded:
            self.rebuild(self._load())
            return []  # whoever measures steps should not take a load for one
        try:
            with self.watched():
                return super().step()
        except ClusterError as error:
            started = monotonic()
            self._part(error)
            self._load_anew(started)
            return []

    def watched(self) -> AbstractContextManager[None]:
        """Who waits within for a node that does not answer gets a ClusterError."""
        return self._watch.over([name for name in self.used if name != self._head])

    def close(self) -> None:
        if self._newcomers:
            self._newcomers.close()
        self._watch.close()
        self._health.close()
        self._unload()

    @property
    def layout(self) -> Layout:
        """The plan in use."""
        return self._planned

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
            try:
                step_s = self._plan(frozenset(self._here)).step_s
            except (CapacityError, ClusterError) as error:
                self._tell(f"{names} is back, and of no use yet: {error}")
                return
            if step_s > WORTH * self._planned.step_s:
                self._tell(f"{names} is back; the streams stay where they are, as that is as fast")
                return
            self._unload()
        self._tell(f"{names} is back, and is taken in")

    def _offer(self, new: frozenset[str]) -> None:
        """Say what newcomers would bring. From their thread."""
        names, planned = ", ".join(sorted(new)), self._planned
        try:
            step_s = self._plan(frozenset(self._here) | new).step_s
        except CapacityError as error:
            self._tell(f"{names} is new, and of no use yet: {error}")
            return
        if step_s > WORTH * planned.step_s:
            self._tell(f"{names} is new; the streams stay where they are, as that is as fast")
            return
        when = (
            "it is taken in between two steps"
            if self._grow
            else "it is taken in with the next load, or with --grow at once"
        )
        times = planned.step_s / step_s
        self._tell(
            f"with {names} it would be {times:.1f} times as fast ({1e3 * step_s:.3g} ms a step, not "
            f"{1e3 * planned.step_s:.3g}): {when}"
        )
        if self._grow:
            self._wanted.put(new)

    def _take_wanted(self) -> frozenset[str]:
        """Those that are still there and that no load knows yet: where nothing is loaded, the next one will."""
        wanted: frozenset[str] = frozenset()
        with suppress(queue.Empty):
            while True:
                wanted |= self._wanted.get_nowait()
        if not (wanted and self._loaded and self._newcomers):
            return frozenset()
        return wanted & self._newcomers.there() - self._met

    def _call_back(self) -> bool:
        """Where the rest is too small: whether somebody is there by now: a newcomer, or a lost node that answers,
        before the watch looked again."""
        lost = self._watch.lost
        if self._welcome():
            return True
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

    def _welcome(self) -> frozenset[str]:
        """The newcomers that a load may count on from now on."""
        new = (self._newcomers.there() if self._newcomers else frozenset()) - self._met
        self._met |= new
        self._here |= new
        return new

    # -- the load

    def _load(self) -> PlacedRunner:
        """On who is there; who falls silent meanwhile is left out."""
        last: ClusterError | None = None
        self._welcome()
        for _ in range(TRIES):
            try:
                plan = self._plan(frozenset(self._here))
            except CapacityError as error:
                if self._call_back():
                    continue
                raise CapacityError(f"with {', '.join(sorted(self._here))} alone: {error}") from error
            except ClusterError as error:
                last = error
                self._part(error)
                continue
            try:
                return self._load_as(plan)
            except CapacityError as error:
                self._refuse(error)
            except ClusterError as error:
                last = error
                self._part(error)
        raise ClusterError(f"{TRIES} loads in a row failed: {last or 'nodes refused'}") from last

    def _load_anew(self, started: float) -> None:
        """`started`: when that became necessary."""
        self.rebuild(self._load())
        self._tell(f"the streams go on with {', '.join(self.used)}, {monotonic() - started:.1f} s after that")

    def _load_as(self, plan: Layout) -> PlacedRunner:
        self.used = devices_of(plan.placement)
        addresses = {**self._members.addresses(), self._head: self._members.own}
        if missing := set(self.used) - addresses.keys():
            raise ClusterError(f"{', '.join(sorted(missing))} is no member now")
        site = Site(self._members.runtime, addresses, self._connect)
        with self.watched():
            self._loaded = PlacedRunner(
                self._model,
                plan.placement,
                site,
                n_slots=self._slots,
                context=self._context,
                step_tokens=self._step_tokens,
                cache=self._cache,
                stored=plan.stored,
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
