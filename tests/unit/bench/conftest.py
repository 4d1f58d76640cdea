import pytest
from bench_fakes import CLOCK


@pytest.fixture(autouse=True)
def fake_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements read the fakes' clock."""
    monkeypatch.setattr("motley.bench.measure.time", CLOCK)
