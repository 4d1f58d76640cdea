"""Operations that wait for the next one, as one kernel does both: a norm in front of a product, a product and what it
is added to. Whoever wants the values themselves gets them by `tensor`, and the operation is done on its own."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

from tinygrad import Tensor

from motley.ops.protocol import Activation, Rope
from motley.ops.tinygrad.arrays import Rows
from motley.ops.tinygrad.weights import TinygradWeight


class Deferred(Rows):
    """`made`: whether somebody wanted the values."""

    __slots__ = ("_make", "made")

    def __init__(self, n: int, make: Callable[[], Tensor], double: bool = False) -> None:
        self.n, self.double, self.made, self._make = n, double, False, make

    @property
    def tensor(self) -> Tensor:
        if not self.made:
            self._tensor, self.made = self._make(), True
        return self._tensor

    @property
    def pending(self) -> Tensor | None:
        return self._tensor if self.made else None


class Normed(Deferred):
    """Of `x`, over the weight's length."""

    __slots__ = ("eps", "weight", "x")

    def __init__(self, x: Rows, weight: TinygradWeight, eps: float, make: Callable[[], Tensor]) -> None:
        super().__init__(x.n, make)
        self.x, self.weight, self.eps = x, weight, eps


class Turned(Deferred):
    """Of `x`, by the angles `turn` [P, 2, dim / 2]."""

    __slots__ = ("rope", "turn", "x")

    def __init__(self, x: Rows, rope: Rope, turn: Tensor, make: Callable[[], Tensor]) -> None:
        super().__init__(x.n, make)
        self.x, self.rope, self.turn = x, rope, turn


class Columns(Deferred):
    """Of each `width` elements of `x` those from `first` to `end`."""

    __slots__ = ("end", "first", "width", "x")

    def __init__(self, x: Rows, width: int, first: int, end: int, make: Callable[[], Tensor]) -> None:
        super().__init__(x.n, make)
        self.x, self.width, self.first, self.end = x, width, first, end

    def of(self, x: Rows, width: int, first: int, end: int) -> bool:
        return self.x is x and (self.width, self.first, self.end) == (width, first, end)


class Joined(Deferred):
    """Groups of `x` and of `y` side by side."""

    __slots__ = ("width", "width_y", "x", "y")

    def __init__(self, x: Rows, width: int, y: Rows, width_y: int, make: Callable[[], Tensor]) -> None:
        super().__init__(x.n, make)
        self.x, self.width, self.y, self.width_y = x, width, y, width_y


class PerHead(Deferred):
    """Each head of `x` times its own matrix."""

    __slots__ = ("weight", "x")

    def __init__(self, x: Rows, weight: TinygradWeight, make: Callable[[], Tensor]) -> None:
        super().__init__(x.n, make)
        self.x, self.weight = x, weight


Launch = Callable[[Tensor | None, TinygradWeight | None], Tensor]


class Product:
    """`x` times some matrices, one launch for all of them. `launch(residual, bias)`: [P, rows of all]; with one matrix
    plus [P, rows], plus [rows]."""

    def __init__(self, x: Rows, weights: Sequence[TinygradWeight], launch: Launch) -> None:
        self.x, self.weights, self.plus = x, weights, launch

    @cached_property
    def values(self) -> Tensor:
        return self.plus(None, None)

    @property
    def made(self) -> bool:
        return "values" in self.__dict__

    @property
    def width(self) -> int:
        return sum(w.dims[0] for w in self.weights)


class Part(Deferred):
    """What one matrix of a product gives."""

    __slots__ = ("index", "product")

    def __init__(self, n: int, product: Product, index: int) -> None:
        super().__init__(n, self._slice)
        self.product, self.index = product, index

    @property
    def first(self) -> int:
        return sum(w.dims[0] for w in self.product.weights[: self.index])

    @property
    def width(self) -> int:
        return self.product.weights[self.index].dims[0]

    @property
    def alone(self) -> bool:
        """All that its product gives, and nobody looked."""
        return len(self.product.weights) == 1 and not self.product.made and not self.made

    def _slice(self) -> Tensor:
        return self.product.values[:, self.first : self.first + self.width]


