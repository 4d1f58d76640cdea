"""The bundled model in PyTorch: Qwen3-MoE, small enough to train on two cores in an hour.

Owns the network and its mathematics for training; knows nothing of text, files or schedules.
Parameter names are GGUF's (`blk.0.ffn_gate_exps.weight`), so that exporting needs no map.
Shapes: B sequences, T tokens, D width, H heads, K kv heads, N head width, E experts, A active,
F expert width, V vocabulary; R = B*T*A routed rows.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """The shape. 8.16 M parameters: the largest with a power of two experts under 10 MB of Q8_0."""

    vocab: int = 4096
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_width: int = 64
    experts: int = 32
    active: int = 4
    expert_width: int = 64
    theta: float = 10_000.0
    epsilon: float = 1e-6

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Experts(torch.autograd.Function):
    """silu(x Wg) * (x Wu) Wd for every (token, slot) pair, its rows sorted by expert.

    A function of its own because autograd's slices cost more than the products here: backward
    writes each expert's gradient where it belongs and turns the scatter into a gather.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, chosen: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        tokens, active = chosen.shape
        order = chosen.flatten().argsort(stable=True)  # [R], sorted by expert
        ends = torch.bincount(chosen.flatten(), minlength=gate.shape[0]).cumsum(0).tolist()
        rows = x.index_select(0, order // active)  # [R, D]
        g, u = rows.new_empty(len(order), gate.shape[1]), rows.new_empty(len(order), gate.shape[1])
        y = torch.empty_like(rows)
        for e, (a, b) in enumerate(zip([0, *ends], ends, strict=False)):
            if a < b:
                torch.mm(rows[a:b], gate[e].t(), out=g[a:b])
                torch.mm(rows[a:b], up[e].t(), out=u[a:b])
                torch.mm(F.silu(g[a:b]).mul_(u[a:b]), down[e].t(), out=y[a:b])
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        y = y.index_select(0, back).view(tokens, active, -1)  # [BT, A, D]
        ctx.save_for_backward(rows, weight, g, u, y, gate, up, down, order, back)
        ctx.ends = ends
        return torch.einsum("tad,ta->td", y, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, weight, g, u, y, gate, up, down, order, back = ctx.saved_tensors
        tokens, active = weight.shape
        d_weight = torch.einsum("tad,td->ta", y, grad)
        d_y = grad.index_select(0, order // active) * weight.flatten()[order, None]  # [R, D]
        d_gate, d_up, d_down = torch.zeros_like(gate), torch.zeros_like(up), torch.zeros_like(down)
        d_rows = torch.empty_like(rows)
        for e, (a, b) in enumerate(zip([0, *ctx.ends], ctx.ends, strict=False)):
            if a == b:
                continue
            s = torch.sigmoid(g[a:b])
            act = g[a:b] * s
            torch.mm(d_y[a:b].t(), act * u[a:b], out=d_down[e])
            d_h = d_y[a:b] @ down[e]  # [n, F]
            d_u = d_h * act
            d_g = d_h.mul_(u[a:b]).mul_(s + act * (1 - s))
            torch.mm(d_g.t(), rows[a:b], out=d_gate[e])
            torch.mm(d_u.t(), rows[a:b], out=d_up[e])
            torch.mm(d_g, gate[e], out=d_rows[a:b]).addmm_(d_u, up[e])
        d_x = d_rows.index_select(0, back).view(tokens, active, -1).sum(1)
        return d_x, d_weight, None, d_gate, d_up, d_down


def rope_tables(config: Config, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin [T, N/2] for the NeoX pairing (i, i + N/2)."""
    half = config.head_width // 2
    turn = config.theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * turn
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)  # [B, T, H, N/2] each
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def parameter_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model by its GGUF name; a matrix is [out, in]."""
    c = config
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (c.vocab, c.width)}
    for i in range(c.layers):
        layer = {
            "attn_norm": (c.width,),
            "attn_q": (c.heads * c.head_width, c.width),
            "attn_k": (c.kv_heads * c.head_width, c.width),
            "attn_v": (c.kv_heads * c.head_width, c.width),
            "attn_q_norm": (c.head_width,),
            "attn_k_norm": (c.head_width,),
            "attn_output": (c.width, c.heads * c.head_width),
            "ffn_norm": (c.width,),
            "ffn_gate_inp": (c.experts, c.width),
            "ffn_gate_exps": (c.experts, c.expert_width, c.width),
            "ffn_up_exps": (c.experts, c.expert_width, c.width),
            "ffn_down_exps": (c.experts, c.width, c.expert_width),
        }
        shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in layer.items()}
    return shapes | {"output_norm.weight": (c.width,)}


class Model(nn.Module):
    """The decoder. `forward` gives the final hidden rows; the head is the embedding (tied)."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        random = torch.Generator().manual_seed(seed)
        self.names = list(parameter_shapes(config))
        for name, shape in parameter_shapes(config).items():
            start = torch.ones(shape)
            if "norm" not in name:
                late = "attn_output" in name or "ffn_down" in name  # writes to the residual stream
                start = torch.randn(shape, generator=random) * (0.02 / (2 * config.layers) ** 0.5 if late else 0.02)
            self.register_parameter(name.replace(".", "_"), nn.Parameter(start))

    def weight(self, name: str) -> Tensor:
        found = getattr(self, f"{name}.weight".replace(".", "_"))
        assert isinstance(found, Tensor)
        return found

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight(name), self.config.epsilon)

    def attention(self, x: Tensor, layer: str, cos: Tensor, sin: Tensor) -> Tensor:
        c, (batch, tokens, _) = self.config, x.shape
        q = F.linear(x, self.weight(f"{layer}.attn_q")).view(batch, tokens, c.heads, c.head_width)
        k = F.linear(x, self.weight(f"{layer}.attn_k")).view(batch, tokens, c.kv_heads, c.head_width)
        v = F.linear(x, self.weight(f"{layer}.attn_v")).view(batch, tokens, c.kv_heads, c.head_width)
        q = rotate(self.norm(q, f"{layer}.attn_q_norm"), cos, sin)
        k = rotate(self.norm(k, f"{layer}.attn_k_norm"), cos, sin)
        group = c.heads // c.kv_heads
        k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        return F.linear(y.transpose(1, 2).reshape(batch, tokens, -1), self.weight(f"{layer}.attn_output"))

    def route(self, x: Tensor, layer: str) -> tuple[Tensor, Tensor, Tensor]:
        """Per row of x [BT, D]: the chosen experts [BT, A], their weights, all probabilities."""
        probabilities = F.linear(x, self.weight(f"{layer}.ffn_gate_inp")).softmax(-1)
        top, chosen = probabilities.topk(self.config.active, dim=-1)
        return chosen, top / top.sum(-1, keepdim=True), probabilities

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """ids [B, T] -> hidden [B, T, D], balance loss (1 = even), chosen experts per layer [BT, A]."""
        c = self.config
        cos, sin = rope_tables(c, ids.shape[1])
        x = F.embedding(ids, self.weight("token_embd"))
        balance, routes = x.new_zeros(()), []
        for i in range(c.layers):
            layer = f"blk.{i}"
            x = x + self.attention(self.norm(x, f"{layer}.attn_norm"), layer, cos, sin)
            rows = self.norm(x, f"{layer}.ffn_norm").view(-1, c.width)
            chosen, weight, probabilities = self.route(rows, layer)
            names = ("gate", "up", "down")
            mixed = Experts.apply(rows, weight, chosen, *(self.weight(f"{layer}.ffn_{n}_exps") for n in names))
            x = x + mixed.view(x.shape)
            share = torch.bincount(chosen.flatten(), minlength=c.experts) / chosen.numel()
            balance = balance + c.experts * (share * probabilities.mean(0)).sum() / c.layers
            routes.append(chosen)
        return self.norm(x, "output_norm"), balance, routes

    def logits(self, ids: Tensor) -> Tensor:
        hidden, _, _ = self(ids)
        return F.linear(hidden, self.weight("token_embd"))
