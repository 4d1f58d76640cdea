"""Rivals on the same file: run in turn with Motley, pair by pair, so that a machine that slows down slows both.

One rival process lives at a time, with one of its settings; the fastest setting of each test is marked best.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from motley.bench.measure import Text, prepare, require_fit, short_name, timed_sample
from motley.bench.records import Spread
from motley.bench.result import PeerResult
from motley.engine.runner import Runner
from motley.predict.workload import Workload
from motley.progress import Progress, silent

Settings = Mapping[str, bool | int | str]


class Peer(Protocol):
    """A rival that is loaded and warm."""

    name: str
    version: str
    settings: Settings

    def prepare(self, workload: Workload) -> None:
        """Fill the cache to the workload's depth, and warm up."""
        ...

    def seconds(self, workload: Workload) -> float:
        """One sample: evaluation alone, without sampling or text."""
        ...


@dataclass(frozen=True)
class Contest:
    """Both sides of one comparison."""

    runner: Runner
    workloads: Sequence[Workload]
    text: Text
    threads: int  # for each side
    repeat: int


def contend(
    contest: Contest, rivals: Sequence[Callable[[], AbstractContextManager[Peer]]], progress: Progress = silent
) -> tuple[PeerResult, ...]:
    """Every workload against every setting of the rival; order: by test, best setting first."""
    found: list[PeerResult] = []
    for i, rival in enumerate(rivals):
        progress("peer: loading", i / len(rivals))
        with rival() as peer:
            for j, workload in enumerate(contest.workloads):
                progress(f"{peer.name}: {workload.name}", (i + j / len(contest.workloads)) / len(rivals))
                found.append(_pairs(contest, peer, workload))
    progress("peer", 1.0)
    return tuple(_mark_best(found))


def _pairs(contest: Contest, peer: Peer, workload: Workload) -> PeerResult:
    require_fit(contest.runner, workload)
    prepare(contest.runner, workload, contest.text)
    peer.prepare(workload)
    tokens = workload.tokens * workload.batch
    ours, theirs = [], []
    for _ in range(contest.repeat):
        ours.append(tokens / timed_sample(contest.runner, workload, contest.text))
        theirs.append(tokens / peer.seconds(workload))
    return PeerResult(
        peer=peer.name,
        version=peer.version,
        settings=dict(peer.settings),
        best=False,
        test=short_name(workload),
        depth=workload.depth,
        batch=workload.batch,
        threads=contest.threads,
        tokens_per_s=Spread.of(theirs),
        motley_tokens_per_s=Spread.of(ours),
        ratio=Spread.of([a / b for a, b in zip(ours, theirs)]),
    )


def _mark_best(found: Sequence[PeerResult]) -> list[PeerResult]:
    groups: dict[tuple[str, int, int], list[PeerResult]] = {}
    for result in found:
        groups.setdefault((result.test, result.depth, result.batch), []).append(result)
    marked = []
    for group in groups.values():
        fastest, *rest = sorted(group, key=lambda r: -r.tokens_per_s.median)
        marked += [_as_best(fastest), *rest]
    return marked


def _as_best(result: PeerResult) -> PeerResult:
    fields = {name: getattr(result, name) for name in result.__struct_fields__}
    return PeerResult(**{**fields, "best": True})
