"""NodeRuntime: one device of a node, answering the head and the other homes (`cluster.server.Handler`).

The head runs one in its own process for the device it owns, so that a node and the head load and compute by the same
code. Calls come from several threads: arithmetic is safe in the ops; loading replaces everything at once.
"""

import logging
import resource
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from motley.cluster.assignment import Assignment
from motley.cluster.fetching import fetch
from motley.cluster.kept import Kept
from motley.cluster.link import Link
from motley.cluster.remote import RemoteExperts, RemoteRows, ask, measure
from motley.cluster.weights import Layout, Served
from motley.engine.assign import Address
from motley.engine.device import DeviceModel, planned_bytes
from motley.engine.parts import ranges_of
from motley.engine.reuse import Reuse
from motley.engine.rows import Key
from motley.engine.runner import ExchangeCount
from motley.engine.trace import Span, Tracer
from motley.errors import CapacityError, ClusterError, FormatError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.tensor import Checkpoint
from motley.lab.lab import Device
from motley.ops.protocol import Batch, Ops
from motley.predict.memory import kernels_named, kv_bytes, packed_bytes, streaming_bytes, work_bytes
from motley.progress import Progress, silent
from motley.shape.model import ModelShape

log = logging.getLogger("motley.node")

Connect = Callable[[str, int], Link]


