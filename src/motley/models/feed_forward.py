"""Feed-forward blocks, written once against `ops.protocol`: dense, and experts with those that every token uses.

T tokens, D model width, E experts, A active experts, F expert width.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from motley.models.attention import residual
from motley.models.config import Config
from motley.models.loader import Loader
from motley.ops.protocol import Array, Ops, RouterVectors

Lap = Callable[[str], None]  # called as each part of a layer ends: "attention", "router", "experts"


class RunExperts(Protocol):
    """Computes the chosen experts of one layer wherever they live. Given by the engine.

    h [T, D], ids int32 [T, A], weights [T, A] -> float64 partial sums [T, D], one per owner. `meanwhile` is done once,
    after those that are asked elsewhere have begun."""

    def __call__(
        self, layer: int, h: Array, ids: Array, weights: Array, meanwhile: Callable[[], None] | None = None
    ) -> Sequence[Array]: ...


class GatedLinear:
    """down(activation(gate h, up h)), of tensors `ffn_{gate,up,down}<ending>`."""

    def __init__(self, config: Config, load: Loader, layer: int, width: int, ending: str) -> None:
        blk, d = f"blk.{layer}.ffn_", config.d_model
        self.gate = load.weight(f"{blk}gate{ending}.weight", width, d)
        self.up = load.weight(f"{blk}up{ending}.weight", width, d)
        self.down = load.weight(f"{blk}down{ending}.weight", d, width)
        self.activation = config.activation

    def __call__(self, ops: Ops, h: Array) -> Array:
        """h [T, D] -> [T, D]"""
        gate, up = ops.linear(h, self.gate, self.up)
        (y,) = ops.linear(ops.activate(gate, up, self.activation), self.down)
        return y


class Dense:
    """Norm, gated linear, residual. `norm`: the tensor of the norm before it."""

    def __init__(self, config: Config, load: Loader, layer: int, norm: str) -> None:
        self.config = config
        self.norm = load.weight(f"blk.{layer}.{norm}.weight", config.d_model)
        self.linear = GatedLinear(config, load, layer, config.d_dense, "")

    def __call__(self, ops: Ops, x: Array, experts: RunExperts, lap: Lap) -> Array:
        """x [T, D] -> [T, D]"""
        y = self.linear(ops, ops.rms_norm(x, self.norm, self.config.eps))
        x = residual(ops, x, y, self.config)
        lap("experts")
        return x


class MixtureOfExperts:
    """Norm, router, the chosen experts wherever they live, shared ones beside them, residual. What a router or the
    shared experts have besides is used where the file has it: a bias, a prior for choosing, a gate on the shared ones.
    `scales_input`: the weight multiplies what its expert reads (Llama 4, one expert a token)."""

    def __init__(
        self,
        config: Config,
        load: Loader,
        layer: int,
        norm: str = "ffn_norm",
        scales_input: bool = False,
    ) -> None:
        blk, d = f"blk.{layer}.", config.d_model
        self.config, self.layer, self.scales_input = config, layer, scales_input
        self.norm = load.weight(f"{blk}{norm}.weight", d)
        self.ffn_gate_inp = load.weight(blk + "ffn_gate_inp.weight", config.n_experts, d)
        self.vectors = RouterVectors(
            load.optional(blk + "ffn_gate_inp.bias", config.n_experts),
            load.flat(blk + "exp_probs_b.bias", config.n_experts),
        )
        self.shared = GatedLinear(config, load, layer, config.d_shared, "_shexp") if config.d_shared else None
        self.shared_gate = load.flat(blk + "ffn_gate_inp_shexp.weight", d, as_row=True) if self.shared else None

    def __call__(self, ops: Ops, x: Array, experts: RunExperts, lap: Lap) -> Array:
        """x [T, D] -> [T, D]"""
        c = self.config
        h = ops.rms_norm(x, self.norm, c.eps)
        ids, weights = ops.router(h, self.ffn_gate_inp, c.routing, self.vectors)  # [T, A] each
        lap("router")
        beside: list[Array] = []
        meanwhile = (lambda: beside.append(self._shared(ops, h))) if self.shared else None
        read = h
        if self.scales_input:
            read = ops.gate(ops.columns(h, c.d_model, 0, c.d_model), weights, "none")  # of a copy
            weights = ops.from_host(np.ones((len(h), 1), np.float32))
        parts = experts(self.layer, read, ids, weights, meanwhile)
        x = ops.combine(x, parts)
        for y in beside:
            x = residual(ops, x, y, c)
        lap("experts")
        return x

    def _shared(self, ops: Ops, h: Array) -> Array:
        assert self.shared
        y = self.shared(ops, h)
        return y if self.shared_gate is None else ops.gate(y, *ops.linear(h, self.shared_gate))


def feed_forward(
    config: Config,
    load: Loader,
    layer: int,
    norm: str = "ffn_norm",
    scales_input: bool = False,
) -> Dense | MixtureOfExperts:
    """Whichever the layer has."""
    if config.has_experts(layer):
        return MixtureOfExperts(config, load, layer, norm, scales_input)
    return Dense(config, load, layer, norm)
