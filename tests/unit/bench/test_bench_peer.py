"""Contests with a peer: pair by pair, best setting first; and the real llama.cpp where its package is installed."""

from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from bench_fakes import CLOCK, VOCAB, FakeRunner

from motley.bench import peer_llamacpp
from motley.bench.measure import Text
from motley.bench.peer import Contest, contend
from motley.bench.run import asked_workloads
from motley.errors import UsageError
from motley.predict.workload import Workload

WORKLOADS = asked_workloads([32], [8])
TEXT = Text.random(VOCAB)


class FakePeer:
    """Takes `step_s` a token; notes what it was asked, and whether Motley's turn was before its own."""

    name, version = "other", "1"

    def __init__(self, step_s: float, runner: FakeRunner, **settings: bool) -> None:
        self.step_s, self.runner, self.settings = step_s, runner, settings
        self.asked: list[str] = []
        self.steps_before: list[int] = []

    def prepare(self, workload: Workload) -> None:
        self.asked.append(f"prepare {workload.name}")

    def seconds(self, workload: Workload) -> float:
        self.asked.append(workload.name)
        self.steps_before.append(len(self.runner.batches))
        return self.step_s * workload.tokens

    def close(self) -> None:
        self.asked.append("close")


def test_turns_alternate_and_the_best_setting_comes_first() -> None:
    runner = FakeRunner(step_s=0.001)
    slow, fast = FakePeer(0.004, runner, repack=True), FakePeer(0.002, runner, repack=False)
    contest = Contest(runner, WORKLOADS, TEXT, threads=2, repeat=3)
    found = contend(contest, [lambda: closing(slow), lambda: closing(fast)])

    assert [(r.test, r.settings["repack"], r.best) for r in found] == [
        ("pp32", False, True), ("pp32", True, False), ("tg8", False, True), ("tg8", True, False),
    ]  # fmt: skip
    tg = found[2]
    assert tg.ratio.samples == pytest.approx((2.0, 2.0, 2.0))
    assert tg.tokens_per_s.median == pytest.approx(500)
    assert tg.motley_tokens_per_s.median == pytest.approx(1000)
    assert slow.asked == ["prepare pp32", *["pp32"] * 3, "prepare tg8", *["tg8"] * 3, "close"]
    between = [b - a for a, b in zip(slow.steps_before[3:], slow.steps_before[4:])]
    assert between == [8, 8]  # one Motley sample between two of the peer's
    assert CLOCK.now > 0


def test_a_missing_package_is_one_sentence_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_llamacpp, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'motley-moe\[peers\]'"):
        peer_llamacpp.rivals(Path("x.gguf"), 1, WORKLOADS, TEXT)


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="needs llama-cpp-python (extra `peers`)")
def test_llamacpp_that_can_not_load_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not really")
    first = peer_llamacpp.rivals(tmp_path / "broken.gguf", 1, WORKLOADS, TEXT)[0]
    with pytest.raises(Exception, match=r"llama\.cpp ended without an answer.*can't load"), first():
        pass
