"""Any device that tinygrad drives: NVIDIA, AMD and Apple GPUs, and the CPU by clang; `tinygrad_ops` opens one.

Needs the extra `[tinygrad]`. `adapter` alone touches what of tinygrad is not promised to stay.
"""

from motley.ops.tinygrad.cuda_ops import CudaOps
from motley.ops.tinygrad.tinygrad_ops import TinygradOps
from motley.shape.mixer import CacheType

__all__ = ["CudaOps", "TinygradOps", "tinygrad_ops"]


def tinygrad_ops(device: str = "CPU", kv: CacheType = "f16") -> TinygradOps:
    """With Motley's own kernels where it has some: on CUDA and NV. Arguments and errors as `TinygradOps`'s."""
    kinds = {"CUDA": CudaOps, "NV": CudaOps}
    return kinds.get(device.split(":")[0].upper(), TinygradOps)(device, kv)
