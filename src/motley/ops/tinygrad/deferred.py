"""Operations that wait for the next one, as one kernel does both: a norm in front of a product, a product and what it
is added to. Whoever wants the values themselves gets them by `tensor`, and the operation is done on its own. What they
add up to: `patterns`."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple, TypeGuard, TypeVar

from tinygrad import Tensor

from motley.ops.protocol import Activation, Rope
from motley.ops.tinygrad.arrays import Rows
from motley.ops.tinygrad.launches import Spread
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


Kind = TypeVar("Kind", bound=Deferred)


def waits(x: Rows, kind: type[Kind]) -> TypeGuard[Kind]:
    """Whether x is of that kind, and nobody wanted its values yet."""
    return isinstance(x, kind) and not x.made


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


class Scaled(Deferred):
    """`x` times a number."""

    __slots__ = ("factor", "x")

    def __init__(self, x: Rows, factor: float, make: Callable[[], Tensor]) -> None:
        super().__init__(x.n, make)
        self.x, self.factor = x, factor


class Weighed(Deferred):
    """`x` times one number a token, `by` [P, 1]."""

    __slots__ = ("by", "x")

    def __init__(self, x: Rows, by: Tensor, make: Callable[[], Tensor]) -> None:
        super().__init__(x.n, make)
        self.x, self.by = x, by


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


class Ending(NamedTuple):
    """What a product's launch does with it: residual [P, rows] + factor * norm(product + bias [rows])."""

    residual: Tensor | None = None
    bias: TinygradWeight | None = None
    norm: tuple[TinygradWeight, float] | None = None  # and its eps
    factor: float = 1.0


PLAIN = Ending()


class Product:
    """`x` times some matrices, one launch for all of them. `launch(ending)`: [P, rows of all]; an ending for one matrix
    only."""

    def __init__(self, x: Rows, weights: Sequence[TinygradWeight], launch: Callable[[Ending], Tensor]) -> None:
        self.x, self.weights, self.launch = x, weights, launch

    @cached_property
    def values(self) -> Tensor:
        return self.launch(PLAIN)

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
    by: TinygradWeight | None = None  # [1, D]: its gate's matrix
    factor: float = 1.0


class Norms(NamedTuple):
    """Behind the experts' sum with its residual, behind what is beside them, behind both together; then `outer` [P, D]
    is added, and the whole multiplied by `scale`."""

    sum: TinygradWeight
    beside: TinygradWeight
    both: TinygradWeight
    eps: float
    outer: Tensor
    scale: float


class ExpertSum(Deferred):
    """The chosen experts of `x`. `plus(residual, shared, norms)`: float32 [P, D], the residual, their sum and what the
    shared ones give."""

    __slots__ = ("activation", "plus", "x")

    def __init__(
        self,
        x: Rows,
        activation: Activation,
        make: Callable[[], Tensor],
        plus: Callable[[Tensor, Shared | None, Norms | None], Tensor],
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
        return self.experts.plus(self.residual.tensor, None, None)


class Both(Deferred):
    """The sum of two norms: of the experts' sum, and of what is beside them."""

    __slots__ = ("beside", "experts")

    def __init__(self, experts: Normed, beside: Normed, make: Callable[[], Tensor]) -> None:
        super().__init__(experts.n, make)
        self.experts, self.beside = experts, beside


class Ended(Deferred):
    """A launch whose result is still to be multiplied by a number: `launch(factor)`."""

    __slots__ = ("launch",)

    def __init__(self, n: int, launch: Callable[[float], Tensor]) -> None:
        super().__init__(n, lambda: launch(1.0))
        self.launch = launch


class Place(NamedTuple):
    """Where a kernel reads an array, without a copy of it."""

    values: Tensor
    spread: Spread


class Attended(Deferred):
    """What attention gives [P, width]; `launch(gate)`: times the sigmoid of that."""

    __slots__ = ("launch", "width")

    def __init__(self, n: int, width: int, launch: Callable[[Place | None], Tensor]) -> None:
        super().__init__(n, lambda: launch(None))
        self.width, self.launch = width, launch


class Delta(Deferred):
    """What the gated delta rule gives, of heads of `head_dim`; `launch(norm, gate)`: normed, and times the silu of the
    gate. Once, as each launch takes the state a step further."""

    __slots__ = ("head_dim", "launch")

    def __init__(self, n: int, head_dim: int, launch: Callable[[Normed | None, Place | None], Tensor]) -> None:
        launched = False

        def once(norm: Normed | None, gate: Place | None) -> Tensor:
            nonlocal launched
            if launched:
                raise RuntimeError(
                    "a delta rule's result is wanted again after its norm and gate took it, and its state would take "
                    "these tokens twice: read it before the gate, or read the gate's result"
                )
            launched = True
            return launch(norm, gate)

        super().__init__(n, lambda: once(None, None))
        self.head_dim, self.launch = head_dim, once
