"""Golden values of the layouts in which Hugging Face checkpoints store weights, by the libraries that define them.

    pip install torch==2.13.0 transformers==5.24.0 compressed-tensors==0.20.1 && python tools/golden/make_packed.py

Writes tests/golden/packed.npz: what is stored (types that numpy lacks as their bytes) and the float32 values that it
means. The tests need none of these libraries. AWQ and GPTQ have twins in the tests instead: their packages need a GPU.
"""

from pathlib import Path

import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

OUT = Path(__file__).parents[2] / "tests" / "golden" / "packed.npz"


def eight_bits() -> dict[str, torch.Tensor]:
    """Every byte, as each of the 8-bit types."""
    every = torch.arange(256, dtype=torch.uint8)
    types = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "e8m0": torch.float8_e8m0fnu}
    return {name: every.view(dtype).float() for name, dtype in types.items()}


def fp8_blocks() -> dict[str, torch.Tensor]:
    """As deepseek-ai/DeepSeek-V3's inference/kernel.py, weight_dequant: each block of 128 x 128 times its scale."""
    weight = (torch.randn(200, 300) * 100).to(torch.float8_e4m3fn)
    scale = torch.rand(2, 3) * 1e-3 + 1e-4
    values = weight.float()
    for i in range(2):
        for j in range(3):
            values[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128] *= scale[i, j]
    return {"fp8": weight.view(torch.uint8), "fp8_scale": scale, "fp8_values": values}


def int4() -> dict[str, torch.Tensor]:
    """Symmetric in groups of 32, and with zero points in groups of 64."""
    found = {}
    for name, group in (("symmetric", 32), ("asymmetric", 64)):
        codes = torch.randint(-8, 8, (24, 128), dtype=torch.int8)
        scale = (torch.rand(24, 128 // group) * 0.02 + 1e-3).to(torch.bfloat16)
        zero = torch.randint(-8, 8, scale.shape, dtype=torch.int8) * (name == "asymmetric")
        wide = [t.repeat_interleave(group, 1) for t in (zero, scale)]
        found[f"{name}_packed"] = pack_to_int32(codes, 4)
        found[f"{name}_scale"] = scale.view(torch.int16)
        found[f"{name}_zero_point"] = pack_to_int32(zero.to(torch.int8), 4, packed_dim=0)
        found[f"{name}_values"] = (codes - wide[0]).float() * wide[1].float()
    return found


def mxfp4() -> dict[str, torch.Tensor]:
    """Three experts of 8 rows by 64 columns."""
    packed = torch.randint(0, 256, (3, 8, 2, 16), dtype=torch.uint8)
    scales = torch.randint(110, 130, (3, 8, 2), dtype=torch.uint8)
    values = convert_moe_packed_tensors(packed, scales, dtype=torch.float32)
    return {"mxfp4_blocks": packed, "mxfp4_scales": scales, "mxfp4_values": values.contiguous()}


if __name__ == "__main__":
    torch.manual_seed(3)
    made = eight_bits() | fp8_blocks() | int4() | mxfp4()
    np.savez_compressed(OUT, **{name: tensor.numpy() for name, tensor in made.items()})
    print(f"{OUT}: {OUT.stat().st_size} bytes")
