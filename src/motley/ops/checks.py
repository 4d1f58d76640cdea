"""What a device must compute, as small programs against `ops.protocol`: run on the device and on the numpy reference,
their results must agree. `motley selftest` runs them on a user's machine, the tests run them here.

Odd sizes, several tokens and one, every precision. Weights are random blocks; the same every time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from motley.formats.synth import random_blocks
from motley.formats.tensor import QuantTensor
from motley.ops.protocol import (
    Activation,
    Batch,
    DeltaNet,
    DeltaWeights,
    ExpertBiases,
    Multiplies,
    Ops,
    Rope,
    RouterVectors,
    Routing,
    Span,
)
from motley.ops.reference import ReferenceOps
from motley.shape.quant import Quant

FLOATS = frozenset({Quant.F32, Quant.F16, Quant.BF16})
EXACT = 1e-4  # of the largest value: sums in another order
HALF = 2e-3  # where keys and values may be stored in half precision
ROUNDED: dict[Multiplies, float] = {"float32": EXACT, "int8": 0.03, "bfloat16": 1e-2}  # of products by weights

Values = NDArray[Any]
Work = Callable[[Ops], Sequence[Values]]


@dataclass(frozen=True)
class Check:
    """`work`: the same on every device. `least`: how far off any device may be; `products`: which kinds of rounding may
    take a device further off here (`ROUNDED`)."""

    operation: str
    what: str
    work: Work
    least: float = EXACT
    products: tuple[Multiplies, ...] = ()

    def error(self, ops: Ops) -> float:
        """The largest difference from the reference, over its largest value; infinite for a wrong shape or what is
        not a number."""
        worst = 0.0
        for got, want in zip(self.work(ops), self.work(ReferenceOps()), strict=True):
            if got.shape != want.shape or not np.isfinite(got).all():
                return float("inf")
            worst = max(worst, float(np.abs(got - want).max(initial=0) / max(np.abs(want).max(initial=0), 1e-30)))
        return worst

    def limit(self, ops: Ops) -> float:
        return max(self.least, ROUNDED[ops.multiplies]) if ops.multiplies in self.products else self.least


def checks(quants: Sequence[Quant] = tuple(Quant)) -> Iterator[Check]:
    """All of them; products by weights of `quants`."""
    for quant in quants:
        rounded: tuple[Multiplies, ...] = ("bfloat16",) if quant in FLOATS else ("int8", "bfloat16")
        yield Check("embed", quant.name, partial(_embed, quant))
        few = tuple(kind for kind in rounded if kind != "bfloat16")  # tensor cores see steps of many tokens only
        for what, tokens, products in ((quant.name, _FEW, few), (f"{quant.name}, many tokens", _MANY, rounded)):
            yield Check("linear", what, partial(_linear, quant, tokens), products=products)
            yield Check("experts", what, partial(_experts, quant, tokens), products=products)
        yield Check("heads_linear", quant.name, partial(_heads_linear, quant), products=few)
    for activation in Activation:
        what = f"{activation.name.lower()}, biases, some owned"
        yield Check("experts", what, partial(_some_experts, activation), products=("bfloat16",))
        yield Check("activate", activation.name.lower(), partial(_activate, activation))
    for what, rope in _ROPES.items():
        yield Check("rope", what, partial(_rope, rope))
    for what, span in _SPANS.items():
        for sunk in (False, True):
            name = f"{what}, sinks" if sunk else what
            yield Check("attention", name, partial(_attention, span, sunk), HALF)
    for one in (False, True):
        what = "one latent head, kept once" if one else "one latent head"
        yield Check("attention", what, partial(_latent_attention, one), HALF)
    for what, routing in _ROUTINGS.items():
        yield Check("router", what, partial(_router, routing))
    for tiled in (False, True):
        yield Check("delta_net", "heads by turns" if tiled else "heads in groups", partial(_delta_net, tiled))
    for function in ("none", "sigmoid", "silu"):
        yield Check("gate", function, partial(_gate, function))
    yield Check("rms_norm", "one group and three", _rms_norm)
    yield Check("elementwise", "scale, softcap, temper, add, add_bias, combine", _elementwise)
    yield Check("columns", "columns, join, take", _columns)


_ROPES = {
    "halves": Rope(24, 10_000.0),
    "neighbours": Rope(24, 10_000.0, interleaved=True),
    "part of a head": Rope(8, 500_000.0, start=16),
    "stretched": Rope(24, 10_000.0, factors=tuple(1 + i / 2 for i in range(12)), magnitude=1.2),
}
_SPANS = {"everything": Span(), "window of 21": Span(window=21), "chunks of 32": Span(chunk=32)}
_ROUTINGS = {
    "softmax": Routing(4, False),
    "softmax, normalised": Routing(4, True),
    "sigmoid, prior, scaled": Routing(4, True, "sigmoid", 2.5),
    "groups by their best": Routing(4, True, "sigmoid", 1.0, 8, 3, 1),
    "groups by their best two": Routing(4, True, "softmax", 1.0, 4, 2, 2),
}


def _normal(seed: int, *dims: int) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *dims]).standard_normal(dims).astype(np.float32)


def _float(values: Values) -> QuantTensor:
    values = np.ascontiguousarray(values, np.float32)
    return QuantTensor("check", values.shape, Quant.F32, values.reshape(-1).view(np.uint8))


def _random(quant: Quant, seed: int, *dims: int) -> QuantTensor:
    """About unit variance over sqrt(cols)."""
    rng, n = np.random.default_rng([seed, quant.ggml_type]), prod(dims)
    if quant is Quant.F32:
        return _float(_normal(seed, *dims) * dims[-1] ** -0.5)
    blocks = random_blocks(rng, quant, n // quant.block, dims[-1] ** -0.5)
    return QuantTensor("check", dims, quant, np.ascontiguousarray(blocks).reshape(-1).view(np.uint8))


def _batch(slots: Sequence[int], positions: Sequence[int]) -> Batch:
    return Batch([0] * len(slots), positions, slots, [])


def _embed(quant: Quant, ops: Ops) -> list[Values]:
    tokens = np.array([49, 0, 7, 7, 1], np.int32)
    return [ops.to_host(ops.embed(ops.table(_random(quant, 1, 50, 512)), tokens))]


_FEW, _MANY = (1, 5), (40,)  # tokens


def _linear(quant: Quant, tokens: Sequence[int], ops: Ops) -> list[Values]:
    weights = [ops.weight(_random(quant, seed, rows, 512)) for seed, rows in ((1, 37), (2, 80))]
    return [ops.to_host(y) for n in tokens for y in ops.linear(ops.from_host(_normal(3, n, 512)), *weights)]


_EXPERT_WIDTHS = 40, 64  # the first has no whole blocks


def _ids(tokens: int) -> NDArray[np.int32]:
    rng = np.random.default_rng(tokens)
    return np.array([rng.permutation(6)[:3] for _ in range(tokens)], np.int32)


def _experts(quant: Quant, tokens: Sequence[int], ops: Ops) -> list[Values]:
    """Chosen by a router, and by the host, who leaves some to others."""
    width = max(quant.block, 128)
    router, outs = ops.weight(_random(Quant.F32, 4, 6, width)), []
    for d_expert in (_EXPERT_WIDTHS[0], max(_EXPERT_WIDTHS[1], quant.block)):
        inner = Quant.F32 if d_expert % quant.block else quant
        gate, up = (_random(quant, i, 6, d_expert, width) for i in (0, 1))
        experts = ops.experts_weight(gate, up, _random(inner, 2, 6, width, d_expert), range(6))
        for n in tokens:
            x = ops.from_host(_normal(5, n, width))
            outs.append(ops.to_host(ops.experts(x, *ops.router(x, router, Routing(3, True)), experts)))
            ids = _ids(n)
            ids[n // 2, 1] = -1
            weights = ops.from_host(np.abs(_normal(6, n, 3)))
            outs.append(ops.to_host(ops.experts(x, ops.from_host(ids), weights, experts)))
    return outs


def _some_experts(activation: Activation, ops: Ops) -> list[Values]:
    x, weights, outs = _normal(5, 9, 96), np.abs(_normal(6, 9, 3)), []
    for F, owned in zip(_EXPERT_WIDTHS, ([0, 1, 2, 3, 4, 5], [4, 1])):
        gate, up, down = (_random(Quant.F32, i, 6, *dims) for i, dims in enumerate([(F, 96)] * 2 + [(96, F)]))
        biases = ExpertBiases(*(_float(_normal(7 + i, 6, width)) for i, width in enumerate((F, F, 96))))
        experts = ops.experts_weight(gate, up, down, owned, activation=activation, biases=biases)
        got = ops.experts(ops.from_host(x), ops.from_host(_ids(9)), ops.from_host(weights), experts)
        outs.append(ops.to_host(got))
    return outs


def _heads_linear(quant: Quant, ops: Ops) -> list[Values]:
    width = max(quant.block, 64)
    weight = ops.weight(_random(quant, 1, 3, 48, width))
    return [ops.to_host(ops.heads_linear(ops.from_host(_normal(2, n, 3 * width)), weight)) for n in (1, 7)]


def _activate(activation: Activation, ops: Ops) -> list[Values]:
    gate, up = (ops.from_host(5 * _normal(seed, 3, 70)) for seed in (1, 2))
    return [ops.to_host(ops.activate(gate, up, activation))]


def _rope(rope: Rope, ops: Ops) -> list[Values]:
    positions = np.array([0, 1, 77, 100_000], np.int32)
    return [ops.to_host(ops.rope(ops.from_host(_normal(1, 4, 3 * 24)), 24, positions, rope))]


def _attention(span: Span, sunk: bool, ops: Ops) -> list[Values]:
    """Two sequences: prefills of odd lengths, decode steps, both in one batch, and a slot that begins anew."""
    heads, kv, n, m = 4, 2, 24, 40
    cache = ops.kv_cache(3, 900, kv, n, m, span)
    sinks = ops.weight(_float(_normal(9, heads))) if sunk else None
    steps: list[tuple[list[int], Sequence[int]]] = [
        ([2] * 37, range(37)),
        ([2] * 9 + [0] * 5, [*range(37, 46), *range(5)]),
        ([2, 0, 1], [46, 5, 0]),
        ([2] * 700, range(47, 747)),
        ([2], [747]),
        ([0] * 3, range(3)),
    ]
    outs = []
    for i, (slots, positions) in enumerate(steps):
        q, k, v = (_normal(10 * i + j, len(slots), w) for j, w in enumerate((heads * n, kv * n, kv * m)))
        q, k, v = (ops.from_host(a) for a in (q, k, v))
        outs.append(ops.to_host(ops.attention(q, k, v, cache, _batch(slots, positions), n**-0.5, sinks)))
    return outs


def _latent_attention(one: bool, ops: Ops) -> list[Values]:
    """One key/value head for all, values narrower than keys; `one`: and their beginning."""
    cache, outs = ops.kv_cache(1, 64, 1, 40, 32, one=one), []
    for first, end in ((0, 20), (20, 21)):
        sent = [_normal(first + i, end - first, w) for i, w in enumerate((4 * 40, 40, 32))]
        q, k, v = map(ops.from_host, (sent[0], sent[1], sent[1][:, :32].copy() if one else sent[2]))
        outs.append(ops.to_host(ops.attention(q, k, v, cache, _batch([0] * (end - first), range(first, end)), 0.2)))
    return outs


def _router(routing: Routing, ops: Ops) -> list[Values]:
    weight = ops.weight(_random(Quant.F32, 1, 32, 64))
    bias, prior, gain = (ops.weight(_float(np.abs(_normal(i, 32)))) for i in (3, 4, 5))
    outs = []
    for vectors in (RouterVectors(), RouterVectors(bias, prior if routing.score == "sigmoid" else None, gain)):
        for n in (1, 50):
            ids, weights = ops.router(ops.from_host(_normal(2, n, 64)), weight, routing, vectors)
            outs += [ops.to_host(ids), ops.to_host(weights)]
    return outs


def _delta_net(tiled: bool, ops: Ops) -> list[Values]:
    net = DeltaNet(2, 4, 32, 40, 4, 1e-6, tiled)
    state = ops.delta_state(3, net)
    vectors = (_normal(1, net.channels, 4), _normal(2, 4), -np.abs(_normal(3, 4)))
    weights = DeltaWeights(*(ops.weight(_float(v)) for v in vectors))
    steps = [_batch([2] * 9, range(9)), _batch([2], [9]), _batch([2, 2, 0, 0, 0], [10, 11, 0, 1, 2])]
    outs = []
    for i, batch in enumerate([*steps, _batch([2, 2], [0, 1])]):  # the last one starts anew
        widths = net.channels, 4, 4
        qkv, write, keep = (ops.from_host(_normal(10 * i + j, len(batch), w)) for j, w in enumerate(widths))
        outs.append(ops.to_host(ops.delta_net(qkv, write, keep, weights, state, batch)))
    return outs


def _gate(function: Literal["none", "sigmoid", "silu"], ops: Ops) -> list[Values]:
    pairs = ((_normal(1, 5, 24), _normal(2, 5, 4)), (_normal(3, 5, 24), _normal(4, 5, 24)))
    return [ops.to_host(ops.gate(ops.from_host(x), ops.from_host(by), function)) for x, by in pairs]


def _rms_norm(ops: Ops) -> list[Values]:
    weight = ops.weight(_float(_normal(1, 37)))
    return [ops.to_host(ops.rms_norm(ops.from_host(_normal(2, 5, n * 37)), weight, 1e-5)) for n in (1, 3)]


def _elementwise(ops: Ops) -> list[Values]:
    x, vector = _normal(1, 3, 70), ops.weight(_float(_normal(2, 70)))
    sums = [np.random.default_rng(i).standard_normal((3, 70)) for i in range(3)]
    positions = np.array([0, 8191, 70_000], np.int32)

    def fresh() -> Any:
        return ops.from_host(x.copy())

    outs = [
        ops.scale(fresh(), 0.3),
        ops.softcap(fresh(), 2.0),
        ops.temper(fresh(), positions, 0.1, 8192),
        ops.add(fresh(), fresh()),
        ops.add_bias(fresh(), vector),
        ops.combine(fresh(), [ops.from_host(s) for s in sums]),
    ]
    return [ops.to_host(y) for y in outs]


def _columns(ops: Ops) -> list[Values]:
    x, y = (ops.from_host(_normal(i, 5, 3 * w)) for i, w in ((1, 24), (2, 8)))
    rows = np.array([4, 0, 0], np.int32)
    return [ops.to_host(a) for a in (ops.columns(x, 24, 5, 20), ops.join(x, 24, y, 8), ops.take(x, rows))]
