"""ModelShape: what a model costs, without its weights.

Owns names, dimensions, stored precision and role of every tensor, what each layer keeps of a sequence, and the costs
that follow: bytes, active bytes and FLOPs per token, cache bytes. Tensor names are GGUF's. Reads no weights.

Layers that predict further tokens (MTP) are listed apart, in `mtp`: no sum contains them unless its name says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

from motley.errors import UnsupportedError, UsageError
from motley.shape.attrs import RUNS, attrs_of
from motley.shape.catalogue import lookup
from motley.shape.dims import Dims, dims_of
from motley.shape.hf import spec_from_hf
from motley.shape.labels import NATIVE, mix_named
from motley.shape.mix import Facts, Mix, unknown_mix
from motley.shape.mixer import BESIDE, ELEMENT_BYTES, CacheType, Mixer
from motley.shape.quant import Precision, require_quant
from motley.shape.role import Role
from motley.shape.spec import Spec
from motley.shape.tensors import TensorShape, mtp_tensors_of, tensors_of

__all__ = ["Mixer", "ModelShape", "Role", "TensorShape"]


PROJECTIONS = ("attn_q", "attn_k", "attn_v")  # of a layer: what multiplies its normed input


@dataclass(frozen=True)
class Projections:
    """Matrices whose rows are counted from one to the next."""

    tensors: tuple[TensorShape, ...]

    @property
    def n_rows(self) -> int:
        return sum(t.dims[0] for t in self.tensors)

    @property
    def n_bytes(self) -> int:
        return sum(t.n_bytes for t in self.tensors)


@dataclass(frozen=True)
class ModelShape:
    """A model's exact cost. B sequences, D model width, H heads, K key/value heads, N head width, E experts,
    A active experts, F expert width, V vocabulary. Where layers differ, H, K and N are those of full attention, and
    `mixers` has each layer's; a dense model has E = A = F = 0. `depth` is the positions that a token attends to, itself
    included."""

    name: str
    architecture: str  # GGUF's general.architecture
    n_layers: int
    d_model: int  # D
    n_heads: int  # H
    n_kv_heads: int  # K
    head_dim: int  # N
    n_experts: int  # E
    n_experts_used: int  # A
    d_expert: int  # F
    vocab_size: int  # V
    context: int  # longest trained context, tokens
    tensors: tuple[TensorShape, ...]
    attrs: Mapping[str, object] = field(default_factory=dict)  # every `<architecture>.*` GGUF key the family needs
    source: str = ""  # where the dimensions come from
    mixers: tuple[Mixer, ...] = ()  # one per layer; none given: full attention of H, K and N in each
    mtp: tuple[TensorShape, ...] = ()  # of layers that predict further tokens; no sum contains them
    cache: CacheType = "f16"  # how keys and values are stored
    assembled: bool = False  # the file has experts as several tensors: their bytes are put together at every use

    def __post_init__(self) -> None:
        if not self.mixers:
            full = Mixer.full(self.n_heads, self.n_kv_heads, self.head_dim)
            object.__setattr__(self, "mixers", (full,) * self.n_layers)
        if len(self.mixers) != self.n_layers:
            raise UsageError(f"{self.name}: {len(self.mixers)} mixers for {self.n_layers} layers")

    # -- where shapes come from
    @classmethod
    def named(cls, name: str, quant: str = "q4_k") -> Self:
        """From the catalogue, by any usual spelling of model and quantisation. Raises UsageError (unknown name: nearest
        ones) or UnsupportedError (unknown mix)."""
        return cls.from_spec(lookup(name), quant)

    @classmethod
    def from_hf_config(cls, config: Mapping[str, object], quant: str = "q4_k") -> Self:
        """From a Hugging Face `config.json`. Raises UnsupportedError for families and features Motley lacks."""
        shape = cls.from_spec(spec_from_hf(config), quant)
        if not shape.runs:
            raise UnsupportedError(
                f"config.json: the layers are not those of {shape.architecture} as Motley runs it: their kinds, windows"
                " or the order of dense ones differ"
            )
        return shape

    @classmethod
    def from_dims(cls, dims: Dims, quant: str) -> Self:
        return cls.from_spec(dims.spec(), quant)

    @classmethod
    def from_spec(cls, spec: Spec, quant: str) -> Self:
        main, moe = spec.main, spec.moe
        mix = _mix(spec, quant, runs=dims_of(spec) is not None)
        return cls(
            name=spec.name,
            architecture=spec.architecture,
            n_layers=spec.n_layers,
            d_model=spec.d_model,
            n_heads=main.heads or main.v_heads,
            n_kv_heads=main.kv_heads or 1,
            head_dim=main.head_dim + main.rope_dim or main.v_dim,
            n_experts=moe.experts if moe else 0,
            n_experts_used=moe.used if moe else 0,
            d_expert=moe.width if moe else 0,
            vocab_size=spec.vocab_size,
            context=spec.context,
            tensors=tensors_of(spec, mix),
            attrs=attrs_of(spec),
            source=spec.source,
            mixers=tuple(spec.layer_mixer(i) for i in range(spec.n_layers)),
            mtp=mtp_tensors_of(spec, mix),
        )

    def with_cache(self, cache: CacheType) -> Self:
        return replace(self, cache=cache)

    def with_layers(self, n: int) -> Self:
        """The same model cut to its first `n` layers; embedding and head stay whole."""
        if not 1 <= n <= self.n_layers:
            raise UsageError(f"{self.name} has {self.n_layers} layers: cannot cut it to {n}")
        if n == self.n_layers:
            return self
        return replace(
            self,
            name=f"{self.name}-{n}l",
            n_layers=n,
            tensors=tuple(t for t in self.tensors if t.layer is None or t.layer < n),
            mixers=self.mixers[:n],
            mtp=(),
            attrs={**self._attrs_of_layers(n), f"{self.architecture}.block_count": n},
        )

    def _attrs_of_layers(self, n: int) -> dict[str, object]:
        """Lists with one entry a layer are cut, too."""
        every = self.n_layers
        return {k: v[:n] if isinstance(v, list) and len(v) == every else v for k, v in self.attrs.items()}

    # -- what Motley does with it
    @property
    def runs(self) -> bool:
        """Whether Motley runs the family, rather than predicting its speed only."""
        return self.architecture in RUNS and bool(self.attrs)

    def require_runs(self) -> None:
        """Raises UnsupportedError where only predictions can be made of it: of the family, or of a precision."""
        if not self.runs:
            if self.architecture in RUNS:
                raise UnsupportedError(
                    f"{self.name} is predicted only: Motley runs {self.architecture}, but not with all that this model "
                    "has; `motley predict` and `motley plan` take it"
                )
            raise UnsupportedError(
                f"{self.name} is predicted only: Motley runs {', '.join(sorted(RUNS))}, not {self.architecture}; "
                "`motley predict` and `motley plan` take it"
            )
        for t in self.tensors:
            require_quant(t.quant, f"{self.name}, tensor {t.name}")

    # -- parameters
    @cached_property
    def n_params(self) -> int:
        return sum(t.n_params for t in self.tensors)

    @cached_property
    def n_active_params(self) -> int:
        """As most model cards count: everything but the experts not chosen; the embedding counts whole."""
        return sum(self._active(t, t.n_params) for t in self.tensors)

    def active_params(self, without: str = "") -> int:
        """`n_active_params` without the "embedding", or without "embedding and head": cards differ."""
        left = {"": (), "embedding": (Role.EMBED,), "embedding and head": (Role.EMBED, Role.HEAD)}[without]
        return self.n_active_params - sum(t.n_params for t in self.tensors if t.role in left)

    @property
    def n_mtp_params(self) -> int:
        return sum(t.n_params for t in self.mtp)

    # -- bytes at rest
    @cached_property
    def n_bytes(self) -> int:
        return sum(t.n_bytes for t in self.tensors)

    @cached_property
    def file_bytes(self) -> int:
        """With the layers for further tokens, which files carry."""
        return self.n_bytes + sum(t.n_bytes for t in self.mtp)

    @cached_property
    def bytes_by_quant(self) -> Mapping[Precision, int]:
        found: dict[Precision, int] = {}
        for t in self.tensors:
            found[t.quant] = found.get(t.quant, 0) + t.n_bytes
        return found

    @cached_property
    def embed_bytes(self) -> int:
        return self._sum(None, Role.EMBED)

    @cached_property
    def head_bytes(self) -> int:
        """Head and what else lies outside the layers, as a step reads them: a tied head reads the embedding table."""
        outside = [t for t in self.tensors if t.layer is None]
        table = sum(t.n_bytes for t in outside if t.role is Role.EMBED and t.name.startswith("token_embd"))
        read = sum(t.n_bytes for t in outside if t.role is not Role.EMBED)
        return read + table if self.has_tied_head else read

    @property
    def has_tied_head(self) -> bool:
        return not any(t.role is Role.HEAD for t in self.tensors)

    def role_bytes(self, layer: int, role: Role) -> int:
        """Bytes of `layer`'s tensors with that role; experts: all of them."""
        return self._by_layer[layer].get(role, 0)

    def home_bytes(self, layer: int) -> int:
        """What a layer's home device holds: all but the routed experts."""
        return sum(n for role, n in self._by_layer[layer].items() if role is not Role.EXPERT)

    def projections(self, layer: int) -> Projections | None:
        """The q, k and v matrices of a layer, None where it has others. Their rows may be split over devices."""
        found = [self._named.get(f"blk.{layer}.{name}.weight") for name in PROJECTIONS]
        tensors = tuple(t for t in found if t is not None and len(t.dims) == 2)
        return Projections(tensors) if len(tensors) == 3 else None

    def experts_in(self, layer: int) -> int:
        """E, or 0 where the layer has none."""
        return self.n_experts if self.role_bytes(layer, Role.EXPERT) else 0

    @cached_property
    def experts_at_hand(self) -> bool:
        """Whether an expert's matrices are read from the file as they are, not put together at every use or cut from
        one that holds gate and up."""
        return not self.assembled and not any(".ffn_gate_up_exps." in t.name for t in self.tensors)

    def expert_bytes(self, layer: int) -> int:
        """One routed expert of that layer: gate, up and down; 0 where the layer has none."""
        return self.role_bytes(layer, Role.EXPERT) // max(self.n_experts, 1)

    # -- bytes and work of a step
    def distinct_experts(self, batch: int = 1) -> float:
        """How many experts of a layer `batch` tokens touch together, if every choice is equally likely:
        E (1 - (1 - A/E)^B)."""
        if self.n_experts == 0:
            return 0.0
        return float(self.n_experts * (1 - (1 - self.n_experts_used / self.n_experts) ** batch))

    def step_bytes(self, batch: int = 1, distinct: float | None = None) -> float:
        """Weight bytes that one decode step of `batch` sequences reads; `distinct` experts a layer (default: by
        the uniform prior). KV cache not included. Of the embedding, one row a sequence."""
        if distinct is None:
            distinct = self.distinct_experts(batch)
        rows = batch * self.embed_bytes / self.vocab_size
        layers = sum(self.home_bytes(i) + distinct * self.expert_bytes(i) for i in range(self.n_layers))
        return rows + layers + self.head_bytes

    def active_bytes_per_token(self, batch: int = 1, distinct: float | None = None) -> float:
        """`step_bytes` shared among the batch's tokens."""
        return self.step_bytes(batch, distinct) / batch

    def flops_per_token(self, depth: int = 0) -> int:
        """Multiply-adds counted as 2: every active matrix once (the embedding is a lookup), and what each layer's mixer
        does for a token with `depth` others before it."""
        matrices = sum(self._active(t, t.n_params) for t in self.tensors if t.role not in (Role.EMBED, Role.NORM))
        if self.has_tied_head:
            matrices += self.vocab_size * self.d_model
        return 2 * matrices + round(sum(self.attention_operations(i, depth + 1) for i in range(self.n_layers)))

    # -- what a sequence keeps
    def kv_kept_bytes(self, layer: int, context: float) -> float:
        """That `layer` keeps of one sequence of `context` positions (states are f32, whatever the cache is)."""
        return self.mixers[layer].bytes_kept(context, ELEMENT_BYTES[self.cache], BESIDE)

    def kv_read_bytes(self, layer: int, depth: float) -> float:
        """That a token reads in `layer` of what is kept."""
        return self.mixers[layer].bytes_read(depth, ELEMENT_BYTES[self.cache])

    def attention_operations(self, layer: int, depth: float, prefill: bool = False) -> float:
        """Of one token in `layer`, two per multiply-add, without the projections. `prefill`: in a prompt, which latent
        attention computes otherwise."""
        return self.mixers[layer].operations(depth, prefill)

    def kv_bytes_per_token(self) -> float:
        """That one more position adds to the cache of all layers, while it lies within every window."""
        element_bytes = ELEMENT_BYTES[self.cache]
        return sum(m.bytes_kept(1, element_bytes) - m.bytes_kept(0, element_bytes) for m in self.mixers)

    # -- inside
    @cached_property
    def _named(self) -> dict[str, TensorShape]:
        return {t.name: t for t in self.tensors}

    @cached_property
    def _by_layer(self) -> tuple[dict[Role, int], ...]:
        layers: tuple[dict[Role, int], ...] = tuple({} for _ in range(self.n_layers))
        for t in self.tensors:
            if t.layer is not None:
                layers[t.layer][t.role] = layers[t.layer].get(t.role, 0) + t.n_bytes
        return layers

    def _sum(self, layer: int | None, role: Role) -> int:
        return sum(t.n_bytes for t in self.tensors if t.layer == layer and t.role is role)

    def _active(self, tensor: TensorShape, amount: int) -> int:
        if tensor.role is not Role.EXPERT:
            return amount
        return amount * self.n_experts_used // self.n_experts


def _mix(spec: Spec, quant: str, runs: bool) -> Mix:
    """Of a name (`q4_k`), or of a label as people publish it (`UD-Q4_K_XL`)."""
    name = mix_named(quant)
    if name is None:
        raise unknown_mix(quant)
    name = spec.shipped.get(name, "bf16" if name == NATIVE else name)
    valued = [i for i in range(spec.n_layers) if (m := spec.mixer_of(i)) and m.kind in ("attention", "deltanet")]
    main = spec.main
    facts = Facts(
        n_layers=spec.n_layers,
        architecture=spec.architecture,
        n_experts=spec.moe.experts if spec.moe else 0,
        group=main.heads // max(main.kv_heads, 1),
        tied=spec.tied_embeddings,
        runs=runs,
        is_70b=spec.architecture == "llama" and spec.n_layers == 80,
        value_order={layer: nth for nth, layer in enumerate(valued)},
    )
    return Mix(name, facts)
