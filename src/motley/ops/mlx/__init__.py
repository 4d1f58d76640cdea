"""Apple's GPUs, through MLX (extra `mlx`); MLX's CPU build, which runs on Linux too, is what the tests run on."""

from motley.ops.mlx.mlx_ops import MlxOps

__all__ = ["MlxOps"]
