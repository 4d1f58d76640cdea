"""Nodes die, stop and come back in the middle of answers; the answers are those of an undisturbed device. Real
processes, the bundled model, a head too small to hold it alone."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import pytest

import motley
from motley.bundled import model_path
from motley.cli.session import Seat, Session
from motley.engine.enduring import EnduringEngine
from motley.engine.engine import Stream
from motley.engine.keeper import Keeper
from motley.errors import NodeLost
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.lab import Lab
from motley.plan.plan import Plan
from motley.plan.search import find_placement
from motley.predict.workload import Workload

SMALL, LARGE = 117_000_000, 200_000_000
THREE = {"a": SMALL, "b": LARGE, "c": LARGE}
PROMPTS = [[11, 22, 33, 44, 55], [600, 7, 600, 7], list(range(100, 190)), [1000]]
N = 150


@pytest.fixture(scope="module")
def undisturbed() -> list[list[int]]:
    with motley.load(model_path(), threads=1, context=512) as model:
        return [list(model.generate(prompt, N)) for prompt in PROMPTS]


class Head:
    """Four streams on a cluster that somebody is about to disturb."""

    def __init__(self, session: Session, keeper: Keeper, told: list[str]) -> None:
        self.session, self.keeper, self.told = session, keeper, told
        self.engine = EnduringEngine(keeper)
        self.streams: list[Stream] = []

    def ask(self) -> None:
        self.streams = [self.engine.submit(prompt, N) for prompt in PROMPTS]

    def go(self, tokens: int) -> None:
        """Until the first stream has so many."""
        while len(self.streams[0].answer) < tokens:
            self.engine.step()

    def answers(self) -> list[list[int]]:
        while self.engine.busy:
            self.engine.step()
        return [stream.answer for stream in self.streams]

    def signal(self, node: str, number: signal.Signals) -> None:
        os.kill(self.pids[node], number)

    def used(self) -> str:
        """A node that holds a part of the model."""
        assert self.keeper.runner
        return min(self.keeper.runner.devices() - {"a"})

    @property
    def pids(self) -> dict[str, int]:
        return self.session.cluster.pids()  # type: ignore[union-attr]


@cache
def measured(memories: tuple[tuple[str, int], ...]) -> Lab:
    """Once: measuring takes its time."""
    with Session.local([Seat(name, 1, size) for name, size in memories]) as session:
        return session.probe()


@contextmanager
def head_of(memories: dict[str, int]) -> Iterator[Head]:
    seats = [Seat(name, 1, size) for name, size in memories.items()]
    shape = shape_of(open_checkpoint(model_path()))
    told: list[str] = []

    def find(lab: Lab) -> Plan:
        return find_placement(shape, lab, Workload("decode", 1, 0, 4), None, 512, 4, "a", ["a"], seconds=0.5)

    lab = measured(tuple(THREE.items())).subset(memories)
    with (
        Session.local(seats) as session,
        session.keeper(str(model_path()), lab, find, slots=4, context=512, tell=told.append) as keeper,
    ):
        yield Head(session, keeper, told)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """One cluster for all; each test leaves every node running and in use again."""
    with head_of(THREE) as found:
        yield found


def back_again(head: Head) -> None:
    for name in ("b", "c"):
        if head.session.cluster._processes[name].died():  # type: ignore[union-attr]
            head.session.cluster.restart(name)  # type: ignore[union-attr]
    until(lambda: (head.keeper.improve(), head.session.cluster.nodes.keys() == {"b", "c"})[1])
    if better := head.keeper.improve():
        head.engine.rebuild(better)


def until(done: Callable[[], bool], limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("after", [1, 60, 140])
def test_killed_in_the_middle_of_an_answer(head: Head, undisturbed: list[list[int]], after: int) -> None:
    head.ask()
    head.go(after)
    head.signal(head.used(), signal.SIGKILL)
    assert head.answers() == undisturbed
    back_again(head)


def test_killed_while_the_prompts_are_read(head: Head, undisturbed: list[list[int]]) -> None:
    head.ask()
    head.signal(head.used(), signal.SIGKILL)
    assert head.answers() == undisturbed
    back_again(head)


def test_stopped_and_going_on_later(head: Head, undisturbed: list[list[int]]) -> None:
    head.ask()
    head.go(20)
    node = head.used()
    head.signal(node, signal.SIGSTOP)
    try:
        head.go(60)
        assert node not in head.session.cluster.nodes
    finally:
        head.signal(node, signal.SIGCONT)
    assert head.answers() == undisturbed
    back_again(head)


def test_lost_one_after_the_other(head: Head, undisturbed: list[list[int]]) -> None:
    """The second when the first is back: nobody is ever missed twice."""
    head.ask()
    for tokens in (10, 50, 90):
        head.go(tokens)
        head.signal(head.used(), signal.SIGKILL)
        head.go(tokens + 10)
        back_again(head)
    assert head.answers() == undisturbed


def test_too_little_left_is_said() -> None:
    with head_of({"a": SMALL, "b": LARGE}) as head:
        head.ask()
        head.go(10)
        head.signal("b", signal.SIGKILL)
        with pytest.raises(NodeLost, match=r"node b is lost.*can't hold the model.*missing"):
            head.answers()


def test_told_in_words(head: Head) -> None:
    head.told.clear()
    head.ask()
    head.go(5)
    node = head.used()
    head.signal(node, signal.SIGKILL)
    head.answers()
    assert any(f"node {node} is lost: it ended with status -9" in sentence for sentence in head.told), head.told
    assert any(sentence.startswith("the model is loaded on a, ") for sentence in head.told), head.told
    back_again(head)
    assert f"node {node} is back" in head.told