class NodeRuntime:
    """`memory_bytes`: what the whole process may take: weights, KV cache, activations, interpreter; 0: no limit.
    `store`: the folder for weights that are fetched; without it none are. `end`: what the
    doctor asks of the machine."""

    def __init__(
        self,
        device: str,
        ops: Ops,
        connect: Connect,
        memory_bytes: int = 0,
        probe: Callable[[Progress], Device] | None = None,
        store: Path | None = None,
        end: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.device = device
        self._probe, self._end = probe, end
        self.ops = ops
        self._connect = connect
        self._memory_bytes = memory_bytes
        self._loaded: DeviceModel | None = None
        self._links: list[Link] = []
        self._loading = threading.Lock()
        self._epoch = 0
        self._store = store
        self._served: dict[str, Served] = {}
        self._of_thread = threading.local()  # the epoch that was loaded over this thread's connection

    # -- cluster.server.Handler

    def load(self, assignment: Assignment, progress: Progress) -> dict[str, Any]:
        """Replace what was loaded. Raises CapacityError before reading a weight if it can't fit."""
        with self._loading:
            if assignment.epoch < self._epoch:
                raise ClusterError("a newer load came before this one: it is not done")
            self._epoch = self._of_thread.epoch = assignment.epoch
            self._drop()
            started = time.perf_counter()
            checkpoint = self._checkpoint(assignment, progress)
            layers = (
                range(assignment.home_layers[0], assignment.home_layers[-1] + 1) if assignment.home_layers else range(0)
            )
            shape = shape_of(checkpoint).with_cache(assignment.cache or "f16")
            self._require_memory(shape, layers, assignment)
            try:
                self._loaded = self._built(checkpoint, layers, assignment, progress)
            except MemoryError as error:
                raise CapacityError(f"the memory of {self.device} ran out while loading: free some of it") from error
            reuse = Reuse.of([shape.mixers[i] for i in layers], self.ops.rewind)
            return {"bytes": self._loaded.n_bytes, "seconds": time.perf_counter() - started, "reuse": asdict(reuse)}

    def experts(
        self, layer: int, x: NDArray[np.float32], ids: NDArray[np.int32], weights: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        return self._model().run_experts(layer, x, ids, weights)

    def stage(self, batch: Batch, x: NDArray[np.float32] | None) -> tuple[NDArray[np.float32], dict[str, float]]:
        if getattr(self._of_thread, "epoch", self._epoch) != self._epoch:
            # A call that a stopped process finds in its socket when it goes on would write into the new load's cache.
            raise ClusterError("this call was meant for a load that was replaced")
        model = self._model()
        if model.stage is None:
            raise ClusterError("no layers are at home on this node")
        before = model.clock.times
        y = model.stage.forward(batch, x)
        return y, (model.clock.times - before).parts()

    def rows(self, layer: int | None, h: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._model().run_rows(layer, h)

    def fetch(self, file_hash: str, start: int, end: int) -> memoryview:
        return self._serving(file_hash).piece(start, end)

    def ask(self, what: str, arguments: dict[str, Any], progress: Progress = silent) -> dict[str, Any]:
        if what == "unload":
            self.unload()
            return {}
        if what == "routes":
            return {"routes": self.routes().tolist()}
        if what == "exchanges":
            return {"exchanges": [asdict(x) for x in self.exchanges()]}
        if what == "probe" and self._probe:
            facts: dict[str, Any] = msgspec.to_builtins(self._probe(progress))
            return facts
        if what == "measure":
            return self._measure(str(arguments.get("host")), int(arguments.get("port", 0)))
        if what == "clock":
            return {"now": time.perf_counter(), "wall": time.time()}
        if what == "end" and self._end:
            return self._end()
        if what == "trace":
            return {"spans": self.trace(bool(arguments.get("on")))}
        if what == "file":
            served = self._served.get(str(arguments.get("hash")))
            return served.facts() if served else {}
        if what == "digest":
            served = self._serving(str(arguments.get("hash")))
            return {"digest": served.digest(int(arguments.get("start", 0)), int(arguments.get("end", 0)))}
        if what == "memory":
            return {"peak_bytes": peak_memory_bytes()}
        raise ClusterError(f"this node cannot answer {what!r}")

    # -- the head's own device, in process

    def serve_file(self, path: str) -> str:
        """Let other nodes fetch their parts of it; returns its hash."""
        return self._serve(open_checkpoint(path)).hash

    def routes(self) -> NDArray[np.int64]:
        """How often the layers at home here chose each expert: [layers, E]."""
        return self._model().placed.chosen()

    def trace(self, on: bool) -> list[Span]:
        """What was collected so far, by this process's clock; from now on it is collected, or no longer."""
        clock = self._model().clock
        before = clock.tracer
        clock.trace(Tracer(self.device) if on else None)
        return before.take() if before else []

    def exchanges(self) -> list[ExchangeCount]:
        """What the layers at home here asked of experts elsewhere, by owner."""
        return [
            ExchangeCount(self.device, device, transport, rounds.count, rounds.seconds, rounds.work_seconds)
            for device, (transport, rounds) in self._model().exchanged().items()
        ]

    def unload(self) -> None:
        """Forget the model and give its memory back."""
        with self._loading:
            self._drop()

    def interrupt(self) -> None:
        """From any thread: who waits for experts elsewhere waits no longer."""
        for link in list(self._links):
            link.interrupt()

    def close(self) -> None:
        self.unload()
        self.ops.close()

    # -- inside

    def _checkpoint(self, assignment: Assignment, progress: Progress) -> Checkpoint:
        """The file at the same path here, if it is the same file; else what this node keeps of it, or fetches."""
        if Path(assignment.model).exists():
            checkpoint = open_checkpoint(assignment.model)
            if checkpoint.hash == assignment.hash:
                return self._serve(checkpoint)  # to peers that don't have it
        if not (assignment.source and self._store):
            raise FormatError(f"{assignment.model} is not here, or not the file the head has: copy it to this machine")
        kept = self._fetch(assignment, self._store, assignment.source, progress)
        checkpoint = open_checkpoint(kept.path)
        if checkpoint.hash != assignment.hash:
            kept.forget()
            raise FormatError(f"what the head sent of {assignment.model} is not the file it named: load it again")
        return checkpoint

    def _fetch(self, assignment: Assignment, store: Path, source: Address, progress: Progress) -> Kept:
        def to(address: Address) -> Callable[[], Link]:
            return lambda: self._connect(*address)

        link = self._connect(*source)
        try:
            facts = ask(link, "file", hash=assignment.hash)
        finally:
            link.close()
        if not facts:
            raise FormatError(f"{assignment.model} is not here, and the head no longer serves it: load it again")
        layout = Layout.read(facts.get("files"))
        kept = Kept.open(store, assignment.hash, layout)
        fetch(kept, layout.identity(), to(source), progress=progress)
        self._served = {assignment.hash: Served(layout, kept.mapped(), kept.there)}
        checkpoint = open_checkpoint(kept.path)
        wanted = ranges_of(checkpoint, assignment, shape_of(checkpoint).n_layers)
        peers = [to(address) for address in assignment.holders if address != source]
        fetched = fetch(kept, wanted, to(source), peers, progress, seed=self.device)
        if fetched.n_bytes:
            from_peers = f", {fetched.from_peers / 1e6:.0f} MB of it from other nodes" if fetched.from_peers else ""
            log.info("%s: fetched %.0f MB%s into %s", self.device, fetched.n_bytes / 1e6, from_peers, store)
        return kept

    def _serve(self, checkpoint: Checkpoint) -> Checkpoint:
        if checkpoint.hash not in self._served:
            self._served = {checkpoint.hash: Served.of(checkpoint)}
        return checkpoint

    def _serving(self, file_hash: str) -> Served:
        if (served := self._served.get(file_hash)) is None:
            raise ClusterError(f"this node serves no file of hash {file_hash[:32]!r}")
        return served

    def _model(self) -> DeviceModel:
        if self._loaded is None:
            raise ClusterError("no model is loaded on this node")
        return self._loaded

    def _drop(self) -> None:
        self._loaded = None
        for link in self._links:
            link.interrupt()  # a stage that is stuck may be waiting on it, in a thread of its own
        self._links = []

    def _built(self, checkpoint: Checkpoint, layers: range, assignment: Assignment, progress: Progress) -> DeviceModel:
        links = {device: self._reach(at) for device, at in assignment.peers.items()}
        return DeviceModel(
            checkpoint,
            self.ops,
            layers=layers,
            experts=assignment.experts,
            owners={d: (RemoteExperts(links[d]), _owned_by(d, assignment)) for d in _owners_in(assignment)},
            rows=_rows_here(assignment),
            row_owners={d: (RemoteRows(links[d]), rows) for d, rows in _rows_elsewhere(assignment).items()},
            paces=assignment.paces,
            streams=assignment.streams,
            n_slots=assignment.slots,
            context=assignment.context,
            cache=assignment.cache,
            repack=assignment.repack,
            progress=progress,
        )

    def _reach(self, address: tuple[str, int]) -> Link:
        link = self._connect(*address)
        self._links.append(link)
        return link

    def _measure(self, host: str, port: int) -> dict[str, Any]:
        """The link from here to another node."""
        link = self._connect(host, port)
        try:
            return asdict(measure(link))
        finally:
            link.close()

    def _require_memory(self, shape: ModelShape, layers: range, assignment: Assignment) -> None:
        """By the same sums as the planner's, from the file instead of the plan."""
        if not self._memory_bytes:
            return
        cache = kv_bytes(shape, layers, assignment.context, assignment.slots)
        work = work_bytes(shape, assignment.step_tokens, home=bool(layers))
        streams = {
            layer: (at_once, sum(len(assignment.elsewhere[layer][d]) for d in devices))
            for layer, (_, at_once, devices) in assignment.streams.items()
        }
        work += streaming_bytes(shape, streams, assignment.step_tokens)
        weights = planned_bytes(shape, layers, assignment.experts, _rows_here(assignment))
        kernels = kernels_named(self.ops.name)
        as_stored = kernels == "native" and not assignment.repack
        need = (weights if as_stored else packed_bytes(shape, weights, kernels)) + cache + work
        if need > self._memory_bytes:
            raise CapacityError(
                f"{assignment.device} was given {self._memory_bytes / 1e6:.0f} MB, and its part of the model needs "
                f"{need / 1e6:.0f} MB: give it more memory, a shorter context, fewer experts or smaller steps "
                "(--step-tokens)"
            )


def _owners_in(assignment: Assignment) -> list[str]:
    return list(dict.fromkeys(device for owners in assignment.elsewhere.values() for device in owners))


def _owned_by(device: str, assignment: Assignment) -> dict[int, tuple[int, ...]]:
    return {layer: owners[device] for layer, owners in assignment.elsewhere.items() if device in owners}


def _rows_here(assignment: Assignment) -> dict[Key, range]:
    here: dict[Key, range] = {layer: range(*part) for layer, part in assignment.projections.items()}
    return here if assignment.head_rows is None else {**here, None: range(*assignment.head_rows)}


def _rows_elsewhere(assignment: Assignment) -> dict[str, dict[Key, range]]:
    found: dict[str, dict[Key, range]] = {d: {None: range(*part)} for d, part in assignment.head_elsewhere.items()}
    for layer, parts in assignment.projections_elsewhere.items():
        for device, part in parts.items():
            found.setdefault(device, {})[layer] = range(*part)
    return found


def peak_memory_bytes() -> int:
    """The largest resident size this process had; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
