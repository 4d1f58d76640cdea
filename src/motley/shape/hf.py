"""A Hugging Face `config.json` turned into a Spec: the tensors that follow and, in `keys`, what GGUF's metadata say
beyond them.

The facts of each model class are in `hf_families`, rotation in `hf_rope`. Of a model that sees or hears, too, this is
the text part (`text_config`). Keys that change the mathematics and that Motley does not implement are refused by name.
"""

from collections.abc import Callable, Mapping

from motley.errors import FormatError, UnsupportedError
from motley.shape.hf_config import Config
from motley.shape.hf_families import HF_FAMILIES, HfFamily
from motley.shape.hf_rope import rope_factors, rope_keys
from motley.shape.spec import FfnSpec, MixerSpec, Spec

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_USED = ("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts")
_SHARED = ("n_shared_experts", "moe_num_shared_experts", "num_shared_expert")
_LEADING = ("first_k_dense_replace", "moe_layer_start_index")

MOST_LAYERS, MOST_WIDE = 10_000, 1 << 16  # so that nothing below counts to what a hostile config made up

Mixers = tuple[dict[str, MixerSpec], str, dict[str, object]]  # kinds, a letter for each layer, GGUF keys


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The text part's keys over the whole's; `architectures` stays the whole's."""
    part = Config(config).table("text_config").values
    return {**config, **part, "architectures": config.get("architectures")} if part else config


def family_of(config: Mapping[str, object]) -> HfFamily:
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str):
        raise FormatError("config.json: `architectures` is missing, so the family is unknown")
    if name not in HF_FAMILIES:
        raise UnsupportedError(
            f"config.json: architecture {name} is not supported: Motley has {', '.join(HF_FAMILIES)}"
        )
    return HF_FAMILIES[name]


