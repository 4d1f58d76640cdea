"""Experts that a home computes in large steps although another device of its process holds them: the same answers as
without, in bounded memory, and only where a step has the tokens."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest

from hf_folders import f32, write_folder
from hf_golden import golden_config, golden_state
from motley.bundled import model_path
from motley.cli.options import Offered
from motley.cli.session import Seat, Session
from motley.engine.device import DeviceModel
from motley.engine.engine import Engine
from motley.engine.local import LocalRunner
from motley.engine.placed import PlacedRunner
from motley.engine.streaming import Stream, Streams
from motley.engine.survival import Layout, Members, SurvivingEngine
from motley.engine.times import StepTimes
from motley.engine.trace import Span
from motley.errors import CapacityError, UnsupportedError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.synth import synthesize
from motley.lab.placement import LayerPlacement, Placement, Streaming
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch
from tiny_models import FAMILIES, shrunk, write_tiny

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
CONTEXT, FROM = 96, 20
ROOM: dict[str, Any] = {"n_slots": 1, "context": CONTEXT}
TOKENS = [int(t) for t in np.random.default_rng(5).integers(0, 300, 61)]


def streamed(path: Path, home: str, holder: str, at_once: int = 2, own: int = 2) -> Placement:
    """Of each layer's experts the home has the first `own`, the holder the others."""
    shape, layers = shape_of(open_checkpoint(path)), []
    for i in range(shape.n_layers):
        owners = tuple(home if e < own else holder for e in range(shape.experts_in(i)))
        layers.append(LayerPlacement(home, owners, streaming=Streaming((holder,), FROM, at_once) if owners else None))
    return Placement(tuple(layers))


def asked(placement: Placement) -> Placement:
    """The same without."""
    return replace(placement, layers=tuple(replace(layer, streaming=None) for layer in placement.layers))


def logits_of(runner: Any, tokens: list[int], chunk: int) -> np.ndarray:
    parts = []
    for first in range(0, len(tokens), chunk):
        share = tokens[first : first + chunk]
        n = len(share)
        parts.append(np.array(runner.step(Batch(share, range(first, first + n), [0] * n, range(n)))))
    return np.concatenate(parts)


@contextmanager
def two_of(*specs: str) -> Iterator[Session]:
    with Session.local([Seat("a", 1, 0, tuple(map(Offered, specs)))]) as session:
        yield session


def run(session: Session, path: Path, placement: Placement, work: Callable[[PlacedRunner], Any]) -> Any:
    with session.placed(str(path), placement, slots=1, context=CONTEXT) as runner:
        return work(runner)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with two_of("cpu", "cpu") as found:
        yield found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quant", ["f16", "q8_0", "q4_k", "mxfp4"])
def test_the_bits_are_those_of_one_device(session: Session, tmp_path: Path, family: str, quant: str) -> None:
    path = write_tiny(tmp_path, family, quant)
    one = LocalRunner(open_checkpoint(path), NativeOps(threads=1), n_slots=1, context=CONTEXT)
    want = logits_of(one, TOKENS, len(TOKENS))
    one.close()
    for at_once in (1, 3, 4):
        placement = streamed(path, "a", "a.cpu", at_once)
        for chunk in (len(TOKENS), 24):

            def both(runner: PlacedRunner, chunk: int = chunk) -> tuple[np.ndarray, int, float]:
                logits = logits_of(runner, TOKENS, chunk)
                return logits, sum(x.count for x in runner.exchanges()), runner.times().upload

            got, exchanges, upload = run(session, path, placement, both)
            np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))
            assert upload > 0
            small = sum(n < FROM for n in [len(TOKENS[i : i + chunk]) for i in range(0, len(TOKENS), chunk)])
            layers = sum(map(bool, (layer.experts for layer in placement.layers)))
            assert exchanges <= small * layers  # a step with few tokens asks whoever holds them
            twin, exchanges, upload = run(session, path, asked(placement), both)
            np.testing.assert_array_equal(twin.view(np.uint32), want.view(np.uint32))
            assert upload == 0
            assert exchanges > 0


