"""Nodes that were never here join while streams run: measured, priced, said, and taken in when that is wanted."""

import time
from collections.abc import Callable, Iterator

import pytest

from cluster.test_failure import CONTEXT, PROMPTS, SLOTS, TOKENS, spread, undisturbed
from motley.bundled import model_path
from motley.cli import session as session_module
from motley.cli.session import Seat, Session
from motley.cluster.local import LocalCluster, LocalNode
from motley.cluster.server import Server
from motley.cluster.tcp_link import listen
from motley.engine import newcomers
from motley.engine.node import NodeRuntime
from motley.engine.survival import Layout, Members, SurvivingEngine
from motley.errors import CapacityError, ClusterError, UsageError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.lab import Device, Lab, Link
from motley.ops.native import NativeOps

__all__ = ["undisturbed"]  # the fixture
Address = tuple[str, int]


class Bed:
    """A head in this process, and three nodes, of which n3 is not seen before `show`."""

    def __init__(self, cluster: LocalCluster, grow: bool, meet: Callable[[frozenset[str]], None]) -> None:
        self.cluster, self.told, self.hidden = cluster, list[str](), {"n3"}
        self.runtime = NodeRuntime("head", NativeOps(threads=1), cluster.reach)
        self.server = Server(listen(), self.runtime, cluster="c", name="head", token=cluster.access.token)
        self.server._cluster = cluster.access.cluster
        own = self.server.listener.host, self.server.listener.port
        members = Members(self.runtime, own, self.addresses, cluster.reach, meet, ("head", "n1", "n2"))
        self.engine = SurvivingEngine(
            str(model_path()), members, spread, slots=SLOTS, context=CONTEXT, grow=grow, tell=self.told.append
        )
        self.streams = [self.engine.submit(p, TOKENS) for p in PROMPTS]

    def addresses(self) -> dict[str, Address]:
        return {name: at for name, at in self.cluster.addresses().items() if name not in self.hidden}

    def show(self) -> None:
        self.hidden = set()

    def await_words(self, words: str) -> None:
        deadline = time.monotonic() + 20
        while not any(words in sentence for sentence in self.told):
            assert time.monotonic() < deadline, self.told
            time.sleep(0.02)

    def finish(self) -> list[list[int]]:
        while self.engine.busy:
            self.engine.step()
        return [s.answer for s in self.streams]

    def close(self) -> None:
        self.engine.close()
        self.server.close()
        self.runtime.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster([LocalNode(name, 1, 0) for name in ("n1", "n2", "n3")]) as found:
        yield found


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newcomers, "LOOK_S", 0.05)


@pytest.fixture
def made(cluster: LocalCluster) -> Iterator[Callable[..., Bed]]:
    beds: list[Bed] = []

    def make(grow: bool, meet: Callable[[frozenset[str]], None] = lambda names: None) -> Bed:
        beds.append(Bed(cluster, grow, meet))
        return beds[-1]

    yield make
    for bed in beds:
        bed.close()


def steps(bed: Bed, n: int) -> None:
    for _ in range(n):
        bed.engine.step()


def test_it_is_said_and_not_taken(made: Callable[..., Bed], undisturbed: list[list[int]]) -> None:
    met: list[frozenset[str]] = []
    bed = made(False, met.append)
    steps(bed, 10)
    bed.show()
    bed.await_words("with n3 it would be 1.3 times as fast (250 ms a step, not 333): it is taken in with the next load")
    assert bed.finish() == undisturbed
    assert met == [{"n3"}]
    assert "n3" not in bed.engine.used
    assert len(bed.told) == 1


def test_it_is_taken_between_two_steps(made: Callable[..., Bed], undisturbed: list[list[int]]) -> None:
    bed = made(True)
    steps(bed, 10)
    bed.show()
    bed.await_words("taken in between two steps")
    assert bed.finish() == undisturbed
    assert "n3" in bed.engine.used
    assert bed.told[1] == "n3 is taken in"
    assert bed.told[2].startswith("the streams go on with")


def test_one_that_left_before_it_was_taken(made: Callable[..., Bed], undisturbed: list[list[int]]) -> None:
    bed = made(True)
    steps(bed, 10)
    bed.show()
    bed.await_words("taken in between two steps")
    bed.hidden = {"n3"}
    assert bed.finish() == undisturbed
    assert len(bed.told) == 1  # nothing was loaded for it


def test_what_a_load_took_is_not_taken_again(made: Callable[..., Bed], undisturbed: list[list[int]]) -> None:
    """A call fails between the offer and the next step."""
    bed = made(True)
    steps(bed, 10)
    bed.show()
    bed.await_words("taken in between two steps")
    wanted = bed.engine._take_wanted()
    bed.engine._interrupt()
    steps(bed, 1)
    bed.engine._wanted.put(wanted)
    assert bed.finish() == undisturbed
    assert "n3" in bed.engine.used
    assert "n3 is taken in" not in bed.told


