"""What NativeOps refuses, keeps and gives back: errors, memory, threads, processes."""

import mmap
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from random_weights import random_tensor

from motley.errors import CapacityError, UnsupportedError, UsageError
from motley.formats.tensor import QuantTensor
from motley.ops.native import NativeOps, isas
from motley.ops.protocol import Batch, Rope, Routing
from motley.predict.memory import KEPT_AS, PACKED
from motley.shape.quant import Quant


@pytest.fixture
def ops():
    native = NativeOps(threads=2)
    yield native
    native.close()


def zeros(*dims: int) -> np.ndarray:
    return np.zeros(dims, np.float32)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="neon"):
        NativeOps(isa="neon")
    with pytest.raises(UsageError, match="threads must be 1 to 1024, not 0"):
        NativeOps(threads=0)
    with pytest.raises(UsageError, match="f8"):
        NativeOps(kv="f8")


def test_scalar_runs_everywhere() -> None:
    assert "scalar" in isas()
    assert NativeOps(isa="scalar").name == "native-scalar"


def test_an_unsupported_quantisation_names_the_tensor(ops: NativeOps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motley.ops.native.native_ops.SUPPORTED", frozenset({Quant.F32}))
    with pytest.raises(UnsupportedError, match=r"blk\.0\.x is Q8_0"):
        ops.weight(random_tensor(Quant.Q8_0, (16, 32), name="blk.0.x"))


def test_wrong_dimensions_are_refused_with_their_numbers(ops: NativeOps) -> None:
    tensor = random_tensor(Quant.F32, (16, 32))
    weight, table = ops.weight(tensor), ops.table(tensor)
    with pytest.raises(ValueError, match="x has 31 columns, the weight 32"):
        ops.linear(zeros(2, 31), weight)
    with pytest.raises(ValueError, match="token 16 is outside the table of 16"):
        ops.embed(table, np.array([0, 16], np.int32))
    with pytest.raises(ValueError, match="token -1"):
        ops.embed(table, np.array([-1], np.int32))
    with pytest.raises(ValueError, match="cannot choose 17 of 16 experts"):
        ops.router(zeros(1, 32), weight, Routing(17, False))
    with pytest.raises(ValueError, match="rows of 30 are not groups of 32"):
        ops.rms_norm(zeros(1, 30), ops.weight(random_tensor(Quant.F32, (32,))), 1e-5)
    with pytest.raises(ValueError, match="cannot rotate 34 elements from 0 on, of 32"):
        ops.rope(zeros(1, 32), 32, np.zeros(1, np.int32), Rope(34, 1e4))
    with pytest.raises(ValueError, match="takes 2048 bytes, not 2044"):
        ops.weight(QuantTensor("w", (16, 32), Quant.F32, np.zeros(2044, np.uint8)))
    with pytest.raises(ValueError, match="array of type 'd'"):
        ops.linear(np.zeros((1, 32)), weight)  # type: ignore[arg-type]


def test_wrong_cache_use_is_refused(ops: NativeOps) -> None:
    cache = ops.kv_cache(2, 10, 2, 8)
    q, kv = zeros(1, 32), zeros(1, 16)
    for position, slot, message in [(10, 0, "position 10"), (0, 2, "slot 2")]:
        with pytest.raises(ValueError, match=message):
            ops.attention(q, kv, kv, cache, Batch([0], [position], [slot], []), 1.0)
    with pytest.raises(ValueError, match="3 query heads"):
        ops.attention(zeros(1, 24), kv, kv, cache, Batch([0], [0], [0], []), 1.0)


def test_wrong_experts_are_refused(ops: NativeOps) -> None:
    tensors = [random_tensor(Quant.F32, dims) for dims in [(4, 16, 8), (4, 16, 8), (4, 8, 16)]]
    for owned, message in [([0, 4], "expert 4 is not one"), ([1, 1], "owned twice")]:
        with pytest.raises(ValueError, match=message):
            ops.experts_weight(*tensors, owned)
    with pytest.raises(ValueError, match="do not fit"):
        ops.experts_weight(tensors[0], tensors[1], tensors[0], [0])
    experts = ops.experts_weight(*tensors, [0, 1])
    for bad_id in (-2, 4):
        with pytest.raises(ValueError, match=f"expert {bad_id} is outside"):
            ops.experts(zeros(1, 8), np.array([[bad_id]], np.int32), zeros(1, 1), experts)


def test_an_id_of_minus_one_is_nobodys(ops: NativeOps) -> None:
    """Somebody else computes that expert: the rest is as if it had not been chosen."""
    rng = np.random.default_rng(5)
    tensors = [random_tensor(Quant.Q8_0, dims) for dims in [(4, 64, 32), (4, 64, 32), (4, 32, 64)]]
    experts = ops.experts_weight(*tensors, [0, 1, 3])
    x, weights = rng.standard_normal((3, 32), np.float32), rng.random((3, 2), np.float32)
    ids = np.array([[0, 1], [3, 0], [1, 3]], np.int32)
    told, kept = ids.copy(), np.array([[True, False], [False, False], [True, True]])
    told[~kept] = -1
    want = np.zeros((3, 32))
    for t, slot in np.argwhere(kept):
        row = slice(t, t + 1)
        one = ops.experts(x[row], ids[row, slot : slot + 1].copy(), weights[row, slot : slot + 1].copy(), experts)
        want[t] += np.asarray(ops.to_host(one))[0]
    got = np.asarray(ops.to_host(ops.experts(x, told, weights, experts)))
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    assert not got[1].any()


def test_no_tokens_give_empty_results(ops: NativeOps) -> None:
    tensor = random_tensor(Quant.Q8_0, (16, 32))
    assert ops.linear(zeros(0, 32), ops.weight(tensor))[0].shape == (0, 16)
    assert ops.embed(ops.table(tensor), np.zeros(0, np.int32)).shape == (0, 32)


def test_packed_weights_stay_close_to_the_stored_size(ops: NativeOps) -> None:
    for quant in Quant:
        tensor = random_tensor(quant, (1024, 2048))
        expected = PACKED[quant.name.lower()] if quant.name.lower() in KEPT_AS else 1.04  # in another one's tiles
        assert ops.weight(tensor).packed.n_bytes <= expected * tensor.n_bytes


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_only_owned_experts_are_kept_and_sources_are_released(ops: NativeOps, tmp_path: Path) -> None:
    n, d, f = 32, 512, 1024  # 2 MB a matrix in F32
    (tmp_path / "w").write_bytes(np.random.default_rng(0).bytes(4 * n * d * f))
    with (tmp_path / "w").open("rb") as file:
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    gate, down = (QuantTensor("w", dims, Quant.F32, data) for dims in [(n, f, d), (n, d, f)])
    before = resident_bytes()
    experts = ops.experts_weight(gate, gate, down, range(8))
    assert experts.n_bytes == 3 * 8 * 4 * d * f
    assert resident_bytes() - before < 1.1 * experts.n_bytes


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_untouched_context_costs_nothing(ops: NativeOps) -> None:
    before = resident_bytes()
    cache = ops.kv_cache(128, 4096, 16, 128)  # 4.3 GB of addresses
    q = zeros(1, 2048)
    ops.attention(q, q, q, cache, Batch([0], [0], [5], []), 1.0)
    assert resident_bytes() - before < 50e6


def test_memory_that_is_no_file_mapping_survives_packing(ops: NativeOps) -> None:
    tensor = random_tensor(Quant.Q8_0, (512, 2048))
    tensor.data.flags.writeable = False
    before = tensor.data.copy()
    ops.weight(tensor).packed  # noqa: B018
    np.testing.assert_array_equal(tensor.data, before)


def test_an_idle_pool_burns_no_cpu() -> None:
    ops = NativeOps(threads=8)
    weight = ops.weight(random_tensor(Quant.F32, (4096, 256)))
    ops.linear(zeros(8, 256), weight)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.25  # eight that look take both cores
    ops.close()


def test_more_threads_than_cores_do_not_collapse() -> None:
    tensor, x = random_tensor(Quant.F32, (4096, 256)), zeros(8, 256)
    medians = {}
    for threads in (os.cpu_count() or 1, 4 * (os.cpu_count() or 1)):
        ops = NativeOps(threads=threads)
        weight = ops.weight(tensor)
        times = []
        for _ in range(100):
            start = time.perf_counter()
            ops.linear(x, weight)
            times.append(time.perf_counter() - start)
        medians[threads] = sorted(times)[50]
        ops.close()
    few, many = medians.values()
    assert many < 20 * few + 1e-3


@pytest.mark.parametrize("quant", list(Quant), ids=lambda q: q.name)
def test_zeros_are_no_slower_than_other_weights(quant: Quant) -> None:
    """The scale of an MXFP4 block of zeros is subnormal: multiplying with it would take seven times as long."""
    some = random_tensor(quant, (512, 2048))
    none = QuantTensor("zeros", some.dims, quant, np.zeros_like(some.data))
    ops, x = NativeOps(threads=1), np.ones((4, 2048), np.float32)
    weights = [ops.weight(t) for t in (some, none)]
    times: list[list[float]] = [[], []]
    for _ in range(15):
        for weight, took in zip(weights, times):
            start = time.perf_counter()
            ops.linear(x, weight)
            took.append(time.perf_counter() - start)
    ops.close()
    assert sorted(times[1])[7] < 3 * sorted(times[0])[7]


def test_several_devices_and_callers_at_once() -> None:
    tensor = random_tensor(Quant.Q8_0, (256, 256))
    x = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    devices = [NativeOps(threads=3) for _ in range(2)]
    weights = [d.weight(tensor) for d in devices]
    (want,) = devices[0].linear(x, weights[0])
    wrong = []

    def call(device: NativeOps, weight: object) -> None:
        for _ in range(300):
            if not np.array_equal(device.linear(x, weight)[0], want):  # type: ignore[arg-type]
                wrong.append(device)

    callers = [threading.Thread(target=call, args=pair) for pair in zip(devices * 2, weights * 2)]
    for c in callers:
        c.start()
    for c in callers:
        c.join()
    assert not wrong
    for d in devices:
        d.close()
        d.close()  # idempotent


def test_a_closed_device_still_answers_alone(ops: NativeOps) -> None:
    tensor = random_tensor(Quant.Q8_0, (256, 256))
    weight = ops.weight(tensor)
    want = ops.linear(zeros(1, 256) + 1, weight)[0].copy()
    ops.close()
    np.testing.assert_array_equal(ops.linear(zeros(1, 256) + 1, weight)[0], want)


FORKING = """
import os, numpy as np
from motley.ops.native import NativeOps
from motley.formats.tensor import QuantTensor
from motley.shape.quant import Quant
ops = NativeOps(threads=2)
x = np.ones((64, 256), np.float32)
w = ops.weight(QuantTensor("w", (4096, 256), Quant.F32, np.ones(4 * 4096 * 256, np.uint8)))
want = ops.linear(x, w)[0]
child = os.fork()
assert (ops.linear(x, w)[0] == want).all()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_computes_alone_and_both_exit() -> None:
    subprocess.run([sys.executable, "-c", FORKING], check=True, timeout=30)


def test_busy_seconds_grow(ops: NativeOps) -> None:
    before = ops.busy_seconds()
    ops.linear(zeros(64, 512), ops.weight(random_tensor(Quant.F32, (2048, 512))))
    assert 0 < ops.busy_seconds() - before < 10


def test_probes_give_sane_figures(ops: NativeOps) -> None:
    assert 0.1 < ops.read_gb_s(1 << 26, 3) < 10_000
    assert 0.1 < ops.f32_gflops() < 1e6
    assert 0.1 < ops.int8_gops() < 1e7
    assert 0.1 < ops.op_overhead_us(200) < 1000


def test_a_batch_may_be_cut_from_any_array() -> None:
    """A column of a table of tokens is not contiguous; the kernels read what a Batch makes of it."""
    table = np.arange(12, dtype=np.int32).reshape(4, 3)
    batch = Batch(table[:, 1], table[:, 0], table[::-1, 2], table[:2, 1])
    ops = NativeOps()
    embedding = random_tensor(Quant.F32, (12, 8))
    got = ops.embed(ops.table(embedding), batch.tokens)
    np.testing.assert_array_equal(got, embedding.decode()[[1, 4, 7, 10]])
    assert all(a.flags.c_contiguous for a in (batch.tokens, batch.positions, batch.slots, batch.rows))
    ops.close()


def test_an_absurd_cache_is_refused_not_wrapped_around() -> None:
    ops = NativeOps()
    for sizes in [(1, 2**62, 8, 128), (2**32, 2**62, 1, 64), (2, 10**30, 2, 64)]:
        with pytest.raises(CapacityError, match="take a shorter context"):
            ops.kv_cache(*sizes)
    ops.close()