def test_biases_travel_with_their_experts(session: Session) -> None:
    """gpt-oss's, whose golden file has float weights."""
    path, golden = GOLDEN / "gpt-oss.gguf", np.load(GOLDEN / "gpt-oss.npz")
    tokens, placement = golden["prompt"].tolist(), streamed(GOLDEN / "gpt-oss.gguf", "a", "a.cpu", 3)
    got = run(session, path, placement, lambda runner: logits_of(runner, tokens, len(tokens)))
    twin = run(session, path, asked(placement), lambda runner: logits_of(runner, tokens, len(tokens)))
    np.testing.assert_array_equal(got.view(np.uint32), twin.view(np.uint32))
    assert np.abs(got - golden["logits"]).max() < 1e-3 * np.abs(golden["logits"]).max()


def test_times_and_traces_show_it(session: Session) -> None:
    """The parts still add up to the step, and each group is a span of the home's."""

    def timed(runner: PlacedRunner) -> tuple[StepTimes, float, list[Span]]:
        runner.trace(True)
        before, started = runner.times(), perf_counter()
        logits_of(runner, TOKENS, len(TOKENS))
        took = perf_counter() - started
        return runner.times() - before, took, runner.trace(False)[0]

    path = model_path()
    times, took, spans = run(session, path, streamed(path, "a", "a.cpu", 8, own=12), timed)
    assert 0 < times.upload < times.total <= took
    assert times.link < times.upload  # nobody is waited for
    brought = [span for span in spans if "sent here" in span.name]
    assert {span.lane for span in brought} == {"a"}
    assert sum(span.end - span.start for span in brought) >= times.upload
    assert sum(int(span.name.split()[0]) for span in brought) <= 4 * 20


def test_another_node_is_still_asked(tmp_path: Path) -> None:
    """One layer's experts on three devices: the home's, its neighbour's in the same process, and another process's."""
    path = write_tiny(tmp_path, "qwen3moe", "q8_0")
    stream = Streaming(("a.cpu",), FROM, 1)
    names = ("a", "a.cpu", "b", "a.cpu", "b", "a")
    placement = Placement(tuple(LayerPlacement("a", names, streaming=stream) for _ in range(2)))
    one = LocalRunner(open_checkpoint(path), NativeOps(threads=1), n_slots=1, context=CONTEXT)
    want = logits_of(one, TOKENS, len(TOKENS))
    one.close()
    with Session.local([Seat("a", 1, 0, (Offered("cpu"), Offered("cpu"))), Seat("b", 1, 0)]) as session:

        def both(runner: PlacedRunner) -> tuple[np.ndarray, dict[str, int]]:
            return logits_of(runner, TOKENS, len(TOKENS)), {x.b: x.count for x in runner.exchanges()}

        got, counts = run(session, path, placement, both)
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))
    assert counts == {"b": 2}


def quickly(spec: str) -> AbstractContextManager[object]:
    """tinygrad compiles what runs once or twice here: without looking for fast kernels."""
    if not spec.startswith("tinygrad"):
        return nullcontext()
    from tinygrad.helpers import Context

    return Context(NOOPT=1, PARALLEL=0)


