"""CudaOps: TinygradOps with the kernels of `kernels/` where a shape and a quantisation have one, for CUDA and NV.

A step of few tokens takes seven launches a layer (`launches` says which): norm with q, k, v; heads; attention; output
with residual; norm with router; norm with the chosen experts' gate and up, shared ones beside them; down with sum and
residual. Latent attention takes one more: norm with the low-rank products; latent; attention; one matrix a head;
output. Operations that one kernel does together are `deferred` until the last of them comes. Steps of more tokens go
through tensor cores, with activations and weights rounded to bfloat16: about 3e-3 of the largest value, where few
tokens are exact to 1e-4. What has no kernel (other quantisations, the gated delta rule, prompts' products of one matrix
a head) is the expression of TinygradOps.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor, dtypes

from motley.ops.protocol import NO_VECTORS, Activation, Batch, Multiplies, Rope, RouterVectors, Routing
from motley.ops.tinygrad import adapter, expressions, launches
from motley.ops.tinygrad.arrays import Rows, padded
from motley.ops.tinygrad.deferred import (
    Activated,
    Biased,
    Columns,
    Deferred,
    ExpertSum,
    Gated,
    Joined,
    Normed,
    Part,
    PerHead,
    Product,
    Shared,
    Summed,
    Turned,
    latent_of,
    planes_of,
)
from motley.ops.tinygrad.source import Kernel
from motley.ops.tinygrad.tinygrad_ops import TinygradOps
from motley.ops.tinygrad.weights import TinygradCache, TinygradExperts, TinygradWeight
from motley.shape.mixer import CacheType

_MOST_ROUTED = 1024  # experts of the router's kernel


class CudaOps(TinygradOps):
    multiplies: Multiplies = "bfloat16"

    def __init__(self, device: str = "CUDA", kv: CacheType = "f16") -> None:
        super().__init__(device, kv)
        self._scratch: dict[tuple[int, ...], Tensor] = {}
        self._nothing = adapter.zeros((4,), self.device)

    # -- operations

    def rms_norm(self, x: Rows, weight: TinygradWeight, eps: float) -> Rows:
        def make() -> Tensor:
            return expressions.rms_norm(x.tensor, weight.values(), eps)

        return self._later(Normed(x, weight, eps, make))

    def linear(self, x: Rows, *weights: TinygradWeight) -> tuple[Rows, ...]:
        if not all(_has_kernel(w) for w in weights):
            return super().linear(x, *weights)
        P = padded(x.n)
        if P > launches.MOST_TOKENS:
            return tuple(self._rows(self._gemm(x.tensor, w), x.n) for w in weights)
        parts: list[Rows] = []
        for at in range(0, len(weights), 3):
            some = weights[at : at + 3]
            product = self._product(x, some)
            parts += [self._later(Part(x.n, product, i)) for i in range(len(some))]
        return tuple(parts)

    def rope(self, x: Rows, head_dim: int, positions: NDArray[np.int32], rope: Rope) -> Rows:
        turn = self._angles(positions, rope)
        return self._later(Turned(x, rope, turn, lambda: expressions.rope(x.tensor, head_dim, rope, turn)))

    def attention(
        self,
        q: Rows,
        k: Rows,
        v: Rows,
        cache: TinygradCache,
        batch: Batch,
        scale: float,
        sinks: TinygradWeight | None = None,
    ) -> Rows:
        P, M = padded(q.n), cache.value_dim
        given = self._attention_inputs(cache, batch)
        queries = self._latent(q, k, v, cache, given.places)
        if queries is None:
            queries = self._heads(q, k, v, cache, given.places)
        if queries is None:
            self._put(cache, given.places, k, v)
            queries = q.tensor
        self._change(cache, *cache.changing)
        K, N = cache.n_kv_heads, cache.head_dim
        H = queries.shape[1] // N
        kernel = launches.attention(P, H, K, N, M, cache.is_half, scale, sinks is not None, cache.values is None)
        parts = self._empty_scratch(P, H, launches.SPLITS, M + 2)
        counter = self._zeros(P, H)
        sunk = self._nothing if sinks is None else sinks.values()
        (out,) = self._launch(
            kernel, adapter.empty((P, H * M), self.device), parts, counter, queries, cache.keys, cache.read_values,
            given.bases, given.firsts, given.positions, sunk,
        )  # fmt: skip
        return self._rows(out, q.n)

    def router(
        self, x: Rows, weight: TinygradWeight, routing: Routing, vectors: RouterVectors = NO_VECTORS
    ) -> tuple[Rows, Rows]:
        E = weight.dims[0]
        if not _has_kernel(weight) or E > _MOST_ROUTED:
            return super().router(x, weight, routing, vectors)
        source, norm, eps = _norm_of(x)
        P, D = source.tensor.shape
        given = tuple(v is not None for v in vectors)
        kernel = launches.router(P, E, D, weight.quant, routing, given, eps)  # type: ignore[arg-type]  # three of them
        ids = adapter.empty((P, routing.n_used), self.device, dtypes.int32)
        chosen = adapter.empty((P, routing.n_used), self.device)
        ids, chosen = self._launch(
            kernel, ids, chosen, self._empty_scratch(P, E), self._zeros(P, E), source.tensor,
            self._values(norm), *planes_of(weight), *map(self._values, vectors),
        )  # fmt: skip
        return self._rows(ids, x.n), self._rows(chosen, x.n)

    def experts(self, x: Rows, ids: Rows, weights: Rows, experts: TinygradExperts) -> Rows:
        if not all(_has_kernel(w) for w in (experts.gate, experts.up, experts.down)):
            return super().experts(x, ids, weights, experts)
        if padded(x.n) > launches.MOST_TOKENS:
            return self._rows(self._many_experts(x.tensor, ids.tensor, weights.tensor, experts), x.n, double=True)
        F, D = experts.gate.dims[1:]
        biases = experts.biases is not None

        def summed(residual: Tensor | None, shared: Shared | None) -> Tensor:
            P, A = ids.tensor.shape
            hidden = self._hidden(x, ids.tensor, experts, shared)
            beside = None if shared is None else (shared.down.quant, shared.down.dims[1])
            gated = shared is not None and shared.by is not None
            kernel = launches.experts_down(P, A, D, F, experts.down.quant, residual is not None, biases, beside, gated)
            kind = dtypes.float64 if residual is None else dtypes.float32
            (out,) = self._launch(
                kernel, adapter.empty((P, D), self.device, kind), hidden, ids.tensor, weights.tensor, experts.local,
                self._nothing if residual is None else residual, *planes_of(experts.down), self._bias(experts, 2),
                *planes_of(experts.down if shared is None else shared.down),
            )  # fmt: skip
            return out

        return self._later(ExpertSum(x, experts.activation, lambda: summed(None, None), summed))

    def combine(self, x: Rows, parts: Sequence[Rows]) -> Rows:
        if len(parts) == 1 and isinstance(parts[0], ExpertSum) and not parts[0].made:
            return self._later(Summed(x, parts[0]))
        return super().combine(x, parts)

    def add(self, x: Rows, y: Rows) -> Rows:
        if isinstance(x, Summed) and not x.made and (shared := _shared_in(y, x.experts)) is not None:
            return self._rows(x.experts.plus(x.residual.tensor, shared), x.n)
        part, vector = (y.part, y.vector) if isinstance(y, Biased) and not y.made else (y, None)
        if isinstance(part, Part) and part.alone:
            return self._rows(part.product.plus(x.tensor, vector), x.n)
        return super().add(x, y)

    def scale(self, x: Rows, factor: float) -> Rows:
        if factor == 0.0:  # tinygrad would make it a constant, which has no memory for a kernel to read (Gemma 4)
            return self._rows(self._still(*x.tensor.shape), x.n)
        return super().scale(x, factor)

    def add_bias(self, x: Rows, vector: TinygradWeight) -> Rows:
        if not isinstance(x, Part):
            return super().add_bias(x, vector)
        return self._later(Biased(x, vector, lambda: x.tensor + vector.values()))

    def activate(self, gate: Rows, up: Rows, activation: Activation) -> Rows:
        if not (isinstance(gate, Part) and isinstance(up, Part) and _are_all(gate, up)):
            return super().activate(gate, up, activation)
        product = gate.product
        return self._later(Activated(gate.n, product, activation, lambda: self._dense(product, activation)))

    def gate(self, x: Rows, by: Rows, function: Literal["none", "sigmoid", "silu"] = "sigmoid") -> Rows:
        def make() -> Tensor:
            return super(CudaOps, self).gate(x, by, function).tensor

        if isinstance(x, Part) and isinstance(by, Part) and by.width == 1 and function == "sigmoid":
            return self._later(Gated(x, by, make))
        return super().gate(x, by, function)

    def heads_linear(self, x: Rows, weight: TinygradWeight) -> Rows:
        def make() -> Tensor:
            P, (H, rows, cols) = padded(x.n), weight.dims
            if P > launches.MOST_TOKENS or not _has_kernel(weight):
                return expressions.heads_linear(x.tensor, weight)
            kernel = launches.heads_matvec(P, H, rows, cols, weight.quant)
            y = adapter.empty((P, H * rows), self.device)
            return self._launch(kernel, y, x.tensor, *planes_of(weight))[0]

        return self._later(PerHead(x, weight, make))

    def columns(self, x: Rows, width: int, first: int, end: int) -> Rows:
        return self._later(Columns(x, width, first, end, lambda: expressions.columns(x.tensor, width, first, end)))

    def join(self, x: Rows, width: int, y: Rows, width_y: int) -> Rows:
        return self._later(Joined(x, width, y, width_y, lambda: expressions.join(x.tensor, width, y.tensor, width_y)))

    # -- inside

    def _later(self, rows: Deferred) -> Deferred:
        """Known to somebody: computed when its values are wanted, or a graph ends after they were."""
        self._here.alive.add(rows)
        if self._here.program is not None:
            self._here.program.current.n_operations += 1
        return rows

    def _source(self, kernel: Kernel) -> str:
        return kernel.source

    def _launch(self, kernel: Kernel, *arguments: Tensor) -> list[Tensor]:
        return adapter.launch(kernel, self._source(kernel), self.device, *arguments)

    def _zeros(self, *dims: int) -> Tensor:
        """Counters, which every kernel leaves at zero. One set for all layers: each waits for the one before."""
        key = (0, *dims)
        if key not in self._scratch:
            self._scratch[key] = adapter.zeros(dims, self.device, dtypes.uint32)
        return self._scratch[key]

    def _empty_scratch(self, *dims: int) -> Tensor:
        key = (1, *dims)
        if key not in self._scratch:
            self._scratch[key] = adapter.zeros(dims, self.device)
        return self._scratch[key]

    def _values(self, vector: TinygradWeight | None) -> Tensor:
        return self._nothing if vector is None else vector.values()

    def _still(self, *dims: int) -> Tensor:
        """Zeros that nobody writes to."""
        key = (2, *dims)
        if key not in self._scratch:
            self._scratch[key] = adapter.zeros(dims, self.device)
        return self._scratch[key]

    def _bias(self, experts: TinygradExperts, which: int) -> Tensor:
        return experts.biases[which] if experts.biases else self._nothing

    def _product(self, x: Rows, weights: Sequence[TinygradWeight]) -> Product:
        def launched(residual: Tensor | None, bias: TinygradWeight | None) -> Tensor:
            source, norm, eps = _norm_of(x)
            values, row, first = _place_of(source)
            P, cols = padded(x.n), weights[0].dims[1]
            kernel = launches.matvec(
                P, cols, tuple((w.quant, w.dims[0]) for w in weights), eps, residual is not None, bias is not None,
                row, first,
            )  # fmt: skip
            planes = [p for w in (*weights, *[weights[0]] * (3 - len(weights))) for p in planes_of(w)]
            (y,) = self._launch(
                kernel, adapter.empty((P, sum(w.dims[0] for w in weights)), self.device), values,
                self._values(norm), self._nothing if residual is None else residual, self._values(bias), *planes,
            )  # fmt: skip
            return y

        return Product(x, weights, launched)

    def _gemm(self, x: Tensor, weight: TinygradWeight) -> Tensor:
        (P, cols), rows = x.shape, weight.dims[0]
        kernel = launches.gemm(P, cols, rows, (weight.quant,))
        y = adapter.empty((P, rows), self.device)
        four = [self._nothing] * 2
        (y,) = self._launch(
            kernel, y, x, *four, *planes_of(weight), *planes_of(weight), *four, self._nothing
        )  # fmt: skip
        return y

    def _heads(self, q: Rows, k: Rows, v: Rows, cache: TinygradCache, places: Tensor) -> Tensor | None:
        """q [P, H*N], normed and turned, with k and v stored, by one kernel: where they are what one product gives and
        nobody looked at them in between."""
        chain, other, plain = _chain(q), _chain(k), _chain(v)
        if chain is None or other is None or plain is None or cache.values is None or chain.rope != other.rope:
            return None
        product, chains = chain.part.product, (chain, other, plain)
        if [(c.part.product is product, c.part.index) for c in chains] != [(True, 0), (True, 1), (True, 2)]:
            return None
        if plain.norm or plain.turn is not None or (chain.norm is None) != (other.norm is None):
            return None
        biases = [c.bias for c in chains if c.bias is not None]
        P, K, N = padded(q.n), cache.n_kv_heads, cache.head_dim
        H, eps, whole = chain.part.product.weights[0].dims[0] // N, None, False
        if chain.norm is not None and other.norm is not None:
            widths, eps = (chain.norm.weight.dims[0], other.norm.weight.dims[0]), chain.norm.eps
            whole = widths == (H * N, K * N) and widths != (N, N)
            if not whole and widths != (N, N):
                return None
        if len(biases) not in (0, 3) or (whole and biases):
            return None
        kernel = launches.heads(P, H, K, N, cache.value_dim, cache.is_half, chain.rope, eps, whole, bool(biases))
        norms = [self._values(None if c.norm is None else c.norm.weight) for c in (chain, other)]
        turn = self._nothing if chain.turn is None else chain.turn
        out, cache.keys, cache.values = self._launch(
            kernel, adapter.empty((P, H * N), self.device), cache.keys, cache.values, product.values, *norms, turn,
            places, *[self._values(c.bias) for c in chains],
        )  # fmt: skip
        return out

    def _latent(self, q: Rows, k: Rows, v: Rows, cache: TinygradCache, places: Tensor) -> Tensor | None:
        """Likewise [P, H*(R + dim)] of what `models.attention.LatentAttention` does, with its cache written."""
        found = latent_of(q, k, v)
        if found is None or cache.values is not None or not _has_kernel(found.k_b):
            return None
        x, shape_q = found.q, None
        norm, planes = None, planes_of(found.k_b)
        if isinstance(x, Part) and x.alone and padded(q.n) <= launches.MOST_TOKENS:
            weight = x.product.weights[0]
            x, norm, eps = _norm_of(x.product.x)
            shape_q, planes = (weight.dims[1], weight.quant, eps), planes_of(weight)
        (values, *place), (kv, *kv_place) = _place_of(x), _place_of(found.kv)
        H, rank, nope = found.k_b.dims
        shape = launches.Latent(H, rank, nope, found.rope, found.k_b.quant, found.norm.eps, shape_q)
        P, kernel = padded(q.n), launches.latent(padded(q.n), shape, cache.is_half, place, kv_place)
        out, cache.keys = self._launch(
            kernel, adapter.empty((P, H * (rank + found.rope.dim)), self.device), cache.keys,
            self._nothing if shape_q is None else self._empty_scratch(P, H * (nope + found.rope.dim)),
            self._zeros(P, H), values, self._values(norm),
            *planes, *planes_of(found.k_b), kv, found.norm.weight.values(), found.turn, places,
        )  # fmt: skip
        return out

    def _hidden(self, x: Rows, ids: Tensor, experts: TinygradExperts, shared: Shared | None) -> Tensor:
        """[P, A, F], of the chosen experts that are here, and what `launches.Beside` says behind them."""
        source, norm, eps = _norm_of(x)
        (P, A), (F, D) = ids.shape, experts.gate.dims[1:]
        beside, others = None, [experts.gate, experts.gate, experts.gate]
        if shared is not None:
            gate, up = shared.hidden.product.weights
            by = None if shared.by is None else shared.by.quant
            beside = launches.Beside(gate.dims[0], gate.quant, up.quant, by)
            others = [gate, up, shared.by or gate]
        quants = experts.gate.quant, experts.up.quant
        biases = experts.biases is not None
        kernel = launches.experts_gate_up(P, A, D, F, quants, experts.activation, eps, biases, beside)
        (hidden,) = self._launch(
            kernel, adapter.empty((P * (A * F + (beside.numbers if beside else 0)),), self.device), source.tensor,
            self._values(norm), ids, experts.local, *planes_of(experts.gate), *planes_of(experts.up),
            self._bias(experts, 0), self._bias(experts, 1), *(p for w in others for p in planes_of(w)),
        )  # fmt: skip
        return hidden

    def _dense(self, product: Product, activation: Activation) -> Tensor:
        """[P, F]: activation(gate, up) of a product's two parts, by the experts' kernel without experts."""
        source, norm, eps = _norm_of(product.x)
        (gate, up), P = product.weights, padded(product.x.n)
        beside = launches.Beside(gate.dims[0], gate.quant, up.quant)
        kernel = launches.experts_gate_up(P, 0, gate.dims[1], 0, (gate.quant, up.quant), activation, eps, False, beside)
        nothing, planes = self._nothing, [*planes_of(gate), *planes_of(up)]
        (hidden,) = self._launch(
            kernel, adapter.empty((P, gate.dims[0]), self.device), source.tensor, self._values(norm), nothing, nothing,
            *planes, nothing, nothing, *planes, *planes_of(gate),
        )  # fmt: skip
        return hidden

    def _many_experts(self, x: Tensor, ids: Tensor, weights: Tensor, experts: TinygradExperts) -> Tensor:
        """float64 [P, D], by tiles of tokens that share an expert."""
        (P, A), (F, D) = ids.shape, experts.gate.dims[1:]
        n, biases = experts.gate.dims[0], experts.biases is not None
        tiles = launches.n_tiles(P, A, n)
        order = adapter.empty((tiles, launches.TILE), self.device, dtypes.int32)
        tile = adapter.empty((tiles,), self.device, dtypes.int32)
        order, tile = self._launch(launches.group(P, A, n), order, tile, ids, experts.local)
        both = experts.gate.quant, experts.up.quant
        up = launches.gemm(P, D, F, both, n_owned=n, active=A, share=A, activation=experts.activation, biases=biases)
        (hidden,) = self._launch(
            up, adapter.empty((P * A, F), self.device), x, order, tile, *planes_of(experts.gate),
            *planes_of(experts.up), self._bias(experts, 0), self._bias(experts, 1), experts.owned,
        )  # fmt: skip
        down = launches.gemm(P, F, D, (experts.down.quant,), n_owned=n, active=A, biases=biases)
        (y,) = self._launch(
            down, adapter.empty((P * A, D), self.device), hidden, order, tile, *planes_of(experts.down),
            *planes_of(experts.down), self._bias(experts, 2), self._nothing, experts.owned,
        )  # fmt: skip
        here = expressions.places(ids, experts.local).reshape(P, A, 1) >= 0
        each = weights.unsqueeze(-1).cast(dtypes.float64) * y.reshape(P, A, D).cast(dtypes.float64)
        return here.where(each, 0).sum(1)


class _Chain:
    """A product's part, perhaps with a bias, perhaps normed, perhaps turned, none of it looked at."""

    def __init__(self, part: Part, bias: TinygradWeight | None, norm: Normed | None, turned: Turned | None) -> None:
        self.part, self.bias, self.norm = part, bias, norm
        self.rope: Rope | None = turned.rope if turned else None
        self.turn: Tensor | None = turned.turn if turned else None


