"""Decode stored blocks to float32, bit for bit as the GGUF reference does. Slow and obvious: the truth for tests."""

import numpy as np
from numpy.typing import NDArray

from motley.errors import UnsupportedError
from motley.shape.quant import Quant


def decode(data: NDArray[np.uint8], quant: Quant) -> NDArray[np.float32]:
    """Stored bytes [n_bytes] -> values [n_elements]."""
    if quant is Quant.F32:
        return data.view(np.float32)
    raise UnsupportedError(f"no decoder for {quant.name}")
