"""Random stored tensors of every quantisation: random blocks whose scales are of sane size."""

import numpy as np

from motley.formats.tensor import QuantTensor
from motley.shape.quant import Quant

SCALE_AT = {Quant.Q8_0: [0], Quant.Q4_0: [0], Quant.Q4_K: [0, 2], Quant.Q5_K: [0, 2], Quant.Q6_K: [208]}
STEPS = {Quant.Q8_0: 73, Quant.Q4_0: 4.6, Quant.Q4_K: 32 * 4.6, Quant.Q5_K: 32 * 9.2, Quant.Q6_K: 73 * 18.5}


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
    for at in SCALE_AT[quant]:
        d = rng.uniform(0.5, 1.5, len(blocks)) * scale / STEPS[quant] * (8 if at == 2 else 1)
        blocks[:, at : at + 2] = d.astype(np.float16)[:, None].view(np.uint8)
    return QuantTensor(name, dims, quant, blocks.reshape(-1))