def _chain(x: Rows) -> _Chain | None:
    turned = x if isinstance(x, Turned) and not x.made else None
    inner: Any = turned.x if turned else x
    norm = inner if isinstance(inner, Normed) and not inner.made else None
    part: Any = norm.x if norm else inner
    biased = part if isinstance(part, Biased) and not part.made else None
    part = biased.part if biased else part
    bias = None if biased is None else biased.vector
    return _Chain(part, bias, norm, turned) if isinstance(part, Part) else None


def _norm_of(x: Rows) -> tuple[Rows, TinygradWeight | None, float | None]:
    """x as what a kernel reads and the norm that it does itself."""
    if isinstance(x, Normed) and not x.made and x.weight.dims[0] == _width(x.x):
        return x.x, x.weight, x.eps
    return x, None, None


def _width(x: Rows) -> int:
    return x.width if isinstance(x, Part) else int(x.tensor.shape[1])


def _place_of(x: Rows) -> tuple[Tensor, int, int]:
    """Where a kernel finds x without a copy: in what, the length of its rows, and the first element."""
    if isinstance(x, Part) and not x.made:
        return x.product.values, x.product.width, x.first
    return x.tensor, int(x.tensor.shape[1]), 0


def _are_all(gate: Part, up: Part) -> bool:
    """The two parts of one product that nobody looked at."""
    product = gate.product
    all_of_it = up.product is product and len(product.weights) == 2 and (gate.index, up.index) == (0, 1)
    return all_of_it and not product.made


def _shared_in(y: Rows, experts: ExpertSum) -> Shared | None:
    """What y is beside these experts: a block of the same input, perhaps gated, if nobody looked at any of it."""
    block, by = y, None
    if isinstance(y, Gated) and not y.made:
        if not y.by.alone or y.by.product.x is not experts.x:
            return None
        block, by = y.x, y.by.product.weights[0]
    if not (isinstance(block, Part) and block.alone and isinstance(block.product.x, Activated)) or experts.made:
        return None
    hidden = block.product.x
    if hidden.made or hidden.product.x is not experts.x or hidden.activation is not experts.activation:
        return None
    return Shared(hidden, block.product.weights[0], by)


def _has_kernel(weight: TinygradWeight) -> bool:
    return weight.quant in launches.KERNEL_QUANTS
