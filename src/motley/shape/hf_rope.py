"""The rotation that a Hugging Face config states, as GGUF's metadata: plain, linear, YaRN; Llama 3's factors apart.

`rope_theta` and `rope_scaling` of old configs, `rope_parameters` of new ones. A kind of scaling that Motley does not
compute is refused by name. Sources: transformers' modeling_rope_utils; llama.cpp's converter for the keys.
"""

from collections.abc import Mapping
from math import inf, pi

from motley.errors import FormatError, UnsupportedError
from motley.shape.hf_config import Config
from motley.shape.hf_families import HfFamily

Keys = dict[str, object]


def rope_of(config: Config) -> Config:
    """Old and new spelling in one table, with `rope_theta`, `rope_type`; values are checked when they are used."""
    table = dict(config.table("rope_scaling").values) | dict(config.table("rope_parameters").values)
    table.setdefault("rope_type", table.get("type", "default"))
    for key in ("rope_theta", "partial_rotary_factor"):
        if table.get(key) is None and config.values.get(key) is not None:
            table[key] = config.values[key]
    return Config(table, "rope_parameters.")


def rope_keys(config: Config, family: HfFamily, head_dim: int) -> Keys:
    """GGUF keys without the architecture; `head_dim`: what a head has to turn (of latent attention, the rope part)."""
    rope = rope_of(config)
    theta, kind = rope.real("rope_theta", family.theta), rope.values["rope_type"]
    keys: Keys = {"rope.freq_base": theta, "rope.dimension_count": _turned(config, rope, family, head_dim)}
    if kind in ("default", "llama3", None):  # Llama 3's factors are a tensor
        return keys
    if kind == "linear":
        return keys | {"rope.scaling.type": "linear", "rope.scaling.factor": rope.real("factor")}
    if kind == "dynamic" and "alpha" in rope.values:  # Hunyuan's: a larger base, once and for all
        return keys | {"rope.freq_base": _larger_base(theta, rope.real("alpha"), head_dim)}
    if kind != "yarn":
        raise UnsupportedError(
            f"config.json: rope of type {kind!r} is not supported: Motley knows linear, llama3, yarn"
        )
    return keys | _yarn(config, rope, family)


def _larger_base(theta: float, alpha: float, head_dim: int) -> float:
    try:
        base = theta * float(max(alpha, 0.0) ** (head_dim / (head_dim - 2)))
    except ArithmeticError:
        base = inf
    if not 0 < base < inf:
        raise FormatError(f"config.json: rope_theta {theta} and alpha {alpha} are no rotation of heads of {head_dim}")
    return base


def _turned(config: Config, rope: Config, family: HfFamily, head_dim: int) -> int:
    """How many elements of each head turn."""
    if family.architecture == "minimax-m2" and config.has("rotary_dim"):
        return config.whole("rotary_dim", most=head_dim)
    default = {"glm4moe": 0.5, "qwen3next": 0.25, "qwen35moe": 0.25}.get(family.architecture, 1.0)
    return int(head_dim * _share(rope, default))


def _share(rope: Config, default: float) -> float:
    share = rope.real("partial_rotary_factor", default)
    if not 0 < share <= 1:
        raise FormatError(f"config.json: {rope.prefix}partial_rotary_factor = {share} is no part of a head")
    return share


def _yarn(config: Config, rope: Config, family: HfFamily) -> Keys:
    latent = family.layout == "latent"
    scales = [rope.values.get(key) for key in ("mscale", "mscale_all_dim")]
    if rope.values.get("attention_factor") is not None or (scales[0] != scales[1] if latent else any(scales)):
        raise UnsupportedError(f"config.json: YaRN with {dict(rope.values)} scales attention in a way Motley does not")
    if latent and scales[0] is None:
        raise UnsupportedError("config.json: YaRN without mscale_all_dim is not supported for latent attention")
    if rope.values.get("truncate", True) is not family.truncated_yarn:
        raise UnsupportedError(f"config.json: truncate = {rope.values.get('truncate')!r} is not supported here")
    keys: Keys = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope.real("factor"),
        "rope.scaling.original_context_length": rope.whole(
            "original_max_position_embeddings", default=config.whole("max_position_embeddings")
        ),
    }
    for ours, theirs in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
        if rope.values.get(theirs) is not None:
            keys[f"rope.scaling.{ours}"] = rope.real(theirs)
    return keys | ({"rope.scaling.yarn_log_multiplier": 0.1 * rope.real("mscale_all_dim")} if latent else {})


def rope_factors(config: Mapping[str, object], pairs: int) -> tuple[float, ...]:
    """By what each pair's frequency is divided, where a config wants a tensor `rope_freqs`; else nothing. Llama 3's:
    long waves by `factor`, short ones not, between them a ramp. Gemma 4's global layers: all but the first pairs stand
    still."""
    whole = Config(config)
    if full := whole.table("rope_parameters").table("full_attention").values:
        turned = int(pairs * _share(Config(full, "full_attention."), 1.0))
        return (1.0,) * turned + (1e30,) * (pairs - turned)
    rope = rope_of(whole)
    if rope.values["rope_type"] != "llama3":
        return ()
    theta, factor = rope.real("rope_theta", 5e5), rope.real("factor")
    low, high = rope.real("low_freq_factor"), rope.real("high_freq_factor")
    trained = rope.whole("original_max_position_embeddings")
    if min(theta, factor, low, high, trained) <= 0:
        raise FormatError(f"config.json: rope of type llama3 with {dict(rope.values)}: no rotation")
    return tuple(_llama3(2 * pi * theta ** (i / pairs), factor, trained / low, trained / high) for i in range(pairs))


def _llama3(wave: float, factor: float, long: float, short: float) -> float:
    if wave < short or wave > long or long == short:
        return 1.0 if wave < short else factor
    share = (long / wave - 1) / (long / short - 1)  # 0 at the long end
    return 1 / ((1 - share) / factor + share)
