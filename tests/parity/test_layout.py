"""Weights left as the file has them give the bits that repacked ones give."""

import gc
import subprocess
import sys
import weakref
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
from random_weights import random_tensor

import motley
from motley.bundled import model_path
from motley.ops.native import NativeOps, isas
from motley.ops.protocol import Routing, Upload
from motley.predict.memory import PACKED
from motley.shape.quant import Quant

STORED = Upload(repack=False)


@pytest.fixture(params=isas())
def ops(request: pytest.FixtureRequest):
    native = NativeOps(threads=2, isa=request.param)
    yield native
    native.close()


def normal(*dims: int) -> np.ndarray:
    return np.random.default_rng(list(dims)).standard_normal(dims).astype(np.float32)


def columns(quant: Quant) -> list[int]:
    """Such as fill no tile."""
    if quant.block == 1:
        return [1, 3, 7, 8, 21, 64]
    return [256, 768] if quant.block == 256 else [quant.block, 3 * quant.block, 9 * quant.block]


@pytest.mark.parametrize("quant", Quant, ids=lambda q: q.name)
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 47, 100])
def test_products(ops: NativeOps, quant: Quant, rows: int) -> None:
    for cols in columns(quant):
        tensor = random_tensor(quant, (rows, cols))
        packed, stored = ops.weight(tensor), ops.weight(tensor, STORED)
        for tokens in (1, 2, 7, 20):
            x = normal(tokens, cols)
            a, b = ops.linear(x, packed, stored)
            assert a.tobytes() == b.tobytes()
            (alone,) = ops.linear(x, stored)
            assert a.tobytes() == alone.tobytes()


@pytest.mark.parametrize("quants", [(q, q, q) for q in Quant] + [(Quant.Q4_K, Quant.Q4_K, Quant.Q6_K)], ids=str)
def test_experts(ops: NativeOps, quants: tuple[Quant, Quant, Quant]) -> None:
    n, f, d = (5, 256, 512) if max(q.block for q in quants) == 256 else (5, 192, 320)
    tensors = [random_tensor(q, dims) for q, dims in zip(quants, [(n, f, d), (n, f, d), (n, d, f)])]
    for owned in ([0, 1, 2, 3, 4], [3, 1]):
        packed, stored = (ops.experts_weight(*tensors, owned, upload) for upload in (Upload(), STORED))
        for tokens in (1, 3, 40):
            ids = np.random.default_rng(tokens).integers(0, n, (tokens, 2)).astype(np.int32)
            a, b = (ops.experts(normal(tokens, d), ids, np.abs(normal(tokens, 2)), e) for e in (packed, stored))
            assert a.tobytes() == b.tobytes()
            assert a.any() or tokens < 40


def test_routers(ops: NativeOps) -> None:
    for quant in (Quant.F32, Quant.BF16, Quant.Q8_0):
        tensor = random_tensor(quant, (40, 64))
        routes = [ops.router(normal(9, 64), ops.weight(tensor, u), Routing(4, True)) for u in (Upload(), STORED)]
        for a, b in zip(*routes):
            assert a.tobytes() == b.tobytes()


def test_a_stored_weight_takes_no_memory_and_keeps_its_source(ops: NativeOps) -> None:
    tensors = [random_tensor(Quant.F32, dims) for dims in [(4, 16, 8), (4, 16, 8), (4, 8, 16)]]
    ids, weights = np.array([[1]], np.int32), np.ones((1, 1), np.float32)
    expected = ops.experts(normal(1, 8), ids, weights, ops.experts_weight(*tensors, [1]))
    experts = ops.experts_weight(*tensors, [1], STORED)
    matrix = ops.weight(random_tensor(Quant.Q8_0, (16, 32)), STORED).packed
    assert experts.n_bytes == matrix.n_bytes == 0
    sources = [weakref.ref(t.data) for t in tensors]
    del tensors
    gc.collect()
    assert all(source() is not None for source in sources)
    got = ops.experts(normal(1, 8), ids, weights, experts)
    assert got.tobytes() == expected.tobytes()
    del experts
    gc.collect()
    assert all(source() is None for source in sources)


def test_long_packing_tells_how_far_it_is(ops: NativeOps) -> None:
    tensor, told = random_tensor(Quant.Q8_0, (24 << 10, 1024)), list[int]()
    ops.weight(tensor, Upload(report=told.append))
    assert len(told) >= 2
    assert told == sorted(told)
    assert told[-1] <= tensor.n_bytes
    experts = [random_tensor(Quant.Q8_0, dims) for dims in [(8, 1024, 1024)] * 3]
    told.clear()
    ops.experts_weight(*experts, range(8), Upload(report=told.append))
    assert len(told) >= 2
    assert told[-1] <= sum(t.n_bytes for t in experts)


def test_packing_can_be_interrupted(ops: NativeOps) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    tensor = random_tensor(Quant.Q8_0, (24 << 10, 1024))
    with pytest.raises(KeyboardInterrupt):
        ops.weight(tensor, Upload(report=interrupt))
    assert ops.linear(normal(1, 1024), ops.weight(tensor))[0].any()


def test_the_planner_knows_what_repacking_takes(ops: NativeOps) -> None:
    for quant in Quant:
        tensor = random_tensor(quant, (160, 2560))
        factor = ops.weight(tensor).packed.n_bytes / tensor.n_bytes
        expected = pytest.approx(factor, rel=0.005, abs=0.02)  # memory comes by the page
        assert PACKED.get(quant.name.lower(), 1.0) == expected


def numbers_of(path: Path) -> dict[str, int]:
    """Of this file's mapping in this process, bytes: `Rss`, `Pss` (each page divided by its users), ..."""
    maps = Path("/proc/self/smaps").read_text().split(str(path))[1:]
    found: dict[str, int] = {}
    for part in maps:
        for line in part.splitlines()[1:]:
            if not line.endswith(" kB"):
                break
            key, value, _ = line.split()
            found[key.rstrip(":")] = found.get(key.rstrip(":"), 0) + 1024 * int(value)
    return found


CHILD = """
import sys, motley
with motley.load(sys.argv[1], threads=1, context=16, repack=False) as model:
    model.logits(list(range(16)))
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_two_processes_share_a_mapped_model() -> None:
    path = model_path()
    with (
        motley.load(path, threads=1, context=16, repack=False) as model,
        subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdin=PIPE, stdout=PIPE) as other,
    ):
        assert other.stdout
        assert other.stdout.readline() == b"ready\n"
        model.logits(list(range(16)))
        mapping = numbers_of(path)
        other.communicate()
    assert mapping["Anonymous"] == 0
    assert mapping["Rss"] > 0.5 * path.stat().st_size
    assert mapping["Pss"] < 0.6 * mapping["Rss"]


def test_wrong_stored_experts_are_refused(ops: NativeOps) -> None:
    tensors = [random_tensor(Quant.F32, dims) for dims in [(4, 16, 8), (4, 16, 8), (4, 8, 16)]]
    for owned, message in [([0, 4], "expert 4 is not one"), ([1, 1], "owned twice")]:
        with pytest.raises(ValueError, match=message):
            ops.experts_weight(*tensors, owned, STORED)
