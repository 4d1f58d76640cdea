"""Rivals on the same file: run in turn with Motley, pair by pair, so that a machine that slows down slows both.

One rival process lives at a time, with one of its settings; the fastest setting of each test is marked best.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from motley.bench.measure import Test, Workload, fill, require_fit, timed_sample, warm_up
from motley.bench.result import PeerResult, Spread
from motley.bench.runner import Progress, Runner, silent

Settings = Mapping[str, bool | int | str]


class Peer(Protocol):
    """A rival that is loaded and warm."""

    name: str
    version: str
    settings: Settings

    def prepare(self, test: Test) -> None:
        """Fill the cache to the test's depth, and warm up."""
        ...

    def seconds(self, test: Test) -> float:
        """One sample: evaluation alone, without sampling or text."""
        ...


@dataclass(frozen=True)
class Contest:
    """Both sides of one comparison."""

    runner: Runner
    tests: Sequence[Test]
    workload: Workload
    threads: int  # for each side
    repeat: int


def contend(
    contest: Contest, rivals: Sequence[Callable[[], AbstractContextManager[Peer]]], progress: Progress = silent
) -> tuple[PeerResult, ...]:
    """Every test against every setting of the rival; order: by test, best setting first."""
    found: list[PeerResult] = []
    for i, rival in enumerate(rivals):
        progress("peer: loading", i / len(rivals))
        with rival() as peer:
            for j, test in enumerate(contest.tests):
                progress(f"{peer.name}: {test.name}", (i + j / len(contest.tests)) / len(rivals))
                found.append(_pairs(contest, peer, test))
    progress("peer", 1.0)
    return tuple(_mark_best(found))


def _pairs(contest: Contest, peer: Peer, test: Test) -> PeerResult:
    require_fit(contest.runner, test)
    fill(contest.runner, test, contest.workload)
    warm_up(contest.runner, test, contest.workload)
    peer.prepare(test)
    ours, theirs = [], []
    for _ in range(contest.repeat):
        ours.append(test.tokens / timed_sample(contest.runner, test, contest.workload))
        theirs.append(test.tokens / peer.seconds(test))
    return PeerResult(
        peer=peer.name,
        version=peer.version,
        settings=dict(peer.settings),
        best=False,
        test=test.name,
        depth=test.depth,
        batch=test.batch,
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
