"""Random stored tensors of every quantisation: random blocks whose scales are of sane size."""

import numpy as np

from motley.formats.blocks import LAYOUT
from motley.formats.decode import decode
from motley.formats.tensor import QuantTensor
from motley.shape.quant import Quant


def random_tensor(quant: Quant, dims: tuple[int, ...], seed: int = 0, name: str = "w") -> QuantTensor:
    """Values of about unit variance over sqrt(cols)."""
    rng = np.random.default_rng([seed, quant.ggml_type, *dims])
    n = int(np.prod(dims))
    scale = dims[-1] ** -0.5
    if quant.block == 1:
        values = (rng.standard_normal(n) * scale).astype(np.float32)
        if quant is Quant.F16:
            values = values.astype(np.float16)
        elif quant is Quant.BF16:
            values = (values.view(np.uint32) >> 16).astype(np.uint16)
        return QuantTensor(name, dims, quant, values.view(np.uint8))
    blocks = rng.integers(0, 256, (n // quant.block, quant.block_bytes), np.uint8)
    if quant is Quant.MXFP4:
        blocks[:, 0] = np.floor(np.log2(scale / 3) + rng.uniform(0, 2, len(blocks))) + 127
        return QuantTensor(name, dims, quant, blocks.reshape(-1))
    if quant is Quant.NVFP4:  # E4M3: about 2^-4 to 2^-2, over 16 values of deviation 3
        blocks[:, :4] = rng.integers(0x10, 0x20, (len(blocks), 4), np.uint8)
        return QuantTensor(name, dims, quant, blocks.reshape(-1))
    _set_halves(blocks, quant, np.ones(len(blocks)))
    step = decode(blocks, quant).std()  # of the scale 1
    _set_halves(blocks, quant, rng.uniform(0.5, 1.5, len(blocks)) * scale / step)
    return QuantTensor(name, dims, quant, blocks.reshape(-1))


def _set_halves(blocks: np.ndarray, quant: Quant, scales: np.ndarray) -> None:
    """Every half-precision field of each block."""
    records, halves = blocks.reshape(-1).view(LAYOUT[quant]), scales.astype(np.float16)
    for field in LAYOUT[quant].names or ():
        if LAYOUT[quant][field] == np.float16:
            records[field] = halves
    if quant is Quant.IQ1_M:
        parts = halves.view(np.uint16)[:, None] >> np.array([0, 4, 8, 12], np.uint16)
        records["scales"] = (records["scales"] & 0x0FFF) | parts << 12