@pytest.mark.parametrize(
    ("spec", "name"), [("mlx:cpu", "qwen3moe"), ("mlx:cpu", "gpt-oss"), ("tinygrad:CPU", "gpt-oss")]
)
def test_other_devices_as_homes(spec: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the golden logits, as closely as docs/devices.md and docs/gpus.md promise with a cache of half precision.
    A device that remembers prompts does so the second time that as many tokens come, and runs the third from memory."""
    pytest.importorskip({"mlx:cpu": "mlx.core", "tinygrad:CPU": "tinygrad"}[spec], reason=f"{spec} is not installed")
    remembered: list[Stream] = []
    original = Streams.recorded

    def spied(self: Streams, recording: Any, stream: Stream, *arrays: Any) -> Any:
        remembered.append(stream)
        return original(self, recording, stream, *arrays)

    monkeypatch.setattr(Streams, "recorded", spied)
    path, golden = GOLDEN / f"{name}.gguf", np.load(GOLDEN / f"{name}.npz")
    tokens, logits = golden["prompt"].tolist()[:24], golden["logits"][:24]
    with quickly(spec), two_of(spec, "cpu") as session:

        def thrice(runner: PlacedRunner) -> list[np.ndarray]:
            return [logits_of(runner, of, len(tokens)) for of in (tokens, tokens[::-1], tokens)]

        got = run(session, path, streamed(path, "a", "a.cpu", 3), thrice)
    size = np.abs(logits).max()
    for i in (0, 2):
        assert np.abs(got[i] - logits).max() < 1e-3 * size
    assert np.abs(got[1] - got[0]).max() > 1e-2 * size
    assert len(remembered) == (shape_of(open_checkpoint(path)).n_layers if spec == "tinygrad:CPU" else 0)


class Counting(NativeOps):
    """Counts how many experts that were brought are there at a time."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self.there: WeakSet[Any] = WeakSet()
        self.most, self.groups = 0, list[int]()

    def experts_weight(self, *args: Any, **kwargs: Any) -> Any:
        group = Group(super().experts_weight(*args, **kwargs))
        self.there.add(group)
        self.most = max(self.most, len(self.there))
        self.groups.append(len(args[3]))
        return group

    def experts(self, x: Any, ids: Any, weights: Any, experts: Any) -> Any:
        return super().experts(x, ids, weights, experts.held)


class Group:
    def __init__(self, held: Any) -> None:
        self.held = held


def test_two_groups_at_most_are_there(tmp_path: Path) -> None:
    """And only experts that the step chose are brought."""
    checkpoint = open_checkpoint(write_tiny(tmp_path, "olmoe", "q8_0"))
    shape, ops = shape_of(checkpoint), Counting()
    layers, E = range(shape.n_layers), shape.n_experts
    holder = DeviceModel(
        checkpoint, NativeOps(threads=1), layers=range(0), experts={i: range(E) for i in layers}, **ROOM
    )
    home = DeviceModel(
        checkpoint,
        ops,
        layers=layers,
        experts={},
        owners={"b": (Direct(holder), {i: range(E) for i in layers})},
        streams=dict.fromkeys(layers, (FROM, 1, ("b",))),
        **ROOM,
    )
    assert home.stage
    home.stage.forward(Batch(TOKENS[:FROM], range(FROM), [0] * FROM, [FROM - 1]), None)
    assert 1 <= ops.most <= 2
    assert set(ops.groups) == {1}
    assert len(ops.groups) == np.count_nonzero(home.placed.chosen())
    assert holder.clock.times.total == 0  # nobody asked


@pytest.mark.parametrize("kind", ["a folder's", "gate and up in one"])
def test_experts_that_are_not_read_as_they_are_are_refused(tmp_path: Path, kind: str) -> None:
    """No plan has it, as `shape_of` tells; were one to, it would not be done in another way in silence."""
    if kind == "a folder's":
        source = write_folder(
            tmp_path / "m", golden_config("qwen3moe"), {n: f32(v) for n, v in golden_state("qwen3moe").items()}
        )
    else:
        synthesize(shrunk("gemma-4-26b-a4b", "q8_0"), source := tmp_path / "m.gguf", seed=1)
    checkpoint = open_checkpoint(source)
    shape = shape_of(checkpoint)
    assert not shape.experts_at_hand
    (layer, *_) = (i for i in range(shape.n_layers) if shape.experts_in(i))
    with pytest.raises(UnsupportedError, match="are not brought"):
        DeviceModel(checkpoint, NativeOps(1), layers=range(0), experts={}, streams={layer: (FROM, 1, ("b",))}, **ROOM)


class Direct:
    """A holder's experts, called from here."""

    transport = "memory"

    def __init__(self, model: DeviceModel) -> None:
        self._model, self.traffic = model, SimpleNamespace(busy_s=0.0)

    def start(self, layer: int, x: Any, ids: Any, weights: Any) -> None:
        raise AssertionError("a holder was asked whose experts are brought")

    def finish(self) -> Any:
        raise AssertionError


def test_streams_go_on_when_another_node_dies_meanwhile() -> None:
    """A prompt is under way on two devices of the head and one of another process, which is killed: the answers are
    those of one device. The neighbour's experts are brought before it and after it."""
    path, tokens = str(model_path()), 24
    prompts = [list(range(5, 5 + n)) for n in (41, 30)]
    shape = shape_of(open_checkpoint(path))
    one = Engine(LocalRunner(open_checkpoint(path), NativeOps(threads=1), n_slots=2, context=CONTEXT))
    want = [one.submit(prompt, tokens) for prompt in prompts]
    while one.busy:
        one.step()

    def layout(names: frozenset[str]) -> Layout:
        there = sorted(names)
        owners = tuple(there[e % len(there)] for e in range(shape.n_experts))
        layer = LayerPlacement("a", owners, streaming=Streaming(("a.cpu",), FROM, 3))
        return Layout(Placement((layer,) * shape.n_layers))

    told: list[str] = []
    with Session.local([Seat("a", 1, 0, (Offered("cpu"), Offered("cpu"))), Seat("b", 1, 0)]) as session:
        near = session.site.addresses["a.cpu"]
        members = Members(
            session.runtime,
            session.site.addresses["a"],
            lambda: {"a.cpu": near, **session.cluster.addresses()},
            session.site.connect,
        )
        engine = SurvivingEngine(path, members, layout, slots=2, context=CONTEXT, tell=told.append)
        streams = [engine.submit(prompts[0], tokens)]
        while not streams[0].answer:
            engine.step()
        os.kill(session.cluster.nodes["b"].pid, signal.SIGKILL)
        streams.append(engine.submit(prompts[1], tokens))  # whose prompt is what meets the dead node
        while engine.busy:
            engine.step()
        engine.close()
    assert [s.answer for s in streams] == [s.answer for s in want]
    assert "b is lost" in told[0]


LONG = [int(t) for t in np.random.default_rng(6).integers(0, 300, 700)]


@pytest.mark.parametrize("own", [0, 20])
def test_a_steps_size_changes_no_bit(session: Session, own: int) -> None:
    """A prompt of more than one usual step, in steps of 512, 2,048 and 37 tokens: brought, asked, and on one device."""
    path, context = model_path(), len(LONG) + 8
    checkpoint = open_checkpoint(path)

    def answered(runner: Any, chunk: int) -> tuple[np.ndarray, list[int]]:
        engine = Engine(runner, chunk)
        return logits_of(runner, LONG, chunk), list(engine.generate(LONG, 6))

    one = LocalRunner(checkpoint, NativeOps(threads=1), n_slots=1, context=context)
    logits, tokens = answered(one, 512)
    found = [answered(one, chunk) for chunk in (2048, 37)]
    one.close()
    brought = streamed(path, "a", "a.cpu", 8, own)
    for placement in (brought, asked(brought)):
        for chunk in (512, 2048, 37):
            with session.placed(str(path), placement, slots=1, context=context, step_tokens=chunk) as runner:
                found.append(answered(runner, chunk))
                assert (runner.times().upload > 0) == (placement is brought)
    for got, answer in found:
        np.testing.assert_array_equal(got.view(np.uint32), logits.view(np.uint32))
        assert answer == tokens


def test_a_node_refuses_steps_that_do_not_fit(session: Session) -> None:
    """Which it knows from its assignment; the same part in usual steps it takes."""
    placement = streamed(model_path(), "a", "a.cpu", 8)
    session.runtime._memory_bytes = 125 << 20
    try:
        run(session, model_path(), placement, lambda runner: None)
        with (
            pytest.raises(CapacityError, match=r"a was given 131 MB, .*smaller steps"),
            session.placed(str(model_path()), placement, slots=1, context=CONTEXT, step_tokens=8192),
        ):
            pass
    finally:
        session.runtime._memory_bytes = 0
