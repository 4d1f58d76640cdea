"""Dims: the dozen numbers that determine a MoE transformer of the supported families.

Owns the checked record that a Hugging Face config and a GGUF file's metadata are turned into. It is a narrow view of a
Spec: `spec` and `dims_of` go from one to the other.
"""

from dataclasses import dataclass

from motley.errors import UnsupportedError, UsageError
from motley.shape.spec import FfnSpec, MixerSpec, Spec

# OLMoE normalises the whole q and k projections, Qwen3 each head, Mixtral neither.
QK_NORM = {"llama": "", "olmoe": "full", "qwen3moe": "head"}
ARCHITECTURES = tuple(QK_NORM)  # that Motley writes, too
_SHARED = (
    "name",
    "architecture",
    "n_layers",
    "d_model",
    "d_dense",
    "vocab_size",
    "context",
    "rms_eps",
    "rope_theta",
    "tied_embeddings",
    "source",
)


@dataclass(frozen=True)
class Dims:
    """Field names follow ModelShape's; `d_dense` is GGUF's feed_forward_length (no layer need be dense)."""

    name: str
    architecture: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_experts: int
    n_experts_used: int
    d_expert: int
    d_dense: int
    vocab_size: int
    context: int
    rms_eps: float
    rope_theta: float
    tied_embeddings: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise UnsupportedError(
                f"{self.name}: architecture {self.architecture!r} is not supported: "
                f"Motley has {', '.join(ARCHITECTURES)}"
            )
        for key, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if value <= 0:
                raise UsageError(f"{self.name}: {key} must be positive, not {value}")
        if self.n_experts_used > self.n_experts:
            raise UsageError(f"{self.name}: uses {self.n_experts_used} of only {self.n_experts} experts")
        if self.n_heads % self.n_kv_heads:
            raise UsageError(f"{self.name}: {self.n_heads} heads do not share {self.n_kv_heads} key/value heads evenly")
        if self.architecture == "olmoe" and self.n_heads * self.head_dim != self.d_model:
            raise UnsupportedError(f"{self.name}: olmoe needs n_heads x head_dim == d_model")

    def spec(self) -> Spec:
        attention = MixerSpec(
            "attention",
            heads=self.n_heads,
            kv_heads=self.n_kv_heads,
            head_dim=self.head_dim,
            qk_norm=QK_NORM[self.architecture],
        )
        experts = FfnSpec("moe", width=self.d_expert, experts=self.n_experts, used=self.n_experts_used)
        own = {key: getattr(self, key) for key in _SHARED}
        return Spec(mixer={"F": attention}, ffn={"E": experts}, **own)


def dims_of(spec: Spec) -> Dims | None:
    """None where the model is not of a family that Motley runs, as it runs it."""
    if spec.architecture not in ARCHITECTURES or spec.moe is None or spec.main.kind != "attention":
        return None
    m, f = spec.main, spec.moe
    own = {key: getattr(spec, key) for key in _SHARED} | {"d_dense": spec.d_dense or f.width}
    try:
        dims = Dims(
            n_heads=m.heads,
            n_kv_heads=m.kv_heads,
            head_dim=m.head_dim,
            n_experts=f.experts,
            n_experts_used=f.used,
            d_expert=f.width,
            **own,
        )
    except (UnsupportedError, UsageError):
        return None
    same = dims.spec()
    plain = spec.mtp is None and not (spec.post_norms or spec.per_layer_embed or spec.hyper or spec.hybrid)
    return dims if plain and (list(same.mixer.values()), list(same.ffn.values())) == ([m], [f]) else None
