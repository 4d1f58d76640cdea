"""What Motley assumes of tinygrad's inside, on the device PYTHON, which needs no compiler. When a new version breaks
one, the failure says what `ops/tinygrad/adapter.py` relied on."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tinygrad", reason="tinygrad is not installed (extra [tinygrad])")

from tinygrad import Tensor
from tinygrad.uop.ops import Ops

from motley.errors import UnsupportedError
from motley.ops.tinygrad import CudaOps, TinygradOps, adapter, tinygrad_ops
from motley.ops.tinygrad.source import Kernel

DEVICE = "PYTHON"


def floats(*dims: int) -> np.ndarray:
    return np.random.default_rng(list(dims)).standard_normal(dims).astype(np.float32)


def up(values: np.ndarray) -> Tensor:
    return adapter.upload(values, DEVICE)


def test_the_version_is_the_one_that_was_tested() -> None:
    assert adapter._installed() == adapter.VERSION


def test_memory_is_written_in_place_and_read_back() -> None:
    tensor = up(np.zeros((3, 5), np.float32))
    adapter.write(tensor, values := floats(3, 5))
    np.testing.assert_array_equal(adapter.read(tensor), values, "Buffer.allocator._copyin no longer fills a tensor")


def test_a_graph_runs_again_on_what_its_inputs_hold_then() -> None:
    source = up(floats(4))
    out = (source * 2 + 1).contiguous()
    graph = adapter.Graph([out])
    for values in (floats(4), floats(4) + 3):
        adapter.write(source, values)
        graph.run({})
        np.testing.assert_allclose(adapter.read(out), values * 2 + 1, 1e-6, err_msg="linear_with_vars, jit_lower")
    assert graph.n_kernels == 1


def test_rows_are_read_and_written_by_number_in_place() -> None:
    table, index = floats(6, 3), np.array([4, 0, 4, 5], np.int32)
    np.testing.assert_array_equal(adapter.read(adapter.rows(up(table), up(index))), table[index], "UOp kernels")
    target, new = up(table), floats(2, 3)
    memory = adapter._buffer(target)
    changed = adapter.put(target, up(np.array([5, 1], np.int32)), up(new))
    adapter.realize([changed])
    table[[5, 1]] = new
    np.testing.assert_array_equal(adapter.read(changed), table)
    assert adapter._buffer(changed) is memory, "a custom kernel's result is no longer its argument's memory"


def test_a_graph_is_told_what_a_kernel_writes() -> None:
    """Also its own memory, which the next one of its kind uses: CUDA's graphs run at once what does not wait."""
    kernel = Kernel("any", (), (1, 1, 1), 32, outs=1, scratch=2)
    (out,) = adapter.launch(kernel, "", DEVICE, *[up(floats(4)) for _ in range(4)])
    (program,) = [u for u in out.uop.toposort() if u.op is Ops.PROGRAM]
    assert (program.arg.outs, program.arg.ins) == ((0, 1, 2), (0, 1, 2, 3))


def test_a_length_is_given_when_a_graph_runs() -> None:
    q, keys, values = floats(2, 2, 4), floats(16, 4), floats(16, 6)
    first = np.array([0, 8], np.int32)
    length = adapter.variable("seen8", 1, 8, 3)  # another one than it will run with
    scores = adapter.scores(up(q), up(keys), up(first), length)
    out = adapter.weighted(scores * 2, up(values), up(first), length, 1, 6)
    graph = adapter.Graph([out])
    for seen in (1, 5, 8):
        graph.run({"seen8": seen})
        want = np.stack([2 * q[t] @ keys[f : f + seen].T @ values[f : f + seen] for t, f in enumerate(first)])
        np.testing.assert_allclose(adapter.read(out), want, 1e-4, 1e-5, err_msg="variables in UOp kernels, by name")


def test_a_cards_free_memory_is_asked_of_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinygrad.runtime.autogen import cuda

    def answer(free: Any, total: Any) -> int:
        free._obj.value, total._obj.value = 70 << 30, 80 << 30
        return 0

    monkeypatch.setattr(adapter, "Device", {"CUDA:1": SimpleNamespace(context=None)})
    monkeypatch.setattr(cuda, "cuCtxSetCurrent", lambda context: 0)
    monkeypatch.setattr(cuda, "cuMemGetInfo_v2", answer)
    assert adapter.free_memory("CUDA:1") == 70 << 30
    assert adapter.free_memory("PYTHON") == 0
    monkeypatch.setattr(cuda, "cuMemGetInfo_v2", lambda free, total: 201)
    with pytest.raises(UnsupportedError, match="give =SIZE"):
        adapter.free_memory("CUDA:1")


def test_nvidias_devices_get_motleys_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "open_device", lambda name: "PYTHON")
    kinds = {name: type(tinygrad_ops(name)) for name in ("CUDA", "CUDA:1", "NV", "METAL", "PYTHON")}
    assert kinds == {"CUDA": CudaOps, "CUDA:1": CudaOps, "NV": CudaOps, "METAL": TinygradOps, "PYTHON": TinygradOps}


def test_a_device_that_is_not_there_says_what_to_do() -> None:
    with pytest.raises(UnsupportedError, match="NVIDIA's driver"):
        adapter.open_device("NV")
    with pytest.raises(UnsupportedError, match="devices are"):
        adapter.open_device("NOTHING")
