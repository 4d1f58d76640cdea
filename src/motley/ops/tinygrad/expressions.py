"""Operations as plain tensor expressions: what every device of tinygrad can run. P rows, padding included."""

import math

from tinygrad import Tensor, dtypes

from motley.ops.protocol import CLAMP, CLAMPED_SLOPE, Activation, DeltaNet, Rope, Routing
from motley.ops.tinygrad.weights import TinygradExperts, TinygradWeight

MANY = 16  # rows from which a matrix is decoded once, into memory, and not by each row


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    groups = x.reshape(x.shape[0], -1, weight.shape[0])  # [P, M, W]
    scale = ((groups * groups).mean(axis=-1, keepdim=True) + eps).rsqrt()
    return (groups * scale * weight).reshape(*x.shape)


def matrix(weight: TinygradWeight, n_rows: int) -> Tensor:
    values = weight.values()
    return values.contiguous() if n_rows >= MANY and not weight.is_float else values


def linear(x: Tensor, weight: TinygradWeight) -> Tensor:
    return x.matmul(matrix(weight, x.shape[0]).transpose(-1, -2), dtype=dtypes.float32)


def heads_linear(x: Tensor, weight: TinygradWeight) -> Tensor:
    heads, rows, cols = weight.dims
    each = x.reshape(x.shape[0], heads, 1, cols) * matrix(weight, x.shape[0])  # [P, H, rows, cols]
    return each.sum(-1).reshape(x.shape[0], heads * rows)


def columns(x: Tensor, width: int, first: int, end: int) -> Tensor:
    return x.reshape(x.shape[0], -1, width)[..., first:end].reshape(x.shape[0], -1)


def join(x: Tensor, width: int, y: Tensor, width_y: int) -> Tensor:
    groups = x.reshape(x.shape[0], -1, width), y.reshape(y.shape[0], -1, width_y)
    return groups[0].cat(groups[1], dim=-1).reshape(x.shape[0], -1)


def rope(x: Tensor, head_dim: int, rope: Rope, cos_sin: Tensor) -> Tensor:
    """cos_sin [P, 2, dim / 2]"""
    heads = x.reshape(x.shape[0], -1, head_dim)  # [P, H, N]
    cos, sin = cos_sin[:, 0:1], cos_sin[:, 1:2]  # [P, 1, half]
    half, end = rope.dim // 2, rope.start + rope.dim
    part = heads[..., rope.start : end]
    if rope.interleaved:
        pairs = part.reshape(*part.shape[:-1], half, 2)
        a, b = pairs[..., 0], pairs[..., 1]
        turned = (a * cos - b * sin).stack(a * sin + b * cos, dim=-1).reshape(*part.shape)
    else:
        a, b = part[..., :half], part[..., half:]
        turned = (a * cos - b * sin).cat(a * sin + b * cos, dim=-1)
    parts = [p for p in (heads[..., : rope.start], turned, heads[..., end:]) if p.shape[-1]]
    return (parts[0].cat(*parts[1:], dim=-1) if len(parts) > 1 else turned).reshape(*x.shape)


def attention_weights(scores: Tensor, positions: Tensor, firsts: Tensor, sinks: Tensor | None) -> Tensor:
    """scores [P, H, S], scaled, to each token's softmax over positions firsts [P] to positions [P]; sinks [H] are
    logits of no value."""
    P, H, S = scores.shape
    most = S if isinstance(S, int) else S.vmax
    at = Tensor.arange(most)[:S].reshape(1, 1, S)
    seen = (at <= positions.reshape(P, 1, 1)) & (at >= firsts.reshape(P, 1, 1))
    logits = seen.where(scores, -math.inf)
    top = logits.max(-1, keepdim=True)
    if sinks is not None:
        top = top.maximum(sinks.reshape(1, H, 1))
    odds = (logits - top).exp()
    total = odds.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + (sinks.reshape(1, H, 1) - top).exp()
    return odds / total


def _best(wanted: Tensor, n: int) -> Tensor:
    """wanted [P, ..., E] -> bool [P, ..., n, E]: which is the first, second, ..., of equals the lower number. Each is
    ranked by how many beat it: no loop, and nothing but comparisons, so that it is exact."""
    wanted = wanted.isnan().where(-math.inf, wanted).contiguous()
    E = wanted.shape[-1]
    mine, theirs = wanted.unsqueeze(-1), wanted.unsqueeze(-2)  # [..., E, 1], [..., 1, E]
    at = Tensor.arange(E)
    beaten = (theirs > mine) | ((theirs == mine) & (at.unsqueeze(0) < at.unsqueeze(1)))
    rank = beaten.cast(dtypes.int32).sum(-1).contiguous()
    return rank.unsqueeze(-2) == Tensor.arange(n).unsqueeze(1)