class Biased(Deferred):
    """`part` plus a vector."""

    __slots__ = ("part", "vector")

    def __init__(self, part: Part, vector: TinygradWeight, make: Callable[[], Tensor]) -> None:
        super().__init__(part.n, make)
        self.part, self.vector = part, vector


class Activated(Deferred):
    """Of a product's two parts, gate and up."""

    __slots__ = ("activation", "product")

    def __init__(self, n: int, product: Product, activation: Activation, make: Callable[[], Tensor]) -> None:
        super().__init__(n, make)
        self.product, self.activation = product, activation


class Gated(Deferred):
    """`x` times the sigmoid of one number a token, `by`."""

    __slots__ = ("by", "x")

    def __init__(self, x: Part, by: Part, make: Callable[[], Tensor]) -> None:
        super().__init__(x.n, make)
        self.x, self.by = x, by


class Shared(NamedTuple):
    """A feed-forward block beside the experts, of the same input."""

    hidden: Activated
    down: TinygradWeight
    by: TinygradWeight | None  # [1, D]: its gate's matrix


class ExpertSum(Deferred):
    """The chosen experts of `x`. `plus(residual, shared)`: float32 [P, D], the residual, their sum and what the shared
    ones give."""

    __slots__ = ("activation", "plus", "x")

    def __init__(
        self,
        x: Rows,
        activation: Activation,
        make: Callable[[], Tensor],
        plus: Callable[[Tensor, Shared | None], Tensor],
    ) -> None:
        super().__init__(x.n, make, double=True)
        self.x, self.activation, self.plus = x, activation, plus


class Summed(Deferred):
    """`residual` plus the experts' sum."""

    __slots__ = ("experts", "residual")

    def __init__(self, residual: Rows, experts: ExpertSum) -> None:
        super().__init__(residual.n, self._plain)
        self.residual, self.experts = residual, experts

    def _plain(self) -> Tensor:
        return self.experts.plus(self.residual.tensor, None)


def planes_of(weight: TinygradWeight) -> list[Tensor]:
    """Four, as the kernels take them."""
    kept = list(weight.kept.values())
    return [*kept, *[kept[0]] * (4 - len(kept))]


class Latent(NamedTuple):
    """What latent attention makes its query and its cache's row of."""

    q: Rows  # [P, H*(nope + dim)], before rope
    kv: Rows  # [P, R + dim]
    k_b: TinygradWeight
    norm: Normed  # of the latent
    rope: Rope  # of q's heads
    turn: Tensor


def latent_of(q: Rows, k: Rows, v: Rows) -> Latent | None:
    """From the attention's arguments, where they are that and nobody looked at anything in between."""
    if not (isinstance(q, Joined) and isinstance(k, Joined) and isinstance(q.x, PerHead) and isinstance(k.x, Normed)):
        return None
    absorbed, tail, shared = q.x, q.y, k.y
    if not (isinstance(absorbed.x, Columns) and isinstance(tail, Columns) and isinstance(shared, Turned)):
        return None
    turned, latent, rest = absorbed.x.x, k.x.x, shared.x
    if not (isinstance(turned, Turned) and isinstance(latent, Columns) and isinstance(rest, Columns)) or v is not k.x:
        return None
    _, rank, nope = absorbed.weight.dims
    dim, kv = turned.rope.dim, latent.x
    parts = [absorbed.x.of(turned, nope + dim, 0, nope), tail.of(turned, nope + dim, nope, nope + dim)]
    parts += [latent.of(kv, rank + dim, 0, rank), rest.of(kv, rank + dim, rank, rank + dim)]
    same = turned.turn is shared.turn and turned.rope.start == nope and shared.rope.start == 0
    made = any(d.made for d in (q, k, absorbed, tail, shared, absorbed.x, turned, latent, rest, k.x))
    if made or not all(parts) or not same or k.x.weight.dims[0] != rank:
        return None
    return Latent(turned.x, kv, absorbed.weight, k.x, turned.rope, turned.turn)