def spec_from_hf(config: Mapping[str, object]) -> Spec:
    """Raises UnsupportedError for an unknown family or feature, FormatError for a missing or misshapen key."""
    family = family_of(config)
    values = text_config(config)
    c = Config(values)
    for key, accepted in family.needs.items():
        if (value := _meant(c, family, key)) not in accepted:
            raise UnsupportedError(f"config.json: {key} = {value!r} is not supported here, only {accepted[0]!r}")
    n_layers = c.whole("num_hidden_layers", most=MOST_LAYERS)
    mixers, mixer_letters, keys = _LAYOUTS[family.layout](c, family, n_layers)
    ffns, ffn_letters = _blocks(c, family, n_layers)
    turned, theta = keys["rope.dimension_count"], keys["rope.freq_base"]
    assert isinstance(turned, int)
    assert isinstance(theta, float)
    return Spec(
        name=str(c.values.get("_name_or_path") or c.values.get("model_type") or family.architecture),
        architecture=family.architecture,
        n_layers=n_layers,
        d_model=c.whole("hidden_size"),
        vocab_size=c.whole("vocab_size"),
        context=c.whole("max_position_embeddings"),
        source="config.json",
        mixer=mixers,
        mixers=mixer_letters,
        ffn=ffns,
        ffns=ffn_letters,
        tied_embeddings=bool(c.values.get("tie_word_embeddings", family.tied)),
        post_norms=family.architecture == "gemma4",
        rms_eps=c.real("rms_norm_eps"),
        rope_theta=theta,
        d_dense=c.whole("intermediate_size_mlp", "intermediate_size", default=0),
        rope_factors=len(rope_factors(values, turned // 2)),
        keys=keys | _further(c, family),
    )


def _meant(c: Config, family: HfFamily, key: str) -> object:
    """Its value, where it is absent what the class takes it for."""
    return c.values.get(key, family.needs.get(key, (None,))[0])


def _further(c: Config, family: HfFamily) -> dict[str, object]:
    """GGUF keys that are only copied, and how experts are scored."""
    found: dict[str, object] = {}
    for ours, theirs in family.keys.items():
        if (value := _meant(c, family, theirs)) is None:
            continue
        found[ours] = value if isinstance(value, bool) else c.whole(theirs) if "count" in ours else c.real(theirs)
    if _meant(c, family, "topk_method") == "greedy":  # groups are not looked at
        found |= {key: 1 for key in found if "group" in key}
    return found


# --- mixers


def _heads(c: Config, family: HfFamily, **more: object) -> MixerSpec:
    heads = c.whole("num_attention_heads")
    facts: dict[str, object] = {
        "heads": heads,
        "kv_heads": c.whole("num_key_value_heads", default=heads),
        "head_dim": c.whole("head_dim", default=c.whole("hidden_size") // max(heads, 1), most=MOST_WIDE),
        "qk_norm": family.qk_norm if _if(c, family.qk_norm_if) else "",
        "bias": family.bias if _if(c, family.bias_if) else "",
        "sinks": family.sinks,
    }
    return MixerSpec("attention", **(facts | more))  # type: ignore[arg-type]


def _if(c: Config, key: str) -> bool:
    return not key or bool(c.values.get(key, False))


def _grouped(c: Config, family: HfFamily, n_layers: int) -> Mixers:
    full = _heads(c, family)
    return {"F": full}, "F" * n_layers, rope_keys(c, family, full.head_dim)


def _latent(c: Config, family: HfFamily, n_layers: int) -> Mixers:
    latent = MixerSpec(
        "mla",
        heads=c.whole("num_attention_heads"),
        head_dim=c.whole("qk_nope_head_dim"),
        v_head_dim=c.whole("v_head_dim"),
        kv_lora_rank=c.whole("kv_lora_rank"),
        rope_dim=c.whole("qk_rope_head_dim", most=MOST_WIDE),
        q_lora_rank=c.whole("q_lora_rank", default=0),
    )
    return {"F": latent}, "F" * n_layers, rope_keys(c, family, latent.rope_dim)


def _windowed(c: Config, family: HfFamily, n_layers: int) -> Mixers:
    """gpt-oss: every other layer, the first one too."""
    full, window = _heads(c, family), c.whole("sliding_window")
    letters = _letters(c, {"sliding_attention": "W", "full_attention": "F"}, "WF", n_layers)
    keys = rope_keys(c, family, full.head_dim) | {"attention.sliding_window": window}
    return _used({"W": _heads(c, family, window=window), "F": full}, letters), letters, keys


def _chunked(c: Config, family: HfFamily, n_layers: int) -> Mixers:
    """Llama 4: chunks in the layers that turn."""
    chunk, full = c.whole("attention_chunk_size", default=8192), _heads(c, family)
    turns = c.entries("no_rope_layers")
    if turns:
        letters = "".join("C" if each else "F" for each in turns)[:n_layers]
    else:
        every = c.whole("no_rope_layer_interval", default=4)
        letters = "".join("F" if every and (i + 1) % every == 0 else "C" for i in range(n_layers))
    normed = c.whole(_EXPERTS[0]) != 128  # all but Maverick
    if bool(c.values.get("use_qk_norm", True)) is not normed:
        raise UnsupportedError(f"config.json: use_qk_norm = {not normed} is not supported with these experts")
    keys = rope_keys(c, family, full.head_dim)
    if (length := c.whole("floor_scale", default=8192)) != 8192:  # which GGUF files do not state
        keys["attention.temperature_length"] = length
    return _used({"C": _heads(c, family, window=chunk), "F": full}, letters), letters, keys


def _deltanet(c: Config, family: HfFamily, n_layers: int) -> Mixers:
    full = _heads(c, family, gate="element")
    rule = MixerSpec(
        "deltanet",
        k_heads=c.whole("linear_num_key_heads"),
        v_heads=c.whole("linear_num_value_heads"),
        k_dim=c.whole("linear_key_head_dim"),
        v_dim=c.whole("linear_value_head_dim"),
        conv=c.whole("linear_conv_kernel_dim"),
    )
    every = max(c.whole("full_attention_interval", default=4, most=MOST_LAYERS), 1)
    pattern = "L" * (every - 1) + "F"
    letters = _letters(c, {"linear_attention": "L", "full_attention": "F"}, pattern, n_layers)
    keys = rope_keys(c, family, full.head_dim) | {"full_attention_interval": every}
    if family.architecture == "qwen35moe":
        sections = c.table("rope_parameters").entries("mrope_section") or [11, 11, 10]
        keys["rope.dimension_sections"] = [*sections, 0, 0, 0, 0][:4]
    return _used({"L": rule, "F": full}, letters), letters, keys


def _gemma4(c: Config, family: HfFamily, n_layers: int) -> Mixers:
    """Layers with a window have heads of their own; the others may take values from keys."""
    letters = _letters(c, {"sliding_attention": "W", "full_attention": "F"}, "WWWWWF", n_layers)
    first = letters.find("F")
    own = c.table("per_layer_config")  # transformers 5 has it for each layer, before that it was one for all
    of_full = own.table(str(first)) if own.has(str(first)) else own.table(f"{first:02}")
    window = _heads(c, family, window=c.whole("sliding_window"))
    full = _heads(
        c,
        family,
        head_dim=c.whole(
            "global_head_dim",
            default=of_full.whole("head_dim", default=window.head_dim, most=MOST_WIDE),
            most=MOST_WIDE,
        ),
        kv_heads=c.whole(
            "num_global_key_value_heads", default=of_full.whole("num_key_value_heads", default=window.kv_heads)
        ),
        v_from_k=_if(c, "attention_k_eq_v"),
    )
    ropes = c.table("rope_parameters")
    near, far = ropes.table("sliding_attention"), ropes.table("full_attention")
    if (near.values.get("rope_type"), far.values.get("rope_type")) != ("default", "proportional"):
        raise UnsupportedError("config.json: rope_parameters of other types than Gemma 4's are not supported")
    keys: dict[str, object] = {
        "rope.freq_base": far.real("rope_theta", 1e6),
        "rope.freq_base_swa": near.real("rope_theta", 1e4),
        "rope.dimension_count": full.head_dim,
        "rope.dimension_count_swa": window.head_dim,
    }
    return _used({"W": window, "F": full}, letters), letters, keys


_LAYOUTS: Mapping[str, Callable[[Config, HfFamily, int], Mixers]] = {
    "grouped": _grouped,
    "latent": _latent,
    "windowed": _windowed,
    "chunked": _chunked,
    "deltanet": _deltanet,
    "gemma4": _gemma4,
}


def _letters(c: Config, known: Mapping[object, str], pattern: str, n_layers: int) -> str:
    """From `layer_types`, or without it from the pattern."""
    types = c.entries("layer_types")
    if not types:
        return (pattern * n_layers)[:n_layers]
    if len(types) < n_layers or any(each not in known for each in types[:n_layers]):
        raise FormatError(f"config.json: layer_types must be {n_layers} of {', '.join(map(str, known))}")
    return "".join(known[each] for each in types[:n_layers])


def _used(tables: dict[str, MixerSpec], letters: str) -> dict[str, MixerSpec]:
    return {letter: table for letter, table in tables.items() if letter in letters}


# --- feed-forward blocks


def _blocks(c: Config, family: HfFamily, n_layers: int) -> tuple[dict[str, FfnSpec], str]:
    dense = FfnSpec("dense", width=c.whole("intermediate_size_mlp", "intermediate_size", default=0))
    if not c.has(*_EXPERTS):
        return {"D": dense}, "D" * n_layers
    without = _dense_layers(c, family, n_layers)
    letters = "".join("D" if i in without else "E" for i in range(n_layers))
    tables = {"D": dense, "E": _experts(c, family)}
    return {letter: table for letter, table in tables.items() if letter in letters}, letters


def _experts(c: Config, family: HfFamily) -> FfnSpec:
    width = c.whole(family.shared_width, default=0) if family.shared_width else 0
    shared = c.whole(*_SHARED, default=1 if width else family.always_shared)
    return FfnSpec(
        "moe",
        width=c.whole(family.width),
        experts=c.whole(*_EXPERTS),
        used=c.whole(*_USED),
        shared=shared,
        shared_width=width if shared else 0,
        shared_gate=family.shared_gate and shared > 0,
        router_bias=family.router_bias,
        expert_bias=family.expert_bias,
    )


def _dense_layers(c: Config, family: HfFamily, n_layers: int) -> frozenset[int]:
    """Those without experts."""
    if types := c.entries("mlp_layer_types"):
        return frozenset(i for i, each in enumerate(types) if each == "dense")
    if family.layout == "chunked":
        step = c.whole("interleave_moe_layer_step", default=1) or 1
        return frozenset(i for i in range(n_layers) if (i + 1) % step)
    last = c.values.get("moe_layer_end_index")
    if last not in (None, -1, n_layers - 1):
        raise UnsupportedError(f"config.json: moe_layer_end_index = {last!r} is not supported, only the last layer")
    return frozenset(range(min(c.whole(*_LEADING, default=0), n_layers)))
