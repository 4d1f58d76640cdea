"""What deferred operations add up to: nothing is launched, as nobody wants a value."""

import numpy as np
import pytest

pytest.importorskip("tinygrad", reason="tinygrad is not installed (extra [tinygrad])")

from motley.formats.tensor import QuantTensor
from motley.ops.protocol import Rope
from motley.ops.tinygrad import CudaOps
from motley.ops.tinygrad.arrays import Rows
from motley.ops.tinygrad.patterns import latent_of
from motley.ops.tinygrad.weights import TinygradWeight
from motley.shape.quant import Quant

HEADS, RANK, NOPE, DIM = 3, 8, 6, 4


@pytest.fixture(scope="module")
def ops() -> CudaOps:
    return CudaOps("PYTHON")


def weight(ops: CudaOps, *dims: int) -> TinygradWeight:
    return ops.weight(QuantTensor("w", dims, Quant.F32, np.ones(dims, np.float32).reshape(-1).view(np.uint8)))


def given(ops: CudaOps, heads: int = HEADS, rank: int = RANK, joined: int = RANK) -> tuple[Rows, ...]:
    """As `models.attention.LatentAttention`; of q's matrix the heads, of kv's the rank, and what is joined a head."""
    position, turn = np.zeros(1, np.int32), Rope(DIM, 1e4, True)
    h = ops.from_host(np.ones((1, 16), np.float32))
    q, kv = ops.linear(h, weight(ops, heads * (NOPE + DIM), 16), weight(ops, rank + DIM, 16))
    q = ops.rope(q, NOPE + DIM, position, Rope(DIM, 1e4, True, NOPE))
    latent = ops.rms_norm(ops.columns(kv, RANK + DIM, 0, RANK), weight(ops, RANK), 1e-5)
    rest = ops.rope(ops.columns(kv, RANK + DIM, RANK, RANK + DIM), DIM, position, turn)
    absorbed = ops.heads_linear(ops.columns(q, NOPE + DIM, 0, NOPE), weight(ops, HEADS, RANK, NOPE))
    q = ops.join(absorbed, joined, ops.columns(q, NOPE + DIM, NOPE, NOPE + DIM), DIM)
    return q, ops.join(latent, RANK, rest, DIM), latent


def test_latent_attention_is_known_by_its_operations(ops: CudaOps) -> None:
    found = latent_of(*given(ops), 1, RANK + DIM, RANK)
    assert found is not None
    assert found.k_b.dims == (HEADS, RANK, NOPE)
    assert latent_of(*given(ops, joined=RANK // 2), 1, RANK + DIM, RANK) is None, "joined in another way"


@pytest.mark.parametrize(
    ("made", "cache"),
    [
        ({}, (1, RANK + DIM + 1, RANK)),
        ({}, (1, RANK + DIM, RANK - 1)),
        ({}, (2, (RANK + DIM) // 2, RANK)),
        ({"heads": HEADS - 1}, (1, RANK + DIM, RANK)),
        ({"rank": 2 * RANK + DIM}, (1, RANK + DIM, RANK)),
    ],
    ids=["cache", "values", "two heads", "query", "latent"],
)
def test_latent_attention_of_other_widths_is_an_error(
    ops: CudaOps, made: dict[str, int], cache: tuple[int, int, int]
) -> None:
    with pytest.raises(ValueError, match=r"latent attention of 3 heads of 6 \+ 4 elements .* not \(30, 12, 1, 12, 8\)"):
        latent_of(*given(ops, **made), *cache)
