"""The meter on this machine's kernels: every figure is there and of a sane size; it keeps to its working set."""

import numpy as np
import pytest

from motley.lab.probe import probe_device
from motley.lab.toml import parse_lab
from motley.ops.meter import NativeMeter, OpsMeter
from motley.ops.native import NativeOps


@pytest.fixture(scope="module")
def meter() -> NativeMeter:
    return NativeMeter(NativeOps(threads=1))


def test_small_ops_cost_microseconds(meter: NativeMeter) -> None:
    assert 0.05 < meter.call_us() < 1000
    assert 0.05 < meter.op_overhead_us() < 1000


def test_rates_are_those_of_a_computer(meter: NativeMeter) -> None:
    gemms = [meter.gemm_gops(quant) for quant in ("q8_0", "mxfp4", "f32")]
    for rate in (meter.elements_g_s(), meter.attention_gflops(), *gemms):
        assert 0.05 < rate < 1e5
    assert 0.05 < meter.matvec_gb_s("q4_k", 1 << 20) < 1e4


def test_the_working_set_is_as_large_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = NativeOps(threads=1)
    held = []
    original = ops.weight

    def counted(tensor: object, *upload: object) -> object:
        held.append(tensor)
        return original(tensor, *upload)  # type: ignore[arg-type]

    monkeypatch.setattr(ops, "weight", counted)
    NativeMeter(ops).matvec_gb_s("q8_0", 4 << 20)
    sizes = [t.n_bytes for t in held if t.name == "probe"]  # type: ignore[attr-defined]
    assert sum(sizes) == pytest.approx(4 << 20, rel=0.05)
    assert len(sizes) == 8


def test_a_probed_device_can_be_written_down(meter: NativeMeter) -> None:
    found = probe_device(meter, "here", "here", 1, memory_bytes=32 << 20, quants=["q8_0"])
    assert found.kernels[0].quant == "q8_0"
    assert [n for n, _ in found.kernels[0].matvec] == [1 << 20, 2 << 20, 4 << 20]
    from motley.lab.lab import Lab

    assert parse_lab(Lab((found,)).dumps())[0] == (found,)
    assert np.isfinite(found.read_gb_s)


def test_any_device_is_measured_through_its_operations() -> None:
    """On the native kernels, whose own meter says as much."""
    meter = OpsMeter(NativeOps(threads=1))
    assert set(meter.working_sets) <= {1 << 20, 4 << 20, 64 << 20, 256 << 20}
    for rate in (meter.elements_g_s(), meter.attention_gflops(), meter.gemm_gops("q8_0"), meter.gemm_gops("f32")):
        assert 0.05 < rate < 1e5
    for quant in ("q4_k", "f32"):
        assert 0.05 < meter.matvec_gb_s(quant, 1 << 20) < 1e4
    assert meter.pack_gb_s(1 << 20) > 0
    assert 0.01 < meter.upload_gb_s(1 << 20) < 1e4
    for us in (meter.call_us(), meter.op_overhead_us(), meter.step_us()):
        assert 0 < us < 1e5


def test_what_works_behind_the_host_is_written_down_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small operations are launches of a layer, an exchange waits for the device, Python takes no time of its own."""
    meter = OpsMeter(NativeOps(threads=1))
    monkeypatch.setattr(meter, "step_us", lambda: 100.0)
    monkeypatch.setattr(meter, "call_us", lambda: 4.0)
    found = probe_device(
        meter, "g", "g", 1, kind="mlx", memory_bytes=1 << 30, quants=["f32"], working_sets=[1 << 20], rounds=1
    )
    assert (found.kind, found.step_us, found.exchange_us, found.call_us) == ("mlx", 100.0, 120.0, 0.0)
    assert (found.layer_us, found.routed_us) == (20.0, 12.0)