@pytest.mark.parametrize("fails", ["meet", "plan"])
def test_no_failure_ends_the_looking(
    made: Callable[..., Bed], monkeypatch: pytest.MonkeyPatch, undisturbed: list[list[int]], fails: str
) -> None:
    monkeypatch.setattr(newcomers, "AGAIN_S", 0.05)
    wrong = [UsageError("the lab has no link between n2 and n3")]

    def meet(names: frozenset[str]) -> None:
        if fails == "meet" and wrong:
            raise wrong.pop()

    bed = made(True, meet)

    def plan(names: frozenset[str]) -> Layout:
        if fails == "plan" and "n3" in names and wrong:
            raise wrong.pop()
        return spread(names)

    monkeypatch.setattr(bed.engine, "_plan", plan)
    bed.show()
    bed.await_words("the lab has no link")
    assert bed.engine._newcomers
    assert bed.engine._newcomers._thread.is_alive()
    assert bed.finish() == undisturbed


def test_the_next_load_counts_on_it(made: Callable[..., Bed], undisturbed: list[list[int]]) -> None:
    """Not wanted at once; then a call fails, which loads anew."""
    bed = made(False)
    steps(bed, 10)
    bed.show()
    bed.await_words("with n3")
    bed.engine._interrupt()
    assert bed.finish() == undisturbed
    assert "n3" in bed.engine.used


def test_one_that_can_not_be_measured(made: Callable[..., Bed], undisturbed: list[list[int]]) -> None:
    def fail(names: frozenset[str]) -> None:
        raise ClusterError("no node answers at 192.0.2.1:9")

    bed = made(True, fail)
    bed.show()
    bed.await_words("n3 came, and can't be measured: no node answers")
    assert bed.finish() == undisturbed
    assert "n3" not in bed.engine.used
    assert len(bed.told) == 1  # not again and again


@pytest.mark.parametrize(
    ("step_s", "said"), [(0.32, "that is as fast"), (None, "n3 is new, and of no use yet: it has no room")]
)
def test_one_that_does_not_pay(
    made: Callable[..., Bed], monkeypatch: pytest.MonkeyPatch, step_s: float | None, said: str
) -> None:
    bed = made(True)

    def plan(names: frozenset[str]) -> Layout:
        if "n3" not in names:
            return spread(names)
        if step_s is None:
            raise CapacityError("it has no room")
        return Layout(spread(names).placement, step_s=step_s)

    monkeypatch.setattr(bed.engine, "_plan", plan)
    bed.show()
    bed.await_words(said)
    steps(bed, 5)
    assert "n3" not in bed.engine.used


def test_a_newcomer_saves_streams_that_had_too_little(made: Callable[..., Bed], undisturbed: list[list[int]]) -> None:
    """All that had the model end, and somebody comes."""
    bed = made(False)
    steps(bed, 10)
    for name in ("n1", "n2"):
        bed.hidden.add(name)
    bed.engine._interrupt()
    with pytest.raises(CapacityError, match="with head alone"):
        bed.finish()
    bed.hidden.remove("n3")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            assert bed.finish() == undisturbed
            break
        except CapacityError:
            continue
    assert set(bed.engine.used) == {"head", "n3"}


def figures(name: str, gb_s: float) -> Device:
    return Device(name, name, "cpu", 1 << 30, 1, gb_s, 100 * gb_s, 50 * gb_s, 5.0)


def test_links_of_nodes_that_were_never_there_together() -> None:
    """b was away when c came; both are there now."""
    lab = Lab(
        tuple(figures(name, 20.0) for name in "abc"),
        (Link("a", "b", "tcp", 50.0, 1.0), Link("a", "c", "tcp", 50.0, 1.0)),
    )
    with Session.local([Seat("a", 1, 0), Seat("b", 1, 0), Seat("c", 1, 0)]) as session:
        assert session.new_links(lab, ["a", "b"]) == ()
        (found,) = session.new_links(lab, ["a", "b", "c"])
        assert {found.a, found.b} == {"b", "c"}
        assert found.gb_s > 0
        assert Lab(lab.devices, (*lab.links, found)).missing_links() == []


def test_a_session_measures_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its links for real (its device, which takes long beside other work, by figures): the lab grows by it and a
    link to each of the others, and the plan uses it."""
    shape, told = shape_of(open_checkpoint(model_path())), list[str]()
    monkeypatch.setattr(session_module, "_probed", lambda links: [figures(link.peer, 20.0) for link in links])
    with Session.local([Seat("a", 1, 0), Seat("b", 1, 0), Seat("c", 1, 0)]) as session:
        addresses, hidden = session.cluster.addresses, {"c"}
        monkeypatch.setattr(
            session.cluster, "addresses", lambda: {n: at for n, at in addresses().items() if n not in hidden}
        )
        lab = Lab((figures("a", 0.1), figures("b", 0.1)), (Link("a", "b", "tcp", 50.0, 1.0),))
        with session.surviving(
            str(model_path()), lab, shape, slots=1, context=64, grow=True, tell=told.append
        ) as engine:
            tokens = list(engine.generate([5, 6, 7], 12))
            hidden.clear()
            stream = engine.submit([5, 6, 7], 12)
            deadline = time.monotonic() + 60
            while not any("with c it would be" in sentence for sentence in told):
                assert time.monotonic() < deadline, told
                time.sleep(0.05)
            while not stream.done:
                engine.step()
            assert stream.answer == tokens
            assert "c" in engine.used
            assert [d.name for d in session.lab.devices] == ["a", "b", "c"]
            joined = {frozenset((x.a, x.b)) for x in session.lab.links}
            assert joined == {frozenset(pair) for pair in ("ab", "ac", "bc")}