def router(
    logits: Tensor, routing: Routing, bias: Tensor | None, prior: Tensor | None, gain: Tensor | None
) -> tuple[Tensor, Tensor]:
    """logits [P, E] -> ids int32 [P, A], weights [P, A]"""
    P, E = logits.shape
    if bias is not None:
        logits = logits + bias
    logits = logits.isnan().where(-math.inf, logits).contiguous()
    scores = logits.softmax(-1) if routing.score == "softmax" else logits.sigmoid()
    wanted = scores if prior is None else scores + prior
    if prior is None and routing.score == "softmax":
        wanted = logits
    if routing.n_groups > 1:
        groups = wanted.reshape(P, routing.n_groups, -1)
        votes = _best(groups, routing.group_sum).where(groups.unsqueeze(-2), 0).sum((-1, -2))
        within = _best(votes, routing.n_groups_used).any(-2)  # [P, groups]
        wanted = within.unsqueeze(-1).where(groups, -math.inf).reshape(P, E)
    chosen = _best(wanted, routing.n_used)  # [P, A, E]
    ids = chosen.where(Tensor.arange(E), 0).sum(-1).cast(dtypes.int32)
    weights = chosen.where(scores.unsqueeze(1), 0).sum(-1)
    if routing.normalize:
        weights = weights / weights.sum(-1, keepdim=True)
    weights = weights * routing.scale
    if gain is not None:
        weights = weights * chosen.where(gain, 0).sum(-1)
    return ids, weights


def activate(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    if activation is Activation.SILU:
        return gate * gate.sigmoid() * up
    if activation is Activation.GELU:
        inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate * gate * gate)
        return 0.5 * gate * (1 + inner.tanh()) * up
    gate, up = gate.minimum(CLAMP), up.clip(-CLAMP, CLAMP)
    return gate * (CLAMPED_SLOPE * gate).sigmoid() * (up + 1)


def places(ids: Tensor, local: Tensor) -> Tensor:
    """ids [P, A], local [E] -> each expert's place among the owned [P, A], or -1."""
    named = ids.unsqueeze(-1) == Tensor.arange(local.shape[0])
    return named.where(local + 1, 0).sum(-1) - 1


def experts(x: Tensor, ids: Tensor, weights: Tensor, e: TinygradExperts, total: type) -> Tensor:
    """x [P, D], ids [P, A] (-1: none) -> [P, D] of type `total`, the chosen ones' sum."""
    P, A = ids.shape
    F, D = e.gate.dims[1:]
    local = places(ids, e.local).contiguous().reshape(P * A)
    here = (local >= 0).reshape(P, A, 1)
    part = local.maximum(0)
    read = x.reshape(P, 1, 1, D)
    gate = (e.gate.chosen(part).reshape(P, A, F, D) * read).sum(-1)  # [P, A, F]
    up = (e.up.chosen(part).reshape(P, A, F, D) * read).sum(-1)
    if e.biases:
        each = ids.maximum(0).reshape(P * A)
        gate, up = (y + b[each].reshape(P, A, F) for y, b in zip((gate, up), e.biases))
    hidden = activate(gate, up, e.activation).contiguous()
    down = (e.down.chosen(part).reshape(P, A, D, F) * hidden.unsqueeze(2)).sum(-1)  # [P, A, D]
    if e.biases:
        down = down + e.biases[2][each].reshape(P, A, D)
    return here.where(weights.unsqueeze(-1).cast(total) * down.cast(total), 0).sum(1)


def delta_inputs(mixed: Tensor, net: DeltaNet) -> tuple[Tensor, Tensor, Tensor]:
    """mixed [P, channels] -> q, k [P, K*N] of unit length a head, q over sqrt(N) besides; v [P, V*M]"""
    width = net.k_heads * net.k_dim
    q, k = (
        heads * ((heads * heads).sum(-1, keepdim=True) + net.eps).rsqrt()
        for heads in (mixed[:, i * width : (i + 1) * width].reshape(-1, net.k_heads, net.k_dim) for i in (0, 1))
    )
    return (q / math.sqrt(net.k_dim)).reshape(-1, width), k.reshape(-1, width), mixed[:, 2 * width :]
