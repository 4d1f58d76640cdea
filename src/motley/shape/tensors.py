"""The exact tensor list of a model, from its dimensions: names as GGUF has them, dims row-major, role, precision."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from motley.shape.dims import Dims
from motley.shape.mix import Mix
from motley.shape.quant import Quant
from motley.shape.role import Role


@dataclass(frozen=True)
class TensorShape:
    name: str
    dims: tuple[int, ...]  # row-major, as numpy has them: [rows, cols], experts [E, rows, cols]
    quant: Quant
    role: Role
    layer: int | None = None  # None: outside the layers

    @property
    def n_params(self) -> int:
        return prod(self.dims)

    @property
    def n_bytes(self) -> int:
        return self.quant.n_bytes(self.n_params)


def tensors_of(dims: Dims, quant: str) -> tuple[TensorShape, ...]:
    """In file order: embedding, layers, final norm, head. A tied model has no `output.weight`."""
    mix = Mix(quant, dims.n_layers, dims.n_experts)

    def tensor(name: str, role: Role, *shape: int, layer: int | None = None) -> TensorShape:
        precision = mix.quant(name, role, layer, shape[-1], dims.tied_embeddings)
        return TensorShape(name, shape, precision, role, layer)

    found = [tensor("token_embd.weight", Role.EMBED, dims.vocab_size, dims.d_model)]
    for layer in range(dims.n_layers):
        for part, role, shape in _layer(dims):
            found.append(tensor(f"blk.{layer}.{part}.weight", role, *shape, layer=layer))
    found.append(tensor("output_norm.weight", Role.NORM, dims.d_model))
    if not dims.tied_embeddings:
        found.append(tensor("output.weight", Role.HEAD, dims.vocab_size, dims.d_model))
    return tuple(found)


def _layer(dims: Dims) -> Iterator[tuple[str, Role, tuple[int, ...]]]:
    d, f, e = dims.d_model, dims.d_expert, dims.n_experts
    q, kv = dims.n_heads * dims.head_dim, dims.n_kv_heads * dims.head_dim
    yield "attn_norm", Role.NORM, (d,)
    yield "attn_q", Role.ATTENTION, (q, d)
    yield "attn_k", Role.ATTENTION, (kv, d)
    yield "attn_v", Role.ATTENTION, (kv, d)
    if dims.qk_norm_widths:
        yield "attn_q_norm", Role.NORM, (dims.qk_norm_widths[0],)
        yield "attn_k_norm", Role.NORM, (dims.qk_norm_widths[1],)
    yield "attn_output", Role.ATTENTION, (d, q)
    yield "ffn_norm", Role.NORM, (d,)
    yield "ffn_gate_inp", Role.ROUTER, (e, d)
    yield "ffn_gate_exps", Role.EXPERT, (e, f, d)
    yield "ffn_up_exps", Role.EXPERT, (e, f, d)
    yield "ffn_down_exps", Role.EXPERT, (e, d, f)
