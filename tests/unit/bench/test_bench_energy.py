"""Energy counters: the files that Linux shows, wrapped, forbidden or missing; and NVML by a stand-in."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from motley.bench.energy import Counter, EnergyMeter, Spent, energy_meter, nobody


def zone(folder: Path, name: str, label: str, microjoules: str, most: str = "1000000") -> Path:
    path = folder / name
    path.mkdir()
    for file, text in (("name", label), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (path / file).write_text(text + "\n")
    return path


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def test_packages_and_memory_are_counted_once(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", "900000")
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", "100000")
    zone(tmp_path, "intel-rapl:0:0", "core", "5")
    zone(tmp_path, "intel-rapl:1", "psys", "5")
    again = zone(tmp_path, "intel-rapl-mmio:0", "package-0", "900000")
    meter = energy_meter(tmp_path)
    with meter.metered() as spent:
        for same in (package, again):
            (same / "energy_uj").write_text("400000")  # wrapped at one joule
        (memory / "energy_uj").write_text("300000")
    assert spent.joules == pytest.approx(0.5 + 0.2)
    assert spent.source == "RAPL package-0, RAPL dram"
    assert meter.why == ""


def test_without_counters_there_is_a_reason(tmp_path: Path) -> None:
    meter = energy_meter(tmp_path)
    assert "no RAPL counters" in meter.why
    assert "nvidia-ml-py" in meter.why
    with meter.metered() as spent:
        pass
    assert spent.over(100) is None


def test_a_zone_that_does_not_count_is_left_out(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", "unknown")
    assert energy_meter(tmp_path).counters == []


def test_what_only_root_may_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", "1")
    real = Path.read_text

    def forbidden(self: Path, *a: object, **k: object) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return real(self, *a, **k)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", forbidden)
    assert "only root may read" in energy_meter(tmp_path).why


def test_nvml_is_read_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spent_mj = iter([1000, 1000, 3500])
    nvml = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(spent_mj),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with energy_meter(tmp_path).metered() as spent:
        pass
    assert spent.joules == pytest.approx(2.5)
    assert spent.source == "NVML GPU 0"


def test_a_driver_without_a_gpu_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("Driver Not Loaded")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=RuntimeError, nvmlInit=fails))
    assert "Driver Not Loaded" in energy_meter(tmp_path).why


def test_energy_is_shared_among_the_tokens() -> None:
    energy = Spent(joules=50.0, seconds=2.0, source="RAPL package-0").over(100)
    assert energy is not None
    assert (energy.joules_per_token, energy.watts) == (0.5, 25.0)
    assert Counter("c", lambda: 0.0, 10.0).between(9.0, 2.0) == 3.0
    assert nobody("far away") == EnergyMeter((), "far away")
