"""MLX's layouts hold GGUF's blocks exactly: what MLX decodes is what the reference decodes, to the bit."""

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'motley-moe[mlx]'")

import mlx.core as mx
from random_weights import random_tensor

from motley.formats.tensor import QuantTensor
from motley.ops.mlx.layouts import LAYOUTS, device_bytes
from motley.ops.mlx.matrix import Matrix
from motley.predict.memory import MLX, takes_much_more
from motley.shape.model import ModelShape
from motley.shape.quant import Quant


@pytest.fixture(autouse=True)
def on_the_cpu() -> None:
    mx.set_default_device(mx.cpu)


@pytest.mark.parametrize("quant", Quant, ids=lambda q: q.name)
def test_mlx_decodes_what_the_reference_decodes(quant: Quant) -> None:
    tensor = random_tensor(quant, (37, 512))
    if quant.block > 1 and quant is not Quant.MXFP4:
        tensor.data[: 2 * quant.block_bytes] = np.arange(2 * quant.block_bytes) * 37 % 113  # odd scales too
    matrix = Matrix(tensor)
    assert (matrix.layout is None) == (quant not in LAYOUTS)
    np.testing.assert_array_equal(np.array(matrix.values()), tensor.decode())


def test_mxfp4_of_every_scale() -> None:
    """Subnormal values and values beyond float32; a scale that is no number makes the tensor float32."""
    stored = np.random.default_rng(0).integers(0, 256, (256, 17), np.uint8)
    stored[:, 0] = np.arange(256)
    for rows in (255, 256):
        tensor = QuantTensor("w", (rows, 32), Quant.MXFP4, stored[:rows].reshape(-1))
        matrix = Matrix(tensor)
        assert (matrix.layout is None) == (rows == 256)
        np.testing.assert_array_equal(np.array(matrix.values()), tensor.decode())


@pytest.mark.parametrize("quant", [Quant.Q4_K, Quant.Q6_K, Quant.F16, Quant.MXFP4], ids=lambda q: q.name)
def test_some_of_many_matrices(quant: Quant) -> None:
    tensor = random_tensor(quant, (6, 20, 256))
    matrix = Matrix(tensor, [4, 1, 5])
    assert matrix.dims == (3, 20, 256)
    np.testing.assert_array_equal(np.array(matrix.values()), tensor.decode()[[4, 1, 5]])


@pytest.mark.parametrize("quant", Quant, ids=lambda q: q.name)
def test_bytes_on_the_device_are_what_is_said(quant: Quant) -> None:
    matrix = Matrix(random_tensor(quant, (8, 512)))
    assert sum(a.nbytes for a in matrix._arrays) == device_bytes(quant, 8 * 512)


@pytest.mark.parametrize("quant", Quant, ids=lambda q: q.name)
def test_planning_counts_the_same_bytes(quant: Quant) -> None:
    assert MLX[quant.name.lower()] * quant.n_bytes(512) == pytest.approx(device_bytes(quant, 512))


def test_what_takes_much_more_room_is_said() -> None:
    (said,) = takes_much_more(ModelShape.named("olmoe-1b-7b", "q4_k_m"), "mlx")
    assert said == "MLX keeps Q6_K exactly in a layout of more room: 2.4 times the file's bytes"
    (said,) = takes_much_more(ModelShape.named("olmoe-1b-7b", "f16"), "mlx")
    assert "MLX keeps F16 exactly as float32: 2.0 times" in said
