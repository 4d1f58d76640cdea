"""What MLX does to each element in one kernel where it is compiled: activations, gates, rope's turning.

Compiled on a GPU only: on a CPU, MLX would start the C++ compiler for each of them, a second every time.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from motley.ops.protocol import CLAMP, CLAMPED_SLOPE, Activation

Array = Any  # mx.array
_GELU = (2 / 3.141592653589793) ** 0.5


def silu(x: Array) -> Array:
    return x * mx.sigmoid(x)


def _gated_silu(gate: Array, up: Array) -> Array:
    return silu(gate) * up


def _gated_gelu(gate: Array, up: Array) -> Array:
    return 0.5 * gate * (1 + mx.tanh(_GELU * (gate + 0.044715 * gate * gate * gate))) * up


def _clamped(gate: Array, up: Array) -> Array:
    gate, up = mx.minimum(gate, CLAMP), mx.clip(up, -CLAMP, CLAMP)
    return gate * mx.sigmoid(CLAMPED_SLOPE * gate) * (up + 1)


def _turned(a: Array, b: Array, cos: Array, sin: Array) -> tuple[Array, Array]:
    return a * cos - b * sin, a * sin + b * cos


def _decay(keep: Array, dt: Array, rate: Array) -> Array:
    return mx.exp(rate * mx.logaddexp(keep + dt, 0))


class Elementwise:
    def __init__(self, compiled: bool) -> None:
        def made(function: Callable[..., Any]) -> Callable[..., Any]:
            return mx.compile(function, shapeless=True) if compiled else function

        self.activations = {
            Activation.SILU: made(_gated_silu),
            Activation.GELU: made(_gated_gelu),
            Activation.CLAMPED: made(_clamped),
        }
        self.gates = {"none": lambda b: b, "sigmoid": mx.sigmoid, "silu": made(silu)}
        self.turned, self.decay = made(_turned), made(_decay)
