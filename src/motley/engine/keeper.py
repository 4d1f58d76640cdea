"""Keeper: keeps a placed model running on whoever is there. Nodes die, stop, and come back; it plans and loads anew.

It owns the present runner and the pool's changes, and says in words what happened. Sequences are the engine's
(`engine.enduring`), which computes them anew from their tokens on each runner that it is given.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from motley.cluster.membership import Inventory
from motley.cluster.pool import Pool
from motley.cluster.remote import ask
from motley.engine.placed import PlacedRunner, Site
from motley.errors import CapacityError, ClusterError, NodeLost
from motley.lab.lab import Lab
from motley.plan.plan import Plan
from motley.progress import Progress, silent

LOOK_S = 0.25
LONG_STEP_S = 1.0  # a step that takes longer makes the watcher ask who is there; slow nodes answer, and are waited for
BETTER = 1.05  # so much faster a placement must be predicted before streams are held up for it
MOST_TRIES = 5  # without a node lost: the same nodes are loaded anew, for a link may break by itself


class Keeper:
    """`find`: the plan on a lab. `lab`: everybody's figures, measured before; nodes it does not know are not used.
    `tell`: gets one sentence for each thing that happened. A context manager: the model is loaded inside it."""

    def __init__(
        self,
        model: str,
        pool: Pool,
        site: Site,
        lab: Lab,
        find: Callable[[Lab], Plan],
        *,
        slots: int,
        context: int,
        tell: Callable[[str], None] = lambda sentence: None,
        progress: Progress = silent,
    ) -> None:
        self._model, self._pool, self._site, self._lab, self._find = model, pool, site, lab, find
        self._slots, self._context = slots, context
        self._tell, self._progress = tell, progress
        self.runner: PlacedRunner | None = None
        self.plan: Plan | None = None
        self._started = 0.0  # of what is watched now; 0: nothing is
        self._lost: dict[str, str] = {}  # as the watcher found them, when it broke the links
        self._returned: dict[str, Inventory] = {}
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="keeper", daemon=True)

    def __enter__(self) -> "Keeper":
        self._watcher.start()
        try:
            self._open()
        except ClusterError as error:
            self.recover(error)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._watcher.join()
        self._close()

    # -- for the engine

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While this lasts, whoever waits for a lost node is set free with a LinkError."""
        self._started = time.monotonic()
        try:
            yield
        finally:
            self._started = 0.0

    def recover(self, error: ClusterError) -> PlacedRunner:
        """A step or a load failed: a runner on who is left. NodeLost, in words, where they can't hold the model."""
        began = time.monotonic()
        for _ in range(MOST_TRIES + len(self._pool.nodes)):
            lost = self._drop_lost()
            self._tell(self._said_of(lost, error))
            self._close()
            try:
                self._pool.refresh_links()
                runner = self._open()
            except ClusterError as again:  # another one, while loading
                error = again
                continue
            except CapacityError as missing:
                raise NodeLost(f"{self._said_of(lost, error)}; what is left can't hold the model: {missing}") from error
            self._tell(
                f"the model is loaded on {self._used()}, {time.monotonic() - began:.1f} s after the loss was noticed"
            )
            return runner
        raise error

    def improve(self) -> PlacedRunner | None:
        """A faster runner, where nodes came back that make one. Between steps."""
        returned, self._returned = self._returned, {}
        for name, node in returned.items():
            if name in self._pool.nodes or all(name != device.name for device in self._lab.devices):
                continue
            with suppress(ClusterError):  # it is gone again
                self._pool.take(node)
                self._tell(f"node {name} is back")
        if not returned or self.plan is None:
            return None
        self._set_addresses()
        plan = self._find(self._present_lab())
        if plan.prediction.p50 < BETTER * self.plan.prediction.p50:
            return None
        self._close()
        with self.watching():
            runner = self._open()
        self._tell(f"the model is loaded on {self._used()}, which is predicted to be faster")
        return runner

    # -- inside

    def _open(self) -> PlacedRunner:
        self._set_addresses()
        self.plan = self._find(self._present_lab())
        with self.watching():
            self.runner = PlacedRunner(
                self._model,
                self.plan.placement,
                self._site,
                n_slots=self._slots,
                context=self._context,
                stored=self.plan.stored,
                progress=self._progress,
            )
        self._unload_unused(self.runner)
        return self.runner

    def _close(self) -> None:
        if self.runner:
            self.runner.close()
        self.runner = None

    def _drop_lost(self) -> dict[str, str]:
        lost, self._lost = self._lost or self._pool.find_lost(), {}
        for name in lost:
            self._pool.drop(name)
        self._pool.interrupt()
        return lost

    def _said_of(self, lost: dict[str, str], error: ClusterError) -> str:
        if not lost:
            return f"all nodes answer, yet a step failed ({error}): loading anew"
        return "; ".join(f"node {name} is lost: {how}" for name, how in lost.items())

    def _present_lab(self) -> Lab:
        return self._lab.subset({self._site.device, *self._pool.nodes})

    def _set_addresses(self) -> None:
        own = self._site.addresses[self._site.device]
        there = {name: (node.host, node.port) for name, node in self._pool.nodes.items()}
        self._site = Site(self._site.runtime, {self._site.device: own, **there}, self._site.connect)

    def _used(self) -> str:
        placement = self.plan.placement if self.plan else None
        layers = placement.layers if placement else ()
        return ", ".join(dict.fromkeys(d for layer in layers for d in [layer.home, *layer.holders]))

    def _unload_unused(self, runner: PlacedRunner) -> None:
        """A node that the plan no longer uses gives its memory back."""
        for name in self._pool.nodes.keys() - runner.devices():
            with suppress(ClusterError):
                ask(self._pool.links[name], "unload")

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._ended.wait(LOOK_S):
            started = self._started
            if started and time.monotonic() - started > LONG_STEP_S:
                lost = self._pool.find_lost()
                if lost and self._started == started:
                    self._lost = lost
                    self._pool.interrupt()
            elif time.monotonic() - looked > 4 * LOOK_S:
                looked = time.monotonic()
                self._returned = self._pool.find_returned() or self._returned
