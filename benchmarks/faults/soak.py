"""Streams that go on all the time over a local cluster while its nodes are killed, stopped, slowed and starved.

Every finished stream is compared with an undisturbed greedy run on one device. The experts are spread over every node
that is there, so that each fault is felt. Gaps are between two tokens of one stream. In a checkout: PYTHONPATH=src.

    python benchmarks/faults/soak.py [--faults 200] [--minutes 30] [--nodes 3] [--streams 4] [--seed 1] [--json FILE]
"""

import argparse
import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from motley.bundled import heldout_path, model_path
from motley.cluster.local import LocalCluster, LocalNode
from motley.cluster.server import Server
from motley.cluster.tcp_link import listen
from motley.engine.engine import Engine, Stream
from motley.engine.local import LocalRunner
from motley.engine.node import NodeRuntime
from motley.engine.survival import Layout, Members, SurvivingEngine
from motley.errors import CapacityError, ClusterError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.tokenizer import Tokenizer
from motley.lab.placement import LayerPlacement, Placement
from motley.ops.native import NativeOps

CONTEXT, TOKENS = 320, 120
HANG_S = 60.0
KINDS = ("kill", "stop", "kill one, stop another", "slow", "memory")


def spread(names: frozenset[str]) -> Layout:
    """Homes and experts over everybody; the head alone counts as too small."""
    there, shape = sorted(names), shape_of(open_checkpoint(model_path()))
    if len(there) < 2:
        raise CapacityError("the head alone is too small by this soak's rule")
    homes = [there[i * len(there) // shape.n_layers] for i in range(shape.n_layers)]
    owners = tuple(there[e % len(there)] for e in range(shape.n_experts))
    return Layout(Placement(tuple(LayerPlacement(home, owners) for home in homes)), step_s=1 / len(there))


def prompts(rng: random.Random, n: int) -> list[list[int]]:
    tokenizer = Tokenizer.from_metadata(open_checkpoint(model_path()).metadata)
    tokens = tokenizer.encode_prompt(heldout_path().read_text()[:20_000])
    starts = [rng.randrange(len(tokens) - 200) for _ in range(n)]
    return [tokens[start : start + rng.randint(4, 150)] for start in starts]


def undisturbed(asks: list[list[int]]) -> list[list[int]]:
    runner = LocalRunner(open_checkpoint(model_path()), NativeOps(threads=1), context=CONTEXT)
    engine = Engine(runner)
    answers = [list(engine.generate(prompt, TOKENS)) for prompt in asks]
    runner.close()
    return answers


@dataclass
class Fault:
    at: float
    kind: str
    names: list[str]
    longest_gap_s: float = 0.0


@dataclass
class Record:
    faults: list[Fault] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    finished: int = 0
    wrong: int = 0
    lost: int = 0
    refusals: int = 0
    problems: list[str] = field(default_factory=list)


class Injector(threading.Thread):
    """One fault after the other, until `faults` or the time is over; what it broke, it mends."""

    def __init__(self, cluster: LocalCluster, record: Record, rng: random.Random, faults: int, until: float) -> None:
        super().__init__(name="faults", daemon=True)
        self._cluster, self._record, self._rng, self._faults, self._until = cluster, record, rng, faults, until

    def run(self) -> None:
        for _ in range(self._faults):
            time.sleep(self._rng.uniform(1.0, 3.0))
            if time.monotonic() > self._until:
                return
            kind = self._rng.choice(KINDS)
            names = self._rng.sample(sorted(self._cluster.pids()), 2)
            self._record.faults.append(Fault(time.monotonic(), kind, names))
            try:
                self._inject(kind, *names)
            except (ClusterError, OSError) as error:
                self._record.problems.append(f"{kind} {names}: {error}")

    def _inject(self, kind: str, one: str, other: str) -> None:
        pause = self._rng.uniform(0.2, 6.0)
        if kind == "kill":
            self._signal(one, signal.SIGKILL)
            time.sleep(pause)
            self._cluster.restart(one)
        elif kind == "stop":
            self._stopped(one, pause)
        elif kind == "kill one, stop another":
            self._signal(one, signal.SIGKILL)
            self._stopped(other, pause)
            self._cluster.restart(one)
        elif kind == "slow":
            for _ in range(int(pause / 0.1)):  # a tenth of its time, about
                self._stopped(one, 0.09)
                time.sleep(0.01)
        else:  # one has no room for the load that the other's end makes necessary
            process = psutil.Process(self._cluster.pids()[one])
            most = process.memory_info().vms - (4 << 20)  # nothing can be mapped any more
            process.rlimit(psutil.RLIMIT_AS, (most, most))
            self._signal(other, signal.SIGKILL)
            time.sleep(pause)
            self._cluster.restart(other)
            self._cluster.restart(one)

    def _signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self._cluster.pids()[name], number)

    def _stopped(self, name: str, seconds: float) -> None:
        self._signal(name, signal.SIGSTOP)
        time.sleep(seconds)
        self._signal(name, signal.SIGCONT)


class Streams:
    """Keeps `n` streams going, times their tokens and checks their answers."""

    def __init__(self, engine: Engine, n: int, asks: list[list[int]], wanted: list[list[int]], record: Record) -> None:
        self._engine, self._asks, self._wanted, self._record = engine, asks, wanted, record
        self._next, self._going = 0, dict[Stream, tuple[int, float]]()
        for _ in range(n):
            self._submit()

    def _submit(self) -> None:
        which = self._next % len(self._asks)
        self._next += 1
        self._going[self._engine.submit(self._asks[which], TOKENS)] = which, 0.0

    def step(self, more: bool) -> None:
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        try:
            told = self._engine.step()
        except CapacityError:
            self._record.refusals += 1
            time.sleep(0.1)
            return
        now = time.monotonic()
        for stream in told:
            which, before = self._going[stream]
            self._going[stream] = which, now
            if before:
                self._gap(now - before, now)
            if stream.done:
                del self._going[stream]
                self._record.finished += 1
                self._record.wrong += stream.answer != self._wanted[which]
                if more:
                    self._submit()

    def finish(self) -> None:
        while self._engine.busy:
            self.step(more=False)
        self._record.lost = len(self._going)

    def _gap(self, seconds: float, now: float) -> None:
        self._record.gaps.append(seconds)
        for fault in reversed(self._record.faults):
            if fault.at < now - seconds - 1:
                break
            if fault.at < now:
                fault.longest_gap_s = max(fault.longest_gap_s, seconds)


def held() -> dict[str, int]:
    own = psutil.Process()
    return {
        "rss_mb": own.memory_info().rss >> 20,
        "descriptors": own.num_fds(),
        "threads": own.num_threads(),
        "children": len(own.children(recursive=True)),
    }


def soak(args: argparse.Namespace) -> dict[str, Any]:
    rng, record = random.Random(args.seed), Record()
    asks = prompts(rng, 12)
    wanted = undisturbed(asks)
    started = time.monotonic()
    with ExitStack() as stack:
        names = [f"n{i}" for i in range(1, args.nodes + 1)]
        cluster = stack.enter_context(LocalCluster([LocalNode(name, 1, 0) for name in names]))
        runtime = NodeRuntime("head", NativeOps(threads=1), cluster.reach)
        stack.callback(runtime.close)
        server = Server(listen(), runtime, cluster=cluster.access.cluster, name="head", token=cluster.access.token)
        stack.callback(server.close)
        members = Members(runtime, (server.listener.host, server.listener.port), cluster.addresses, cluster.reach)
        engine = SurvivingEngine(
            str(model_path()), members, spread, slots=args.streams, context=CONTEXT, tell=record.told.append
        )
        stack.callback(engine.close)
        streams = Streams(engine, args.streams, asks, wanted, record)
        injector = Injector(cluster, record, rng, args.faults, started + 60 * args.minutes)
        for _ in range(200):
            streams.step(more=True)
        before = held()
        injector.start()
        while injector.is_alive():
            streams.step(more=True)
        streams.finish()
        after = held()
    faulthandler.cancel_dump_traceback_later()
    left = [child.pid for child in psutil.Process().children(recursive=True)]
    return result(args, record, time.monotonic() - started, before, after, left)


def result(
    args: argparse.Namespace,
    record: Record,
    seconds: float,
    before: dict[str, int],
    after: dict[str, int],
    left: list[int],
) -> dict[str, Any]:
    by_kind = {kind: [f.longest_gap_s for f in record.faults if f.kind == kind] for kind in KINDS}
    gaps = record.gaps or [0.0]
    return {
        "command": " ".join(["python", *sys.argv]),
        "seconds": round(seconds, 1),
        "faults": dict(Counter(fault.kind for fault in record.faults)),
        "streams": {"finished": record.finished, "wrong": record.wrong, "lost": record.lost},
        "gap_ms": {
            q: round(float(np.percentile(gaps, p)) * 1e3, 1) for q, p in (("p50", 50), ("p95", 95), ("max", 100))
        },
        "longest_gap_s": {
            kind: [round(float(np.median(found)), 2), round(max(found), 2)] for kind, found in by_kind.items() if found
        },
        "refusals": record.refusals,
        "hangs": 0,  # a step of HANG_S ends the process with every thread's stack
        "injector_problems": record.problems,
        "before": before,
        "after": after,
        "processes_left": left,
        "told": record.told,
        "samples": [vars(fault) for fault in record.faults],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--nodes", type=int, default=3, choices=range(2, 9))
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = soak(args)
    for key, value in found.items():
        if key not in ("told", "samples"):
            print(f"{key:18} {value}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
