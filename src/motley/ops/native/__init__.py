"""The CPU's own kernels: C++ in `native/`, compiled to `_native`, behind `NativeOps`."""

from motley.ops.native.native_ops import NativeOps, isas

__all__ = ["NativeOps", "isas"]
