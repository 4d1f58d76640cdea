import pytest
from bench_fakes import CLOCK


@pytest.fixture(autouse=True)
def fake_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements read the fakes' clock."""
    monkeypatch.setattr("motley.bench.measure.time", CLOCK)
    monkeypatch.setattr("motley.bench.load_engine.time", CLOCK)


@pytest.fixture(autouse=True)
def steady_core(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The real one takes a tenth of a second, twice a test."""
    if request.module.__name__ != "test_bench_gate":
        monkeypatch.setattr("motley.bench.clock.speed", lambda: 1e6)
