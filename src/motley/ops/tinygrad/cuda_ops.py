"""CudaOps: TinygradOps with the kernels of `kernels/` where a shape and a quantisation have one, for CUDA and NV.

A step of few tokens takes seven launches a layer (`launches` says which): norm with q, k, v; heads; attention; output
with residual; norm with router; norm with the chosen experts' gate and up, shared ones beside them; down with sum and
residual. Latent attention takes one more: norm with the low-rank products; latent; attention; one matrix a head;
output. A gated delta rule takes one where attention has two. Operations that one kernel does together are `deferred`
until the last of them comes; `patterns` says what they add up to. Steps of more tokens go through tensor cores, with
activations and weights rounded to bfloat16: about 3e-3 of the largest value, where few tokens are exact to 1e-4. What
has no kernel (other quantisations, prompts' delta rule and products of one matrix a head) is the expression of
TinygradOps.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor, dtypes

from motley.ops.protocol import NO_VECTORS, Activation, Batch, DeltaWeights, Multiplies, Rope, RouterVectors, Routing
from motley.ops.tinygrad import adapter, expressions, launches
from motley.ops.tinygrad.arrays import Rows, padded
from motley.ops.tinygrad.deferred import (
    Activated,
    Attended,
    Biased,
    Both,
    Columns,
    Deferred,
    Delta,
    Ended,
    Ending,
    ExpertSum,
    Gated,
    Joined,
    Normed,
    Norms,
    Part,
    PerHead,
    Place,
    Product,
    Scaled,
    Shared,
    Summed,
    Turned,
    Weighed,
    waits,
)
from motley.ops.tinygrad.patterns import (
    are_all,
    both_of,
    has_kernel,
    heads_of,
    latent_of,
    norm_of,
    place_of,
    planes_of,
    product_of,
    row_of,
    shared_in,
    side_by_side,
    weighed_of,
    width_of,
)
from motley.ops.tinygrad.source import Kernel
from motley.ops.tinygrad.tinygrad_ops import TinygradOps
from motley.ops.tinygrad.weights import TinygradCache, TinygradDelta, TinygradExperts, TinygradWeight
from motley.shape.mixer import CacheType

_MOST_ROUTED = 1024  # experts of the router's kernel


class CudaOps(TinygradOps):
    multiplies: Multiplies = "bfloat16"

    def __init__(self, device: str = "CUDA", kv: CacheType = "f16") -> None:
        super().__init__(device, kv)
        self._kept: dict[tuple[str | int, ...], Tensor] = {}  # between launches, by what for and its dimensions
        self._nothing = adapter.zeros((4,), self.device)

    # -- operations

    def rms_norm(self, x: Rows, weight: TinygradWeight, eps: float) -> Rows:
        def make() -> Tensor:
            return expressions.rms_norm(x.tensor, weight.values(), eps)

        return self._later(Normed(x, weight, eps, make))

    def linear(self, x: Rows, *weights: TinygradWeight) -> tuple[Rows, ...]:
        if not all(has_kernel(w) for w in weights):
            return super().linear(x, *weights)
        P = padded(x.n)
        if P > launches.MOST_TOKENS:
            return tuple(self._rows(self._gemm(x.tensor, w), x.n) for w in weights)
        parts: list[Rows] = []
        for at in range(0, len(weights), 4):
            some = weights[at : at + 4]
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
        stored = cache.keys, cache.read_values  # as this step leaves them
        one, half = cache.values is None, cache.is_half

        def launched(gate: Place | None) -> Tensor:
            by = gate.spread if gate else None
            kernel = launches.attention(P, H, K, N, M, half, scale, sinks is not None, one, by)
            (out,) = self._launch(
                kernel, adapter.empty((P, H * M), self.device), self._scratch(P, H, launches.splits_of(P), M + 2),
                self._zeros(P, H), queries, *stored, given.bases, given.firsts, given.positions, self._values(sinks),
                gate.values if gate else self._nothing,
            )  # fmt: skip
            return out

        return self._later(Attended(q.n, H * M, launched))

    def delta_net(
        self, qkv: Rows, write: Rows, keep: Rows, weights: DeltaWeights, state: TinygradDelta, batch: Batch
    ) -> Rows:
        P, net = padded(qkv.n), state.net
        if P > launches.MOST_TOKENS or net.k_dim > launches.DELTA_ROWS:
            return super().delta_net(qkv, write, keep, weights, state, batch)
        sequences = self._sequences(state, batch)

        def launched(norm: Normed | None, gate: Place | None) -> Tensor:
            x, writes, keeps = row_of(qkv), place_of(write), place_of(keep)
            z = (gate.spread, norm.eps) if gate and norm else None
            places = launches.DeltaPlaces(x.spread, writes.spread, keeps.spread, z)
            kernel = launches.delta(P, net, state.n_slots, places)
            out, state.states, state.inputs = self._launch(
                kernel, adapter.empty((P, net.v_heads * net.v_dim), self.device), state.states, state.inputs,
                self._scratch(P, net.v_heads * net.v_dim), self._zeros(P, net.k_heads), x.values,
                weights.conv.values(), writes.values, keeps.values, weights.dt.values(), weights.rate.values(),
                self._values(norm.weight if norm else None), gate.values if gate else self._nothing, *sequences,
            )  # fmt: skip
            self._change(state, "states", "inputs")
            return out

        return self._later(Delta(qkv.n, net.v_dim, launched))

    def router(
        self, x: Rows, weight: TinygradWeight, routing: Routing, vectors: RouterVectors = NO_VECTORS
    ) -> tuple[Rows, Rows]:
        E = weight.dims[0]
        if not has_kernel(weight) or E > _MOST_ROUTED:
            return super().router(x, weight, routing, vectors)
        source, norm, eps = norm_of(x)
        P, D = source.tensor.shape
        given = tuple(v is not None for v in vectors)
        kernel = launches.router(P, E, D, weight.quant, routing, given, eps)  # type: ignore[arg-type]  # three of them
        ids = adapter.empty((P, routing.n_used), self.device, dtypes.int32)
        chosen = adapter.empty((P, routing.n_used), self.device)
        ids, chosen = self._launch(
            kernel, ids, chosen, self._scratch(P, E), self._zeros(P, E), source.tensor,
            self._values(norm), *planes_of(weight), *map(self._values, vectors),
        )  # fmt: skip
        return self._rows(ids, x.n), self._rows(chosen, x.n)

    def experts(self, x: Rows, ids: Rows, weights: Rows, experts: TinygradExperts) -> Rows:
        if not all(has_kernel(w) for w in (experts.gate, experts.up, experts.down)):
            return super().experts(x, ids, weights, experts)
        if padded(x.n) > launches.MOST_TOKENS:
            return self._rows(self._many_experts(x.tensor, ids.tensor, weights.tensor, experts), x.n, double=True)
        F, D = experts.gate.dims[1:]
        biases = experts.biases is not None
        read, factor = weighed_of(x, ids.tensor.shape[1])

        def summed(residual: Tensor | None, shared: Shared | None, norms: Norms | None) -> Tensor:
            P, A = ids.tensor.shape
            hidden = self._hidden(read, factor, ids.tensor, experts, shared)
            beside = None if shared is None else (shared.down.quant, shared.down.dims[1])
            gated = shared is not None and shared.by is not None
            kernel = launches.experts_down(
                P, A, D, F, experts.down.quant, residual is not None, biases, beside, gated,
                1.0 if shared is None else shared.factor, None if norms is None else (norms.eps, norms.scale),
            )  # fmt: skip
            kind = dtypes.float64 if residual is None else dtypes.float32
            own = [self._nothing] * 2 if norms is None else [self._scratch(P, 2 * D), self._zeros(P)]
            behind = [w.values() for w in (norms.sum, norms.beside, norms.both)] if norms else [self._nothing] * 3
            (out,) = self._launch(
                kernel, adapter.empty((P, D), self.device, kind), *own, hidden, ids.tensor, weights.tensor,
                experts.local, self._nothing if residual is None else residual, *planes_of(experts.down),
                self._bias(experts, 2), *planes_of(experts.down if shared is None else shared.down), *behind,
                norms.outer if norms else self._nothing,
            )  # fmt: skip
            return out

        return self._later(ExpertSum(read, experts.activation, lambda: summed(None, None, None), summed))

    def combine(self, x: Rows, parts: Sequence[Rows]) -> Rows:
        if len(parts) == 1 and waits(parts[0], ExpertSum):
            return self._later(Summed(x, parts[0]))
        return super().combine(x, parts)

    def add(self, x: Rows, y: Rows) -> Rows:
        if waits(x, Summed) and (shared := shared_in(y, x.experts)) is not None:
            return self._rows(x.experts.plus(x.residual.tensor, shared, None), x.n)
        if (both := both_of(x, y)) is not None:
            return self._later(Both(*both, lambda: x.tensor + y.tensor))
        if (sides := side_by_side(y)) is not None:
            experts, inner, outer = sides.summed.experts, sides.summed.residual.tensor, x.tensor
            return self._later(
                Ended(x.n, lambda scale: experts.plus(inner, sides.shared, sides.norms_with(outer, scale)))
            )
        if (found := product_of(y)) is not None:
            part, ending = found
            return self._rows(part.product.launch(ending._replace(residual=x.tensor)), x.n)
        return super().add(x, y)

    def scale(self, x: Rows, factor: float) -> Rows:
        if factor == 0.0:  # tinygrad would make it a constant, which has no memory for a kernel to read (Gemma 4)
            return self._rows(self._still(padded(x.n), width_of(x)), x.n)
        if waits(x, Ended):
            return self._rows(x.launch(factor), x.n)
        if not isinstance(x, Deferred) or x.made:
            return super().scale(x, factor)

        def make() -> Tensor:
            if isinstance(x, Part) and x.alone:
                return x.product.launch(Ending(factor=factor))
            return x.tensor * factor

        return self._later(Scaled(x, factor, make))

    def temper(self, x: Rows, positions: NDArray[np.int32], factor: float, length: int) -> Rows:
        by = self._tempers(positions, factor, length)
        return self._later(Weighed(x, by, lambda: x.tensor * by))

    def add_bias(self, x: Rows, vector: TinygradWeight) -> Rows:
        if not isinstance(x, Part):
            return super().add_bias(x, vector)
        return self._later(Biased(x, vector, lambda: x.tensor + vector.values()))

    def activate(self, gate: Rows, up: Rows, activation: Activation) -> Rows:
        if not (isinstance(gate, Part) and isinstance(up, Part) and are_all(gate, up)):
            return super().activate(gate, up, activation)
        product = gate.product
        return self._later(Activated(gate.n, product, activation, lambda: self._dense(product, activation)))

    def gate(self, x: Rows, by: Rows, function: Literal["none", "sigmoid", "silu"] = "sigmoid") -> Rows:
        def make() -> Tensor:
            return super(CudaOps, self).gate(x, by, function).tensor

        if isinstance(x, Part) and isinstance(by, Part) and by.width == 1 and function == "sigmoid":
            return self._later(Gated(x, by, make))
        if waits(x, Attended) and function == "sigmoid" and width_of(by) == x.width:
            return self._rows(x.launch(place_of(by)), x.n)
        if waits(x, Normed):
            if function == "none" and width_of(by) == 1:
                return self._later(Weighed(x, by.tensor, make))
            if function == "silu" and waits(delta := x.x, Delta) and x.weight.dims[0] == delta.head_dim:
                return self._rows(delta.launch(x, row_of(by)), x.n)
        return super().gate(x, by, function)

    def heads_linear(self, x: Rows, weight: TinygradWeight) -> Rows:
        def make() -> Tensor:
            P, (H, rows, cols) = padded(x.n), weight.dims
            if P > launches.MOST_TOKENS or not has_kernel(weight):
                return expressions.heads_linear(x.tensor, weight)
            kernel = launches.heads_matvec(P, H, rows, cols, weight.quant)
            y = adapter.empty((P, H * rows), self.device)
            return self._launch(kernel, y, x.tensor, *planes_of(weight))[0]

        return self._later(PerHead(x, weight, make))

    def columns(self, x: Rows, width: int, first: int, end: int) -> Rows:
        if (first, end) == (0, width) and width_of(x) == width:
            return x  # nothing here works in place
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
        """Counters, which every kernel leaves at zero. One set for all layers: each waits for the one before, as
        `Kernel.scratch` says that it writes them."""
        return self._memory("counters", dims, dtypes.uint32)

    def _scratch(self, *dims: int) -> Tensor:
        return self._memory("scratch", dims)

    def _values(self, vector: TinygradWeight | None) -> Tensor:
        return self._nothing if vector is None else vector.values()

    def _still(self, *dims: int) -> Tensor:
        """Zeros that nobody writes to."""
        return self._memory("still", dims)

    def _memory(self, what: str, dims: tuple[int, ...], kind: Any = dtypes.float32) -> Tensor:
        if (what, *dims) not in self._kept:
            self._kept[what, *dims] = adapter.zeros(dims, self.device, kind)
        return self._kept[what, *dims]

    def _bias(self, experts: TinygradExperts, which: int) -> Tensor:
        return experts.biases[which] if experts.biases else self._nothing

    def _product(self, x: Rows, weights: Sequence[TinygradWeight]) -> Product:
        def launched(ending: Ending) -> Tensor:
            source, norm, eps = norm_of(x)
            values, place = row_of(source)
            P, cols = padded(x.n), weights[0].dims[1]
            post, post_eps = ending.norm or (None, None)
            kernel = launches.matvec(
                P, cols, tuple((w.quant, w.dims[0]) for w in weights), eps, ending.residual is not None,
                ending.bias is not None, place.row, place.first, ending.factor, post_eps,
            )  # fmt: skip
            planes = [p for w in (*weights, *[weights[0]] * (4 - len(weights))) for p in planes_of(w)]
            (y,) = self._launch(
                kernel, adapter.empty((P, sum(w.dims[0] for w in weights)), self.device),
                self._nothing if post is None else self._zeros(1), values, self._values(norm),
                self._nothing if ending.residual is None else ending.residual, self._values(ending.bias),
                self._values(post), *planes,
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
        P, K, N, M = padded(q.n), cache.n_kv_heads, cache.head_dim, cache.value_dim
        found = None if cache.values is None else heads_of(q, k, v, K, N, M)
        if found is None:
            return None
        of_q, of_v = found.q, found.v
        H = found.product.weights[0].dims[0] // found.q_width
        norm, temper = of_q.norm, of_q.temper
        kernel = launches.heads(
            P, H, K, N, M, cache.is_half, of_q.rope, norm.eps if norm else None, found.whole, of_q.bias is not None,
            after=of_q.after, value_eps=of_v.norm.eps if of_v.norm else None, tempered=temper is not None,
            q_width=found.q_width,
        )  # fmt: skip
        out, cache.keys, cache.values = self._launch(
            kernel, adapter.empty((P, H * N), self.device), cache.keys, cache.values, found.product.values,
            *[self._values(c.norm.weight if c.norm else None) for c in (of_q, found.k, of_v)],
            of_q.turned.turn if of_q.turned else self._nothing, temper.by if temper else self._nothing, places,
            *[self._values(c.bias) for c in (of_q, found.k, of_v)],
        )  # fmt: skip
        return out

    def _latent(self, q: Rows, k: Rows, v: Rows, cache: TinygradCache, places: Tensor) -> Tensor | None:
        """Likewise [P, H*(R + dim)] of what `models.attention.LatentAttention` does, with its cache written."""
        if cache.values is not None:
            return None
        found = latent_of(q, k, v, cache.n_kv_heads, cache.head_dim, cache.value_dim)
        if found is None or not has_kernel(found.k_b):
            return None
        x, shape_q = found.q, None
        norm, planes = None, planes_of(found.k_b)
        if isinstance(x, Part) and x.alone and padded(q.n) <= launches.MOST_TOKENS:
            weight = x.product.weights[0]
            x, norm, eps = norm_of(x.product.x)
            shape_q, planes = (weight.dims[1], weight.quant, eps), planes_of(weight)
        (values, place), (kv, kv_place) = row_of(x), row_of(found.kv)
        H, rank, nope = found.k_b.dims
        shape = launches.Latent(H, rank, nope, found.rope, found.k_b.quant, found.norm.eps, shape_q)
        P, kernel = padded(q.n), launches.latent(padded(q.n), shape, cache.is_half, place, kv_place)
        own = [self._nothing] * 2
        if shape_q is not None:
            own = [self._scratch(P, H * (nope + found.rope.dim)), self._zeros(P, H)]
        out, cache.keys = self._launch(
            kernel, adapter.empty((P, H * (rank + found.rope.dim)), self.device), cache.keys,
            *own, values, self._values(norm), *planes, *planes_of(found.k_b), kv,
            found.norm.weight.values(), found.turn, places,
        )  # fmt: skip
        return out

    def _hidden(
        self, x: Rows, factor: Tensor | None, ids: Tensor, experts: TinygradExperts, shared: Shared | None
    ) -> Tensor:
        """[P, A, F], of the chosen experts that are here, and what `launches.Beside` says behind them."""
        source, norm, eps = norm_of(x)
        (P, A), (F, D) = ids.shape, experts.gate.dims[1:]
        beside, others, own = None, [experts.gate, experts.gate, experts.gate], norm
        if shared is not None:
            gate, up = shared.hidden.product.weights
            by = None if shared.by is None else shared.by.quant
            own = norm_of(shared.hidden.product.x)[1]
            beside = launches.Beside(gate.dims[0], gate.quant, up.quant, by, own is not norm)
            others = [gate, up, shared.by or gate]
        quants = experts.gate.quant, experts.up.quant
        biases = experts.biases is not None
        kernel = launches.experts_gate_up(
            P, A, D, F, quants, experts.activation, eps, biases, beside, factor is not None
        )
        (hidden,) = self._launch(
            kernel, adapter.empty((P * (A * F + (beside.numbers if beside else 0)),), self.device), source.tensor,
            self._values(norm), self._values(own), self._nothing if factor is None else factor, ids, experts.local,
            *planes_of(experts.gate), *planes_of(experts.up),
            self._bias(experts, 0), self._bias(experts, 1), *(p for w in others for p in planes_of(w)),
        )  # fmt: skip
        return hidden

    def _dense(self, product: Product, activation: Activation) -> Tensor:
        """[P, F]: activation(gate, up) of a product's two parts, by the experts' kernel without experts."""
        source, norm, eps = norm_of(product.x)
        (gate, up), P = product.weights, padded(product.x.n)
        beside = launches.Beside(gate.dims[0], gate.quant, up.quant)
        kernel = launches.experts_gate_up(P, 0, gate.dims[1], 0, (gate.quant, up.quant), activation, eps, False, beside)
        nothing, planes = self._nothing, [*planes_of(gate), *planes_of(up)]
        (hidden,) = self._launch(
            kernel, adapter.empty((P, gate.dims[0]), self.device), source.tensor, self._values(norm), *[nothing] * 4,
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
