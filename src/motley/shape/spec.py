"""Spec: the facts that determine a model's tensors, whatever its family, as a catalogue file states them.

A layer is a mixer (attention, a linear-time state, or none) and a feed-forward block (experts, dense, or none). A file
gives each kind of mixer and block one table under a capital letter, `[mixer.F]`, `[ffn.E]`, and says with two patterns
which layer has which: see docs/shapes.md. `reader` checks keys and types, this file whether it all makes sense. The
tensors that follow are in `tensors`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from motley.errors import UsageError
from motley.shape.mixer import Mixer

MIXER_KINDS = ("attention", "mla", "compressed", "deltanet", "kda", "mamba2", "lightning", "shortconv")
FFN_KINDS = ("moe", "dense")
_NOTHING = "-"  # in a pattern: this layer has none


@dataclass(frozen=True)
class MixerSpec:
    """One kind of mixer. Which keys it needs depends on `kind`; dimensions are elements."""

    kind: str
    # attention, mla, compressed
    heads: int = 0  # mamba2, lightning and kda too
    kv_heads: int = 0
    head_dim: int = 0  # query and key (mla: without the rope part); mamba2, lightning, kda: of a head
    v_head_dim: int = 0  # 0: as head_dim
    window: int = 0  # latest positions attended to; 0: all. An attention chunk counts as a window.
    gate: str = ""  # "element": as wide as the heads (in the doubled query projection for attention); "head": one each
    bias: str = ""  # "qkv", or "all": the output projection too
    qk_norm: str = ""  # "head": one vector for all heads; "full": over the whole projection
    sinks: bool = False  # a learned logit per head
    v_from_k: bool = False  # values from the keys' projection; kept apart, for only keys turn (Gemma 4, global layers)
    shares_kv: bool = False  # reads an earlier layer's cache: no key or value projection (Gemma 3n, 4 E)
    q_lora_rank: int = 0
    kv_lora_rank: int = 0  # mla
    rope_dim: int = 0  # mla: of query and key, beside head_dim
    o_lora_rank: int = 0  # compressed: output by groups of heads
    o_groups: int = 0
    compress: int = 0  # compressed: positions per entry (DeepSeek V4: 4, 128); 0: the window only
    # an indexer that picks what is read
    top_k: int = 0
    index_heads: int = 0
    index_dim: int = 0
    shares_index: bool = False  # reads what an earlier layer's indexer picked: none of its own (GLM-5.2)
    # deltanet
    k_heads: int = 0
    v_heads: int = 0
    k_dim: int = 0
    v_dim: int = 0
    # mamba2
    state: int = 0
    groups: int = 0
    # all linear kinds
    conv: int = 0  # taps
    beside: str = ""  # letter of a linear mixer that runs in the same layer (Falcon-H1)

    @property
    def value_dim(self) -> int:
        return self.v_head_dim or self.head_dim

    @property
    def d_inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def conv_width(self) -> int:
        """Channels that the convolution sees."""
        if self.kind == "deltanet":
            return 2 * self.k_heads * self.k_dim + self.v_heads * self.v_dim
        if self.kind == "mamba2":
            return self.d_inner + 2 * self.groups * self.state
        return 3 * self.d_inner if self.kind == "kda" else 0

    def mixer(self, d_model: int) -> Mixer:
        """What a layer of this kind keeps and reads, without what runs beside it."""
        taps = max(self.conv - 1, 0)
        if self.kind == "deltanet":  # read, correct and write the state: three passes
            state = self.v_heads * self.k_dim * self.v_dim
            return Mixer.linear(state + taps * self.conv_width, 3 * state)
        if self.kind == "kda":
            state = self.heads * self.head_dim**2
            return Mixer.linear(state + taps * self.conv_width, 3 * state)
        if self.kind == "mamba2":  # write and read: two passes
            state = self.d_inner * self.state
            return Mixer.linear(state + taps * self.conv_width, 2 * state)
        if self.kind == "lightning":
            state = self.heads * self.head_dim**2
            return Mixer.linear(state, 2 * state)
        if self.kind == "shortconv":
            return Mixer.linear(taps * d_model, taps * d_model)
        return self._attention()

    def _attention(self) -> Mixer:
        if self.kind == "mla":
            found = Mixer.latent(self.heads, self.kv_lora_rank, self.rope_dim, self.head_dim, self.value_dim)
        elif self.kind == "compressed":  # one entry serves as key and value of all heads
            width, work = self.head_dim, 2 * self.heads * self.head_dim
            found = Mixer(
                "sparse" if self.compress else "window", width=width, work=work, ratio=self.compress, window=self.window
            )
        else:
            found = Mixer.full(self.heads, self.kv_heads, self.head_dim, self.value_dim)
            found = replace(found, kept=not self.shares_kv)
        if self.top_k:
            own = (0, 0) if self.shares_index else (self.index_heads, self.index_dim)
            found = found.indexed(self.top_k, *own)
        return found.windowed(self.window) if self.window and self.kind != "compressed" else found


@dataclass(frozen=True)
class FfnSpec:
    """One kind of feed-forward block: dense, or routed experts with those that every token uses."""

    kind: str
    width: int  # of a dense block, or of one expert
    experts: int = 0
    used: int = 0
    shared: int = 0  # experts that every token uses; a dense block beside the experts (Gemma 4) is one
    shared_width: int = 0  # of all of them together; 0: shared x width
    shared_gate: bool = False  # a gate on their sum (Qwen)
    gated: bool = True  # gate, up and down; False: up and down only (Nemotron's squared ReLU)
    latent: int = 0  # experts work on a projection of this width (Nemotron Super)
    router_bias: bool = False
    expert_bias: bool = False  # on all three of an expert's matrices (gpt-oss)
    bias: bool = False  # of a dense block

    @property
    def d_shared(self) -> int:
        return (self.shared_width or self.shared * self.width) if self.shared else 0


@dataclass(frozen=True)
class Mtp:
    """Layers that predict further tokens: counted apart, for a plain decode does not read them."""

    layers: int
    mixer: str = ""  # letters; by default those of the model's last layer that has one
    ffn: str = ""
    embeds: bool = False  # with its own copies of embedding and head


@dataclass(frozen=True)
class Spec:
    name: str
    architecture: str  # GGUF's general.architecture
    n_layers: int
    d_model: int
    vocab_size: int
    context: int
    source: str
    mixer: Mapping[str, MixerSpec] = field(default_factory=dict)
    ffn: Mapping[str, FfnSpec] = field(default_factory=dict)
    mixers: str = ""  # pattern, repeated to n_layers
    ffns: str = ""
    hybrid: str = ""  # instead of both: NVIDIA's pattern string, one block a layer
    mtp: Mtp | None = None
    shipped: Mapping[str, str] = field(
        default_factory=dict
    )  # mix -> how this model's checkpoint has it, where it differs
    tied_embeddings: bool = False
    post_norms: bool = False  # a norm behind each block, too (Gemma)
    per_layer_embed: int = 0  # width of Gemma 3n's and 4 E's embedding per layer
    hyper: int = 0  # residual streams of DeepSeek V4's hyper-connections
    rope_factors: int = 0  # pairs whose frequencies have factors of their own, as a tensor (Llama 3, Gemma 4)
    keys: Mapping[str, object] = field(default_factory=dict)  # further GGUF metadata, without the architecture
    rms_eps: float = 0.0  # these three: only for families that run
    rope_theta: float = 0.0
    d_dense: int = 0  # GGUF's feed_forward_length, where no layer is dense
    aliases: tuple[str, ...] = ()
    status: str = ""  # "config seen", or "config not seen: ..."
    note: str = ""
    published_params: float = 0.0
    published_active_params: float = 0.0
    published_active_excludes: str = ""  # what the model card leaves out of the active ones
    published_with_mtp: bool = False  # the total includes the layers of `mtp`
    active_tolerance: float = 0.01

    def __post_init__(self) -> None:
        _check(self)

    # -- layers
    @cached_property
    def mixer_letters(self) -> str:
        """One letter a layer; `-`: none."""
        if self.hybrid:
            return "".join({"M": "M", "*": "F"}.get(letter, _NOTHING) for letter in self.hybrid)
        return expand(self.mixers or _only(self.mixer), self.n_layers, f"{self.name}: mixers")

    @cached_property
    def ffn_letters(self) -> str:
        if self.hybrid:
            return "".join({"E": "E", "-": "D"}.get(letter, _NOTHING) for letter in self.hybrid)
        return expand(self.ffns or _only(self.ffn), self.n_layers, f"{self.name}: ffns")

    def mixer_of(self, layer: int) -> MixerSpec | None:
        return self.mixer.get(self.mixer_letters[layer])

    def ffn_of(self, layer: int) -> FfnSpec | None:
        return self.ffn.get(self.ffn_letters[layer])

    def layer_mixer(self, layer: int) -> Mixer:
        found = self.mixer_of(layer)
        if found is None:
            return Mixer.none()
        mixer = found.mixer(self.d_model)
        return mixer.beside(self.mixer[found.beside].mixer(self.d_model)) if found.beside else mixer

    # -- the numbers that a model is known by
    @cached_property
    def main(self) -> MixerSpec:
        """The mixer whose heads are quoted: attention over everything before windows, windows before linear ones."""

        def rank(letter: str) -> tuple[bool, bool]:
            m = self.mixer[letter]
            return m.kind not in ("attention", "mla", "compressed"), bool(m.window)

        return self.mixer[min((c for c in self.mixer_letters if c != _NOTHING), key=rank)]

    @cached_property
    def moe(self) -> FfnSpec | None:
        return next((f for f in map(self.ffn.get, self.ffn_letters) if f and f.kind == "moe"), None)


def expand(pattern: str, n: int, what: str) -> str:
    """`F`, `L3F`, `D3E58`, `WW(CH)20C`: letters and groups with counts, repeated to `n` letters (the last repetition
    may be cut)."""
    flat = _flat(re.sub(r"\(([A-Z0-9-]+)\)(\d+)", lambda m: _flat(m[1]) * int(m[2]), pattern))
    if not flat or not re.fullmatch(r"[A-Z-]+", flat):
        raise UsageError(f"{what} = {pattern!r} is not a pattern of capital letters and counts, such as L3F")
    if len(flat) > n:
        raise UsageError(f"{what} = {pattern!r} is {len(flat)} layers long, the model has {n}")
    return (flat * -(-n // len(flat)))[:n]


def _flat(pattern: str) -> str:
    return re.sub(r"([A-Z-])(\d+)", lambda m: m[1] * int(m[2]), pattern)


def _only(tables: Mapping[str, object]) -> str:
    return next(iter(tables)) if len(tables) == 1 else "" if tables else _NOTHING


# --- sense

_NEEDS = {
    "attention": ("heads", "kv_heads", "head_dim"),
    "mla": ("heads", "head_dim", "kv_lora_rank", "rope_dim"),
    "compressed": ("heads", "head_dim", "q_lora_rank", "o_lora_rank", "o_groups", "window"),
    "deltanet": ("k_heads", "v_heads", "k_dim", "v_dim", "conv"),
    "kda": ("heads", "head_dim", "conv"),
    "mamba2": ("heads", "head_dim", "state", "groups", "conv"),
    "lightning": ("heads", "head_dim"),
    "shortconv": ("conv",),
    "moe": ("width", "experts", "used"),
    "dense": ("width",),
}


def _check(spec: Spec) -> None:
    for key in ("n_layers", "d_model", "vocab_size", "context"):
        if getattr(spec, key) <= 0:
            raise UsageError(f"{spec.name}: {key} must be positive, not {getattr(spec, key)}")
    if spec.hybrid and (spec.mixers or spec.ffns or len(spec.hybrid) != spec.n_layers):
        raise UsageError(f"{spec.name}: hybrid needs one letter for each of {spec.n_layers} layers, and stands alone")
    for letter, m in spec.mixer.items():
        _check_kind(spec, f"mixer.{letter}", m, MIXER_KINDS)
        if m.kind == "attention" and m.heads % m.kv_heads:
            raise UsageError(f"{spec.name}: {m.heads} heads do not share {m.kv_heads} key/value heads evenly")
        if m.top_k and not (m.index_heads and m.index_dim):
            raise UsageError(f"{spec.name} [mixer.{letter}]: top_k needs index_heads and index_dim")
        if m.beside and spec.mixer.get(m.beside) in (None, m):
            raise UsageError(f"{spec.name} [mixer.{letter}]: beside = {m.beside!r} is not another mixer")
    for letter, f in spec.ffn.items():
        _check_kind(spec, f"ffn.{letter}", f, FFN_KINDS)
        if f.used > f.experts:
            raise UsageError(f"{spec.name}: uses {f.used} of only {f.experts} experts")
    _check_letters(spec, "mixer", spec.mixer_letters, spec.mixer)
    _check_letters(spec, "ffn", spec.ffn_letters, spec.ffn)
    if not spec.mixer_letters.strip(_NOTHING):
        raise UsageError(f"{spec.name}: no layer has a mixer")
    if len({(f.experts, f.used) for f in map(spec.ffn.get, spec.ffn_letters) if f and f.kind == "moe"}) > 1:
        raise UsageError(f"{spec.name}: layers with different numbers of experts cannot be stated")


def _check_kind(spec: Spec, what: str, part: MixerSpec | FfnSpec, kinds: tuple[str, ...]) -> None:
    if part.kind not in kinds:
        raise UsageError(f"{spec.name} [{what}]: kind = {part.kind!r} is not one of {', '.join(kinds)}")
    missing = [key for key in _NEEDS[part.kind] if not getattr(part, key)]
    if missing:
        raise UsageError(f"{spec.name} [{what}]: {part.kind} needs {', '.join(missing)} above zero")


def _check_letters(spec: Spec, what: str, letters: str, tables: Mapping[str, object]) -> None:
    unknown = sorted(set(letters) - set(tables) - {_NOTHING})
    if unknown:
        raise UsageError(f"{spec.name}: the layers name {what} {', '.join(unknown)}, but there is no such table")
    beside = {getattr(t, "beside", "") for t in tables.values()}
    mtp = {getattr(spec.mtp, what, "")} if spec.mtp else set()
    if unused := sorted(set(tables) - set(letters) - beside - mtp):
        raise UsageError(f"{spec.name}: no layer has [{what}.{unused[0]}]")
