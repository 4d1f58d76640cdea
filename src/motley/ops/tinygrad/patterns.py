"""What deferred operations add up to: which of them one kernel does together. Each function looks at operations that
nobody wanted the values of, and says what a launch needs, or None: then they are done one by one."""

from typing import NamedTuple

from tinygrad import Tensor

from motley.ops.protocol import Rope
from motley.ops.tinygrad import launches
from motley.ops.tinygrad.arrays import Rows
from motley.ops.tinygrad.deferred import (
    Activated,
    Biased,
    Both,
    Columns,
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
from motley.ops.tinygrad.launches import Spread
from motley.ops.tinygrad.weights import TinygradWeight


def has_kernel(weight: TinygradWeight) -> bool:
    return weight.quant in launches.KERNEL_QUANTS


def planes_of(weight: TinygradWeight) -> list[Tensor]:
    """Four, as the kernels take them."""
    kept = list(weight.kept.values())
    return [*kept, *[kept[0]] * (4 - len(kept))]


def width_of(x: Rows) -> int:
    """Without wanting its values, where they wait for a product."""
    if isinstance(x, Part):
        return x.width
    if isinstance(x, Columns) and not x.made:
        return width_of(x.x) // x.width * (x.end - x.first)
    if isinstance(x, Normed | Turned | Scaled | Weighed) and not x.made:
        return width_of(x.x)
    return int(x.tensor.shape[1])


def norm_of(x: Rows) -> tuple[Rows, TinygradWeight | None, float | None]:
    """x as what a kernel reads and the norm that it does itself."""
    if waits(x, Normed) and x.weight.dims[0] == width_of(x.x):
        return x.x, x.weight, x.eps
    return x, None, None


def place_of(x: Rows) -> Place:
    """Where a kernel finds x: inside of what its product gives, where it is a part of one, or some columns of a part's
    heads."""
    if waits(x, Columns) and isinstance(x.x, Part):
        values, whole = place_of(x.x)
        return Place(values, Spread(whole.row, whole.first + x.first, x.end - x.first, x.width))
    if waits(x, Part):
        return Place(x.product.values, Spread(x.product.width, x.first, x.width, x.width))
    width = int(x.tensor.shape[1])
    return Place(x.tensor, Spread(width, 0, width, width))


def row_of(x: Rows) -> Place:
    """Likewise, all of it side by side."""
    place = place_of(x)
    if place.spread.group == place.spread.width:
        return place
    width = int(x.tensor.shape[1])
    return Place(x.tensor, Spread(width, 0, width, width))


def are_all(gate: Part, up: Part) -> bool:
    """The two parts of one product that nobody looked at."""
    product = gate.product
    all_of_it = up.product is product and len(product.weights) == 2 and (gate.index, up.index) == (0, 1)
    return all_of_it and not product.made


def weighed_of(x: Rows, n_used: int) -> tuple[Rows, Tensor | None]:
    """What the experts read, and the number of each token that multiplies it."""
    return (x.x, x.by) if waits(x, Weighed) and n_used == 1 else (x, None)


# -- what is added to a residual


def product_of(y: Rows) -> tuple[Part, Ending] | None:
    """y as what one matrix gives and what its launch then does with it."""
    part, factor, norm, bias = y, 1.0, None, None
    if waits(part, Scaled):
        factor, part = part.factor, part.x
    if waits(part, Normed):
        if part.weight.dims[0] != width_of(part.x):
            return None
        norm, part = (part.weight, part.eps), part.x
    if waits(part, Biased):
        bias, part = part.vector, part.part
    return (part, Ending(None, bias, norm, factor)) if isinstance(part, Part) and part.alone else None


def shared_in(y: Rows, experts: ExpertSum) -> Shared | None:
    """What y is beside these experts: a block of the same input, perhaps gated, perhaps times a number."""
    if experts.made:
        return None
    block, by, factor = y, None, 1.0
    if waits(block, Scaled):
        factor, block = block.factor, block.x
    if waits(block, Gated):
        if not block.by.alone or block.by.product.x is not experts.x:
            return None
        by, block = block.by.product.weights[0], block.x
    found = _block_of(block, experts)
    if found is None or found.hidden.product.x is not experts.x:
        return None
    return found._replace(by=by, factor=factor)


def _block_of(y: Rows, experts: ExpertSum) -> Shared | None:
    """A feed-forward block whose launches can be the experts' too."""
    if not (isinstance(y, Part) and y.alone and isinstance(y.product.x, Activated)):
        return None
    hidden = y.product.x
    if hidden.made or hidden.activation is not experts.activation:
        return None
    return Shared(hidden, y.product.weights[0])


class SideBySide(NamedTuple):
    """Experts and a block beside them, each normed, both normed."""

    summed: Summed
    shared: Shared
    norms: tuple[TinygradWeight, TinygradWeight, TinygradWeight]
    eps: float

    def norms_with(self, outer: Tensor, scale: float) -> Norms:
        return Norms(*self.norms, self.eps, outer, scale)


def both_of(x: Rows, y: Rows) -> tuple[Normed, Normed] | None:
    """The norm of an experts' sum, and the norm of a block that reads the same, perhaps through another norm."""
    if not (waits(x, Normed) and waits(y, Normed) and waits(summed := x.x, Summed)):
        return None
    if summed.experts.made or x.eps != y.eps:
        return None
    found = _block_of(y.x, summed.experts)
    if found is None or any(n.weight.dims != found.down.dims[:1] for n in (x, y)):
        return None
    mine, theirs = norm_of(summed.experts.x), norm_of(found.hidden.product.x)
    return (x, y) if mine[0] is theirs[0] and mine[2] == theirs[2] else None


def side_by_side(y: Rows) -> SideBySide | None:
    if not (waits(y, Normed) and waits(both := y.x, Both)):
        return None
    of_sum, of_block = both.experts, both.beside
    if both_of(of_sum, of_block) is None or y.weight.dims != of_sum.weight.dims or y.eps != of_sum.eps:
        return None
    assert isinstance(of_sum.x, Summed)
    shared = _block_of(of_block.x, of_sum.x.experts)
    assert shared is not None
    return SideBySide(of_sum.x, shared, (of_sum.weight, of_block.weight, y.weight), y.eps)


# -- what comes between a product and attention


class Chain:
    """A product's part, or the first columns of each of its heads, perhaps with a bias, perhaps normed, perhaps turned,
    perhaps weighed. `after`: it is normed behind the turn."""

    def __init__(self, x: Rows) -> None:
        self.temper: Weighed | None = None
        self.norm: Normed | None = None
        self.turned: Turned | None = None
        self.columns: Columns | None = None
        self.bias: TinygradWeight | None = None
        self.after = False
        if waits(x, Weighed):
            self.temper, x = x, x.x
        for _ in range(2):
            if self.turned is None and waits(x, Turned):
                self.turned, self.after, x = x, self.norm is not None, x.x
            elif self.norm is None and waits(x, Normed):
                self.norm, x = x, x.x
        if waits(x, Columns):
            self.columns, x = x, x.x
        if waits(x, Biased):
            self.bias, x = x.vector, x.part
        self.part = x if isinstance(x, Part) else None

    @property
    def rope(self) -> Rope | None:
        return self.turned.rope if self.turned else None


class Heads(NamedTuple):
    """What the kernel between projections and attention needs. q, k, v: chains of one product's three parts."""

    product: Product
    q: Chain
    k: Chain
    v: Chain
    whole: bool  # the norm is over all heads together
    q_width: int  # elements from one head of q to the next


def heads_of(q: Rows, k: Rows, v: Rows, n_kv_heads: int, head_dim: int, value_dim: int) -> Heads | None:
    of_q, of_k, of_v = chains = Chain(q), Chain(k), Chain(v)
    parts = [c.part for c in chains if c.part]
    if [part.index for part in parts] != [0, 1, 2] or any(part.product is not parts[0].product for part in parts):
        return None
    if of_k.temper or of_k.columns or of_v.temper or of_v.columns or of_v.turned:
        return None
    if of_q.rope != of_k.rope or of_q.after != of_k.after or (of_q.norm is None) != (of_k.norm is None):
        return None
    if of_v.norm and of_v.norm.weight.dims[0] != value_dim:
        return None
    product, q_width = parts[0].product, head_dim
    if of_q.columns:
        q_width = of_q.columns.width
        if (of_q.columns.first, of_q.columns.end) != (0, head_dim):
            return None
    whole = False
    if of_q.norm and of_k.norm:
        widths = of_q.norm.weight.dims[0], of_k.norm.weight.dims[0]
        n_heads = product.weights[0].dims[0] // q_width
        each = widths == (head_dim, head_dim)
        whole = not each and widths == (n_heads * head_dim, n_kv_heads * head_dim)
        if not (each or whole) or of_q.norm.eps != of_k.norm.eps:
            return None
    biases = sum(c.bias is not None for c in chains)
    if biases not in (0, 3) or ((biases or of_q.columns or of_q.after) and whole) or (biases and of_q.columns):
        return None
    return Heads(product, of_q, of_k, of_v, whole, q_width)


class Latent(NamedTuple):
    """What latent attention makes its query and its cache's row of."""

    q: Rows  # [P, H*(nope + dim)], before rope
    kv: Rows  # [P, R + dim]
    k_b: TinygradWeight
    norm: Normed  # of the latent
    rope: Rope  # of q's heads
    turn: Tensor


def latent_of(q: Rows, k: Rows, v: Rows, n_kv_heads: int, head_dim: int, value_dim: int) -> Latent | None:
    """From the attention's arguments, where they are that and nobody looked at anything in between. ValueError where
    they or the cache are not as wide as the kernel takes them to be: it would read and write beside its rows."""
    if not (isinstance(q, Joined) and isinstance(k, Joined) and isinstance(q.x, PerHead) and isinstance(k.x, Normed)):
        return None
    absorbed, tail, shared = q.x, q.y, k.y
    if not (isinstance(absorbed.x, Columns) and isinstance(tail, Columns) and isinstance(shared, Turned)):
        return None
    turned, latent, rest = absorbed.x.x, k.x.x, shared.x
    if not (isinstance(turned, Turned) and isinstance(latent, Columns) and isinstance(rest, Columns)) or v is not k.x:
        return None
    heads, rank, nope = absorbed.weight.dims
    dim, kv = turned.rope.dim, latent.x
    parts = [absorbed.x.of(turned, nope + dim, 0, nope), tail.of(turned, nope + dim, nope, nope + dim)]
    parts += [latent.of(kv, rank + dim, 0, rank), rest.of(kv, rank + dim, rank, rank + dim)]
    same = turned.turn is shared.turn and turned.rope.start == nope and shared.rope.start == 0
    same &= all((j.width, j.width_y) == (rank, dim) for j in (q, k))
    made = any(d.made for d in (q, k, absorbed, tail, shared, absorbed.x, turned, latent, rest, k.x))
    if made or not all(parts) or not same or k.x.weight.dims[0] != rank:
        return None
    given = width_of(turned.x), width_of(kv), n_kv_heads, head_dim, value_dim
    wanted = heads * (nope + dim), rank + dim, 1, rank + dim, rank
    if given != wanted:
        raise ValueError(
            f"latent attention of {heads} heads of {nope} + {dim} elements and a latent of {rank}: the widths of q and "
            f"kv, and the cache's heads, their keys' width and their values' are {given}, not {wanted}"
        )
    return Latent(turned.x, kv, absorbed.weight, k.x, turned.rope, turned.turn)
