"""Which kernel, with which numbers and grid, for an operation of a given shape: the only place that knows both the
kernels' definitions and the operations' words. Pure, so that what CI compiles and emulates is what runs."""

from dataclasses import dataclass
from math import gcd

from motley.ops.protocol import Activation, DeltaNet, Rope, Routing
from motley.ops.tinygrad.source import Kernel
from motley.shape.quant import Quant

KERNEL_QUANTS = frozenset(
    {Quant.F32, Quant.F16, Quant.BF16, Quant.Q8_0, Quant.Q4_0, Quant.Q4_K, Quant.Q6_K, Quant.MXFP4}
)
WARPS, ROWS = 4, 2  # of matrix-vector kernels: rows a block = 8; small, so that 2,048 rows are 256 blocks
MOST_TOKENS = 8  # of a step that goes by matrix-vector kernels
_SPLITS = 16  # of a context: with 4 key heads 64 blocks read it
TILE = 64  # rows of a tile of the grouped product
DELTA_ROWS = 64 * WARPS  # of a state: each thread has its share in registers
_SHARED_BYTES = 46 * 1024  # of 48 KB that every GPU has without asking


@dataclass(frozen=True)
class Spread:
    """Where a kernel finds some elements of each token: rows of `row`, and in them from `first` on `group` elements at
    the front of each `width`."""

    row: int
    first: int
    group: int
    width: int

    def defines(self, name: str) -> tuple[tuple[str, int], ...]:
        each = ("ROW", self.row), ("FIRST", self.first), ("GROUP", self.group), ("WIDTH", self.width)
        return tuple((f"{name}_{what}", number) for what, number in each)


_NOWHERE = Spread(0, 0, 1, 1)


