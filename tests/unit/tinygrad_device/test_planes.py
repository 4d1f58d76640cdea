"""Stored blocks as planes: the expressions give the reference decoder's values, bit for bit; other formats are decoded
when they are uploaded. On the device PYTHON, which needs no compiler."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tinygrad", reason="tinygrad is not installed (extra [tinygrad])")

sys.path.insert(0, str(Path(__file__).parents[2] / "parity"))
from random_weights import random_tensor
from tinygrad.helpers import Context

from motley.formats.blocks import LAYOUT
from motley.formats.tensor import QuantTensor
from motley.ops.protocol import Activation, Batch
from motley.ops.tinygrad import adapter
from motley.ops.tinygrad.arrays import padded, padded_rows, remembered_rows
from motley.ops.tinygrad.planes import LAYOUTS, planes_of, values_of
from motley.ops.tinygrad.weights import overwrite, uploaded, uploaded_experts
from motley.predict.memory import TINYGRAD
from motley.shape.quant import Quant


def values(tensor: QuantTensor) -> np.ndarray:
    with Context(NOOPT=1):
        return adapter.read(uploaded(tensor, "PYTHON").values().contiguous().realize())


def plain(tensor: QuantTensor) -> QuantTensor:
    """Without subnormal scales, which tinygrad's device PYTHON takes for 0."""
    if tensor.quant in LAYOUTS:
        records = tensor.data.view(LAYOUT[tensor.quant])
        for field in set(LAYOUTS[tensor.quant].fields) & {"d", "dmin"}:
            records[field] *= np.float16(16)
    return tensor


@pytest.mark.parametrize("quant", [*LAYOUTS, Quant.F32, Quant.F16, Quant.BF16], ids=lambda q: q.name)
def test_values_are_the_reference_decoders(quant: Quant) -> None:
    tensor = plain(random_tensor(quant, (2, max(quant.block, 32))))
    np.testing.assert_array_equal(values(tensor), tensor.decode())


def test_every_scale_of_mxfp4() -> None:
    stored = np.random.default_rng(0).integers(0, 256, (8, 17), np.uint8)
    stored[:, 0] = [0, 1, 2, 3, 127, 253, 254, 255]
    tensor = QuantTensor("w", (8, 32), Quant.MXFP4, stored.reshape(-1))
    np.testing.assert_array_equal(values(tensor), tensor.decode())


@pytest.mark.parametrize("quant", [q for q in Quant if q not in LAYOUTS], ids=lambda q: q.name)
def test_other_formats_keep_every_value(quant: Quant) -> None:
    tensor = random_tensor(quant, (3, max(quant.block, 32)))
    kept, planes = planes_of(tensor)
    assert kept in (Quant.F32, Quant.F16, Quant.BF16)
    if kept is not Quant.BF16:
        np.testing.assert_array_equal(planes["values"].astype(np.float32), tensor.decode())


def test_planes_have_the_files_bytes_and_no_more() -> None:
    for quant in LAYOUTS:
        tensor = random_tensor(quant, (2, 512))
        assert sum(a.nbytes for a in planes_of(tensor)[1].values()) == tensor.n_bytes


@pytest.mark.parametrize("quant", Quant, ids=lambda q: q.name)
def test_planning_counts_the_same_bytes(quant: Quant) -> None:
    tensor = random_tensor(quant, (2, 512))
    kept = sum(a.nbytes for a in planes_of(tensor)[1].values())
    assert kept == pytest.approx(TINYGRAD[quant.name.lower()] * tensor.n_bytes)


def test_rows_are_padded_to_powers_of_two() -> None:
    assert [padded(n) for n in (1, 2, 3, 8, 9, 512)] == [1, 2, 4, 8, 16, 512]
    assert padded_rows(np.array([7, 8, 9], np.int32), -1).tolist() == [7, 8, 9, -1]


def test_a_convolution_reads_what_came_before_in_its_own_sequence() -> None:
    """Two taps before; slot 1 goes on at 5 and 6, slot 0 starts anew. Rows: 3 slots' of 2, 4 of the batch, zeros."""
    reads, into, left = remembered_rows(Batch([0] * 3, [5, 6, 0], [1, 1, 0], []), 2, 2)
    assert reads.reshape(4, 3)[:3].tolist() == [[2, 3, 6], [3, 6, 7], [10, 10, 8]]
    assert dict(zip(into.tolist()[:4], left.tolist())) == {2: 6, 3: 7, 0: 10, 1: 8}
    assert set(into.tolist()[4:]) == {4}


def test_values_of_leading_dimensions_are_kept() -> None:
    tensor = random_tensor(Quant.Q8_0, (2, 3, 64))
    kept = uploaded(tensor, "PYTHON")
    assert values_of(kept.quant, kept.kept).shape == (2, 3, 64)


@pytest.mark.parametrize("quant", [*LAYOUTS, Quant.F32, Quant.F16, Quant.BF16], ids=lambda q: q.name)
def test_experts_written_over_others_are_as_if_uploaded(quant: Quant) -> None:
    """Blocks that are taken apart on the device; some of the places stay empty; then none is there."""
    dims, device = (6, 2, max(quant.block, 32)), "PYTHON"
    tensors = [plain(random_tensor(quant, dims)) for _ in range(3)]
    kept = uploaded_experts(*tensors, [0, 1, 2], Activation.SILU, None, device)
    for ids in ([1, 2, 5], [4], []):
        overwrite(kept, tensors, ids, None, device)
        assert adapter.read(kept.local).tolist() == [ids.index(e) if e in ids else -1 for e in range(6)]
        fresh = uploaded_experts(*tensors, ids, Activation.SILU, None, device)
        for there, want in zip((kept.gate, kept.up, kept.down), (fresh.gate, fresh.up, fresh.down)):
            for name, plane in want.kept.items() if ids else ():
                got = adapter.read(there.kept[name])[: len(ids)]
                np.testing.assert_array_equal(got.view(np.uint8), adapter.read(plane).view(np.uint8))
    with pytest.raises(ValueError, match="don't fit"):
        overwrite(kept, tensors, [0, 1, 2, 3], None, device)
