"""Large and small: one expert, every expert, crowded experts, batches around each tile of tokens, widths that are no
multiple of a tile, tensors of more than 2^31 elements. Against numpy, and to the bit against the same tokens in
another batch."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from random_weights import random_tensor
from test_ops_parity import FLOATS, INTEGERS, assert_close, experts_in_numpy, experts_of, int8_rounded, normal

from motley.formats.tensor import QuantTensor
from motley.ops.native import NativeOps, isas
from motley.ops.protocol import Upload
from motley.ops.reference import ReferenceOps
from motley.shape.quant import Quant

BLOCKS_OF_32 = [q for q in INTEGERS if q.block == 32]
BATCHES = [*range(1, 18), 63, 64, 65]


@pytest.fixture(params=isas(), scope="module")
def ops(request: pytest.FixtureRequest) -> Iterator[NativeOps]:
    native = NativeOps(threads=2, isa=request.param)
    yield native
    native.close()


def tolerance(down: Quant) -> float:
    """A hidden value on the edge between two int8 steps may round the other way: one step in one term."""
    return 1e-5 if down in FLOATS else 5e-3


def check_experts(ops: NativeOps, tensors: list[QuantTensor], x: np.ndarray, ids: np.ndarray) -> np.ndarray:
    n_experts = tensors[0].dims[0]
    owned = list(range(n_experts))
    weights = np.random.default_rng(7).random(ids.shape, np.float32)
    experts = ops.experts_weight(*tensors, owned)
    got = ops.experts(x, ids, weights, experts)
    assert_close(got, experts_in_numpy(tensors, owned, x, ids, weights), tolerance(tensors[2].quant))
    for n in BATCHES[: np.searchsorted(BATCHES, len(x))]:
        np.testing.assert_array_equal(ops.experts(x[:n], ids[:n], weights[:n], experts), got[:n])
    return got


def choices(tokens: int, n_experts: int, n_used: int) -> np.ndarray:
    rng = np.random.default_rng([tokens, n_experts, n_used])
    return np.array([rng.permutation(n_experts)[:n_used] for _ in range(tokens)], np.int32)


@pytest.mark.parametrize("quant", FLOATS + INTEGERS, ids=lambda q: q.name)
@pytest.mark.parametrize(("n_experts", "n_used"), [(1, 1), (5, 5), (7, 2)])
def test_experts_of_any_number_for_batches_of_any_size(
    ops: NativeOps, quant: Quant, n_experts: int, n_used: int
) -> None:
    """One expert, all experts for every token, and a few of several."""
    d, f = (256, 256) if quant.block == 256 else (3 * max(quant.block, 32), 5 * max(quant.block, 32))
    tensors = experts_of(quant, quant, n_experts, d, f)
    check_experts(ops, tensors, normal(65, d), choices(65, n_experts, n_used))


@pytest.mark.parametrize("quant", FLOATS + INTEGERS, ids=lambda q: q.name)
def test_an_expert_that_every_token_chose(ops: NativeOps, quant: Quant) -> None:
    """Beside others that one token chose, and some that none did."""
    tensors = experts_of(quant, quant, 40, quant.block if quant.block > 1 else 50, 256)
    ids = np.full((65, 2), 31, np.int32)
    ids[:, 1] = 39
    ids[:20, 1] = np.arange(20)
    check_experts(ops, tensors, normal(65, tensors[0].dims[2]), ids)


@pytest.mark.parametrize("down", [Quant.F32, Quant.F16, Quant.BF16], ids=lambda q: q.name)
@pytest.mark.parametrize("gate", [*BLOCKS_OF_32, Quant.Q4_K], ids=lambda q: q.name)
@pytest.mark.parametrize("f", [1, 15, 33, 47])
def test_hidden_widths_that_fill_no_tile(ops: NativeOps, gate: Quant, down: Quant, f: int) -> None:
    """The rows of gate and up, which are the columns of down: only float formats can have them so."""
    tensors = experts_of(gate, down, 3, 3 * gate.block if gate.block < 256 else 256, f)
    check_experts(ops, tensors, normal(9, tensors[0].dims[2]), choices(9, 3, 2))


@pytest.mark.parametrize("quant", BLOCKS_OF_32, ids=lambda q: q.name)
@pytest.mark.parametrize("blocks", [1, 3, 5, 7, 9])
def test_odd_numbers_of_blocks(ops: NativeOps, quant: Quant, blocks: int) -> None:
    """Tiles hold two or four blocks along a row. The model's width, and the experts', end within one."""
    d, f = 32 * blocks, 32 * (blocks + 2)
    check_experts(ops, experts_of(quant, quant, 3, d, f), normal(17, d), choices(17, 3, 2))
    for rows in (1, 15, 17, 31, 33):
        w, x = random_tensor(quant, (rows, d)), normal(65, d)
        weight = ops.weight(w)
        (got,) = ops.linear(x, weight)
        assert_close(got, int8_rounded(x) @ w.decode().astype(np.float64).T)
        for n in BATCHES:
            np.testing.assert_array_equal(ops.linear(x[:n], weight)[0], got[:n])


def sparse(path: Path, quant: Quant, dims: tuple[int, ...], last: np.ndarray) -> QuantTensor:
    """A file of zeros that takes no space, but for `last` at its very end, mapped as a tensor, gone with it."""
    size = quant.n_bytes(int(np.prod(dims, dtype=np.int64)))
    with path.open("wb") as file:
        file.seek(size - last.nbytes)
        file.write(last.tobytes())
    data = np.memmap(path, np.uint8, "r")
    path.unlink()
    return QuantTensor(path.name, dims, quant, data)


@pytest.mark.parametrize("quant", [Quant.F32, Quant.Q8_0, Quant.Q4_K, Quant.MXFP4], ids=lambda q: q.name)
def test_experts_beyond_2_to_the_31_elements(ops: NativeOps, tmp_path: Path, quant: Quant) -> None:
    """8.6 GB of F32, where a sparse file is none: the owned expert alone is read."""
    width, n_experts = 1024, 2049
    last = [random_tensor(quant, (width, width), seed=i).data for i in range(3)]
    dims = (n_experts, width, width)
    tensors = [sparse(tmp_path / f"{i}", quant, dims, data) for i, data in enumerate(last)]
    assert np.prod(dims, dtype=np.int64) > 2**31
    x, ids = normal(3, width), np.full((3, 1), n_experts - 1, np.int32)
    ids[1] = 0  # not owned
    weights = np.ones((3, 1), np.float32)
    experts = ops.experts_weight(*tensors, [n_experts - 1])
    got = ops.experts(x, ids, weights, experts)
    in_place = ops.experts_weight(*tensors, [n_experts - 1], Upload(repack=False))  # up to the mapping's last byte
    np.testing.assert_array_equal(ops.experts(x, ids, weights, in_place), got)
    want = experts_in_numpy([QuantTensor("e", (1, width, width), quant, t) for t in last], [0], x, ids - ids, weights)
    want[1] = 0
    assert_close(got, want, tolerance(quant))
    assert np.abs(want).max() > 0.1
    reference = ReferenceOps()
    theirs = reference.experts(x, ids, weights, reference.experts_weight(*tensors, [n_experts - 1]))
    assert_close(got, theirs, 0.05 if quant in INTEGERS else 1e-4)


@pytest.mark.parametrize("quant", [Quant.F16, Quant.Q8_0, Quant.MXFP4], ids=lambda q: q.name)
def test_a_table_beyond_2_to_the_32_elements(ops: NativeOps, tmp_path: Path, quant: Quant) -> None:
    n_rows, width = (1 << 22) + 3, 1024
    last = random_tensor(quant, (1, width))
    table = sparse(tmp_path / "table", quant, (n_rows, width), last.data)
    got = ops.embed(ops.table(table), np.array([n_rows - 1, 5, n_rows - 2], np.int32))
    np.testing.assert_array_equal(got, np.concatenate([last.decode(), np.zeros((2, width), np.float32)]))