def matvec(
    tokens: int,
    cols: int,
    matrices: tuple[tuple[Quant, int], ...],
    eps: float | None = None,
    residual: bool = False,
    bias: bool = False,
    row: int | None = None,
    first: int = 0,
    factor: float = 1.0,
    post: float | None = None,
) -> Kernel:
    """matrices: quantisation and rows of one to four. eps: of the norm before, if there is one. row, first: of x,
    where its `cols` columns are some of a wider array's. factor, and the eps of a norm behind: of what is added to the
    residual."""
    four = [*matrices, *[(matrices[0][0], 0)] * (4 - len(matrices))]
    groups = sum(-(-rows // ROWS) for _, rows in matrices)
    kinds = [(f"Q{i}", quant.ggml_type) for i, (quant, _) in enumerate(four)]
    sizes = [(f"R{i}", rows) for i, (_, rows) in enumerate(four)]
    return Kernel(
        "matvec",
        (
            *(("T", tokens), ("COLS", cols), *kinds, *sizes, ("WARPS", WARPS), ("ROWS", ROWS)),
            *(("NORM", int(eps is not None)), ("EPS", eps or 0.0), ("RESIDUAL", int(residual)), ("BIAS", int(bias))),
            *(("XROW", row or cols), ("XFIRST", first), ("FACTOR", float(factor))),
            *(("POST", int(post is not None)), ("POST_EPS", post or 0.0)),
        ),
        (-(-groups // WARPS), 1, 1),
        32 * WARPS,
        outs=1,
        scratch=int(post is not None),
    )


def heads_matvec(tokens: int, n_heads: int, rows: int, cols: int, quant: Quant) -> Kernel:
    each = 4  # rows a group of lanes takes, one after the other
    return Kernel(
        "heads_matvec",
        (("H", n_heads), ("ROWS_W", rows), ("COLS", cols), ("Q", quant.ggml_type), ("WARPS", WARPS), ("EACH", each)),
        (-(-rows // (WARPS * each * (32 // lanes_of(cols)))), n_heads, tokens),
        32 * WARPS,
        outs=1,
    )


def lanes_of(cols: int) -> int:
    """As LANES_OF in dots.cuh: a power of two that has one for each 32 columns, as far as a warp goes."""
    return min(32, 1 << max(-(-cols // 32) - 1, 0).bit_length())


@dataclass(frozen=True)
class Beside:
    """What a launch for experts does besides them, for all tokens: matrices of `width` (shared experts, or a dense
    block), and with `by` the product of one row that becomes their gate. `own_norm`: behind another norm."""

    width: int
    gate: Quant
    up: Quant
    by: Quant | None = None
    own_norm: bool = False

    @property
    def numbers(self) -> int:
        """That are left for each token, behind the experts'."""
        return self.width + (self.by is not None)


def experts_gate_up(
    tokens: int,
    active: int,
    d_model: int,
    d_expert: int,
    quants: tuple[Quant, Quant],
    activation: Activation,
    eps: float | None = None,
    biases: bool = False,
    beside: Beside | None = None,
    scaled: bool = False,
) -> Kernel:
    """Without `active` ones only what is beside them. scaled: what the experts read is times a number of each token."""
    gate, up = quants
    shared, by = (beside.width, beside.by) if beside else (0, None)
    kinds = (beside.gate, beside.up, by or beside.gate) if beside else (gate, gate, gate)
    each = active + bool(shared) + (by is not None)
    return Kernel(
        "experts_gate_up",
        (
            *(("T", tokens), ("A", active), ("D", d_model), ("F", d_expert)),
            *(("QG", gate.ggml_type), ("QU", up.ggml_type)),
            *(("WARPS", WARPS), ("ROWS", ROWS), ("NORM", int(eps is not None)), ("EPS", eps or 0.0)),
            *(("ACTIVATION", activation.value), ("BIAS", int(biases)), ("FS", shared), ("GATED", int(by is not None))),
            *((name, kind.ggml_type) for name, kind in zip(("SG", "SU", "QR"), kinds)),
            *(("OWN_NORM", int(beside is not None and beside.own_norm)), ("SCALED", int(scaled))),
        ),
        (-(-max(d_expert if active else 0, shared) // (WARPS * ROWS)), tokens * each, 1),
        32 * WARPS,
        outs=1,
    )


def experts_down(
    tokens: int,
    active: int,
    d_model: int,
    d_expert: int,
    quant: Quant,
    residual: bool = False,
    biases: bool = False,
    shared: tuple[Quant, int] | None = None,
    gated: bool = False,
    factor: float = 1.0,
    post: tuple[float, float] | None = None,
) -> Kernel:
    """shared: quantisation and width of what comes beside, if anything, and the factor it is added with; with a
    residual only. post: the eps of the norms behind both and behind their sum, and what all is multiplied with."""
    kind, width = shared or (quant, 0)
    return Kernel(
        "experts_down",
        (
            *(("T", tokens), ("A", active), ("D", d_model), ("F", d_expert), ("QD", quant.ggml_type), ("WARPS", WARPS)),
            *(("ROWS", ROWS), ("RESIDUAL", int(residual)), ("BIAS", int(biases))),
            *(("FS", width), ("SD", kind.ggml_type), ("GATED", int(gated)), ("FACTOR", float(factor))),
            *zip(("POST", "EPS", "SCALE"), (int(post is not None), *map(float, post or (0.0, 1.0)))),
        ),
        (-(-d_model // (WARPS * ROWS)), tokens, 1),
        32 * WARPS,
        outs=1,
        scratch=0 if post is None else 2,
    )


def router(
    tokens: int,
    n_experts: int,
    d_model: int,
    quant: Quant,
    routing: Routing,
    given: tuple[bool, bool, bool] = (False, False, False),
    eps: float | None = None,
) -> Kernel:
    """given: whether there are a bias, a prior and a gain."""
    bias, prior, gain = map(int, given)
    groups = (("GROUPS", routing.n_groups), ("GROUPS_USED", routing.n_groups_used), ("GROUP_SUM", routing.group_sum))
    return Kernel(
        "router",
        (
            *(("E", n_experts), ("D", d_model), ("A", routing.n_used), ("QR", quant.ggml_type), ("WARPS", WARPS)),
            *(("NORM", int(eps is not None)), ("EPS", eps or 0.0), ("SIGMOID", int(routing.score == "sigmoid"))),
            *(("NORMALIZE", int(routing.normalize)), ("SCALE", float(routing.scale)), *groups),
            *(("BIAS", bias), ("PRIOR", prior), ("GAIN", gain)),
        ),
        (-(-n_experts // WARPS), tokens, 1),
        32 * WARPS,
        outs=2,
        scratch=2,
    )


def heads(
    tokens: int, n_heads: int, n_kv_heads: int, head_dim: int, value_dim: int, half: bool, rope: Rope | None,
    eps: float | None = None, whole: bool = False, biases: bool = False, *, after: bool = False,
    value_eps: float | None = None, tempered: bool = False, q_width: int | None = None,
) -> Kernel:  # fmt: skip
    """whole: the norm is over all heads together; then without biases. after: it comes behind rope. value_eps: of a
    norm of v. q_width: elements from one head of q to the next."""
    dim, start, interleaved = (rope.dim, rope.start, int(rope.interleaved)) if rope else (0, 0, 0)
    return Kernel(
        "heads",
        (
            *(("H", n_heads), ("K", n_kv_heads), ("N", head_dim), ("M", value_dim), ("HALF", int(half))),
            *(("NORM", int(eps is not None)), ("WHOLE", int(whole)), ("EPS", eps or 0.0), ("BIAS", int(biases))),
            *(("DIM", dim), ("START", start), ("INTERLEAVED", interleaved), ("AFTER", int(after))),
            *(("VALUE_NORM", int(value_eps is not None)), ("VALUE_EPS", value_eps or 0.0)),
            *(("TEMPER", int(tempered)), ("QWIDTH", q_width or head_dim)),
        ),
        (n_heads + 2 * n_kv_heads, tokens, 1),
        128,
        outs=3,
    )


@dataclass(frozen=True)
class Latent:
    """Shape of the kernel between low-rank products and attention. `q`: elements of q's low rank, the quantisation of
    the matrix behind it, and the eps of the norm before, if there is one; None: q is given."""

    n_heads: int
    rank: int
    nope: int
    rope: Rope
    k_b: Quant
    eps: float
    q: tuple[int, Quant, float | None] | None = None


def latent(tokens: int, shape: Latent, half: bool, x: Spread, kv: Spread) -> Kernel:
    warps, dim = 8, shape.rope.dim
    rank, quant, eps = shape.q or (0, shape.k_b, None)
    blocks = -(-(shape.nope + dim) // (warps * ROWS)) if rank else 1
    return Kernel(
        "latent",
        (
            *(("H", shape.n_heads), ("R", shape.rank), ("NOPE", shape.nope), ("DIM", dim), ("RANK", rank)),
            *(("INTERLEAVED", int(shape.rope.interleaved)), ("QQ", quant.ggml_type), ("QK", shape.k_b.ggml_type)),
            *(("NORM", int(eps is not None)), ("EPS", eps or 0.0), ("KV_EPS", shape.eps), ("HALF", int(half))),
            *(("XROW", x.row), ("XFIRST", x.first), ("KVROW", kv.row), ("KVFIRST", kv.first)),
            *(("WARPS", warps), ("ROWS", ROWS)),
        ),
        (shape.n_heads * blocks + 1, tokens, 1),
        32 * warps,
        outs=2,
        scratch=2 if rank else 0,
    )


def attention(
    tokens: int, n_heads: int, n_kv_heads: int, head_dim: int, value_dim: int, half: bool, scale: float,
    sinks: bool = False, one: bool = False, gate: Spread | None = None,
) -> Kernel:  # fmt: skip
    """one: the values are the keys' first elements. gate: where the numbers are whose sigmoid multiplies the result."""
    group, splits = group_of(n_heads, n_kv_heads, head_dim, value_dim), splits_of(tokens)
    return Kernel(
        "attention",
        (
            *(("H", n_heads), ("K", n_kv_heads), ("N", head_dim), ("M", value_dim), ("GROUP", group)),
            *(("SPLITS", splits), ("WARPS", WARPS), ("HALF", int(half)), ("SCALE", float(scale))),
            *(("SINKS", int(sinks)), ("ONE", int(one)), ("GATED", int(gate is not None))),
            *(gate or _NOWHERE).defines("GATE"),
        ),
        (n_heads // group, tokens, splits),
        32 * WARPS,
        outs=1,
        scratch=2,
    )


@dataclass(frozen=True)
class DeltaPlaces:
    """Where a gated delta rule's inputs are; z: of the gate behind it, with the eps of the norm before that."""

    qkv: Spread
    write: Spread
    keep: Spread
    z: tuple[Spread, float] | None = None


def delta(tokens: int, net: DeltaNet, n_slots: int, places: DeltaPlaces) -> Kernel:
    z, eps = places.z or (_NOWHERE, 0.0)
    return Kernel(
        "delta",
        (
            *(("T", tokens), ("V", net.v_heads), ("K", net.k_heads), ("N", net.k_dim), ("M", net.v_dim)),
            *(("TAPS", net.taps), ("TILED", int(net.tiled)), ("NET_EPS", net.eps), ("SLOTS", n_slots)),
            *(("QKV_ROW", places.qkv.row), ("QKV_FIRST", places.qkv.first)),
            *(*places.write.defines("WRITE"), *places.keep.defines("KEEP")),
            *(("GATED", int(places.z is not None)), ("EPS", eps), ("Z_ROW", z.row), ("Z_FIRST", z.first)),
            ("WARPS", WARPS),
        ),
        (net.v_heads * -(-net.v_dim // 32), tokens, 1),
        32 * WARPS,
        outs=3,
        scratch=2,
    )


def splits_of(tokens: int) -> int:
    """Parts of a context, each read by blocks of its own. Many tokens are blocks enough, and what a part leaves takes
    memory for each token and head."""
    return _SPLITS if tokens <= MOST_TOKENS else 1


def group_of(n_heads: int, n_kv_heads: int, head_dim: int, value_dim: int) -> int:
    """Heads a block of the attention kernel takes: as many as share a key head and fit its memory and registers."""
    sharing = n_heads // n_kv_heads
    group = gcd(sharing, 8)
    while group > 1 and (
        4 * group * (head_dim + WARPS * (value_dim + 2)) > _SHARED_BYTES or group * -(-value_dim // 32) > 64
    ):
        group //= 2
    return group


def n_tiles(tokens: int, active: int, n_owned: int) -> int:
    return min(tokens * active, tokens * active // TILE + n_owned)


def group(tokens: int, active: int, n_owned: int) -> Kernel:
    tiles = n_tiles(tokens, active, n_owned)
    return Kernel(
        "group",
        (("T", tokens), ("A", active), ("OWNED", n_owned), ("TILE", TILE), ("TILES", tiles)),
        (1, 1, 1),
        256,
        outs=2,
    )


def gemm(
    tokens: int,
    cols: int,
    rows: int,
    quants: tuple[Quant, ...],
    *,
    n_owned: int = 0,
    active: int = 1,
    share: int = 1,
    activation: Activation | None = None,
    biases: bool = False,
) -> Kernel:
    """Rows of x are tokens, or without `share` pairs; with experts (n_owned) by the tiles of `group`. Two `quants` and
    an activation: gate and up."""
    tiles = n_tiles(tokens, active, n_owned) if n_owned else -(-tokens // TILE)
    both = len(quants) == 2
    return Kernel(
        "gemm",
        (
            *(("T", tokens), ("COLS", cols), ("ROWS_W", rows), ("OWNED", n_owned), ("SHARE", share)),
            *(("QG", quants[0].ggml_type), ("QU", quants[-1].ggml_type), ("GATE_UP", int(both))),
            *(("ACTIVATION", activation.value if activation else 0), ("BIAS", int(biases))),
        ),
        (-(-rows // (64 if both else 128)), tiles, 1),
        128,
        outs=1,
    )
