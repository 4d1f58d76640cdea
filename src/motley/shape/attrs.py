"""The GGUF metadata of a Spec: what a file needs to be run, for every family that Motley runs.

A catalogue file states what costs time and memory; where it says nothing of rotation, norms and scales, the values here
are common ones, for random weights that mean nothing. A config of Hugging Face's says it all, in `Spec.keys`.
"""

from collections.abc import Mapping

from motley.shape.spec import FfnSpec, MixerSpec, Spec

# What a family has beyond plain attention (grouped-query or latent), dense blocks and experts: names of fields.
_FURTHER: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        ("llama", "olmoe", "qwen3", "qwen3moe", "deepseek", "deepseek2", "granitemoe", "hunyuan-moe"), frozenset()
    ),
    "dots1": frozenset({"router_bias"}),
    "minimax-m2": frozenset({"router_bias"}),
    "ernie4_5-moe": frozenset({"router_bias"}),
    "qwen2moe": frozenset({"bias", "shared_gate"}),
    "glm4moe": frozenset({"bias", "router_bias"}),
    "gpt-oss": frozenset({"bias", "sinks", "window", "router_bias", "expert_bias"}),
    "qwen3next": frozenset({"deltanet", "gate", "shared_gate"}),
    "qwen35moe": frozenset({"deltanet", "gate", "shared_gate"}),
    "llama4": frozenset({"window"}),
    "gemma4": frozenset({"window", "v_from_k", "post_norms"}),
}
RUNS = frozenset(_FURTHER)  # GGUF architectures that Motley runs (`models.registry`, which a test compares)
_MIXER_FIELDS = ("window", "gate", "sinks", "v_from_k", "shares_kv", "top_k", "beside", "bias")
_FFN_FIELDS = ("latent", "bias", "expert_bias", "shared_gate", "router_bias")
_SPEC_FIELDS = ("post_norms", "per_layer_embed", "hyper", "hybrid")
_SIGMOID = frozenset({"dots1", "minimax-m2", "glm4moe", "llama4"})  # deepseek2: with a bias on the router
_ALWAYS: Mapping[str, Mapping[str, object]] = {  # which llama.cpp asks for, or takes for something else
    "deepseek": {"expert_weights_scale": 1.0},
    "granitemoe": {"logit_scale": 1.0},
    "glm4moe": {"expert_weights_norm": True},
    "dots1": {"expert_weights_norm": True},
    "ernie4_5-moe": {"interleave_moe_layer_step": 1},
}

LLAMA4_CHUNK = 8192  # which its files do not state

Keys = dict[str, object]


def attrs_of(spec: Spec) -> Mapping[str, object]:
    """Every `<architecture>.*` key that the family reads; empty where Motley can't run the model."""
    if not _runs(spec):
        return {}
    m, f, dense = spec.main, spec.moe, _dense(spec)
    d_dense = dense.width if dense else spec.d_dense or (f.width if f else 0)
    keys: Keys = {
        "block_count": spec.n_layers,
        "context_length": spec.context,
        "embedding_length": spec.d_model,
        "feed_forward_length": d_dense,
        "attention.head_count": m.heads,
        "attention.head_count_kv": m.kv_heads or 1,
        "attention.layer_norm_rms_epsilon": spec.rms_eps or 1e-6,
        "rope.freq_base": spec.rope_theta or 1e4,
        "vocab_size": spec.vocab_size,
        **(_latent(m) if m.kind == "mla" else _grouped(m)),
        **(_experts(spec, f) if f else {}),
        **_of_layers(spec),
        **spec.keys,
    }
    return {f"{spec.architecture}.{key}": value for key, value in keys.items()}


# --- whether the family computes it


def _runs(spec: Spec) -> bool:
    known = _FURTHER.get(spec.architecture)
    if known is None or any(m is None for m in map(spec.mixer_of, range(spec.n_layers))):
        return False
    mixers = [spec.mixer[letter] for letter in dict.fromkeys(spec.mixer_letters)]
    ffns = [spec.ffn[letter] for letter in dict.fromkeys(spec.ffn_letters) if letter in spec.ffn]
    has = {m.kind for m in mixers} - {"attention", "mla"}
    has |= {name for m in mixers for name in _MIXER_FIELDS if getattr(m, name)}
    has |= {name for f in ffns for name in _FFN_FIELDS if getattr(f, name)}
    has |= {name for name in _SPEC_FIELDS if getattr(spec, name)}
    if spec.architecture == "deepseek2":
        has -= {"router_bias"}  # V3's way of scoring
    return has <= known and all(f.gated for f in ffns) and _layers_fit(spec) and _kinds_fit(spec)


def _kinds_fit(spec: Spec) -> bool:
    """Latent attention is deepseek2's alone; Gemma 4 runs with experts only."""
    latent = {m.kind == "mla" for m in map(spec.mixer_of, range(spec.n_layers)) if m}
    if spec.architecture == "gemma4":
        return latent == {False} and "E" in spec.ffn_letters and _dense(spec) is None
    return latent == {spec.architecture == "deepseek2"}


def _layers_fit(spec: Spec) -> bool:
    """Where files do not state a pattern: that it is the family's."""
    layers = range(spec.n_layers)
    dense = [i for i in layers if (f := spec.ffn_of(i)) and f.kind == "dense"]
    step = _step(spec)
    wanted = [i for i in layers if (i + 1) % step] if step else list(range(len(dense)))
    windows = {i for i in layers if (m := spec.mixer_of(i)) and m.window}
    if spec.architecture == "gpt-oss":
        return dense == wanted and windows == set(layers[::2])
    if spec.architecture == "llama4":
        return dense == wanted and windows == {i for i in layers if (i + 1) % 4}
    return dense == wanted


def _step(spec: Spec) -> int:
    """Llama 4: every how many layers there are experts; 0: of other families."""
    first = spec.ffn_letters.find("E") if spec.architecture == "llama4" else -1
    return first + 1


def _dense(spec: Spec) -> FfnSpec | None:
    return next((f for f in map(spec.ffn.get, spec.ffn_letters) if f and f.kind == "dense"), None)


# --- the keys


def _grouped(m: MixerSpec) -> Keys:
    return {
        "attention.key_length": m.head_dim,
        "attention.value_length": m.value_dim,
        "rope.dimension_count": m.head_dim,
    }


def _latent(m: MixerSpec) -> Keys:
    """The first two as converters write them: of the one key/value head that all heads share."""
    keys: Keys = {
        "attention.key_length": m.kv_lora_rank + m.rope_dim,
        "attention.value_length": m.kv_lora_rank,
        "attention.key_length_mla": m.head_dim + m.rope_dim,
        "attention.value_length_mla": m.value_dim,
        "attention.kv_lora_rank": m.kv_lora_rank,
        "rope.dimension_count": m.rope_dim,
    }
    return keys | ({"attention.q_lora_rank": m.q_lora_rank} if m.q_lora_rank else {})


def _experts(spec: Spec, f: FfnSpec) -> Keys:
    sigmoid = spec.architecture in _SIGMOID or (spec.architecture == "deepseek2" and f.router_bias)
    keys: Keys = {
        "expert_count": f.experts,
        "expert_used_count": f.used,
        "expert_feed_forward_length": f.width,
        "expert_gating_func": 2 if sigmoid else 1,
    }
    keys |= _ALWAYS.get(spec.architecture, {})
    if step := _step(spec):
        keys["interleave_moe_layer_step"] = step
    elif n_dense := sum(spec.ffn_of(i) is _dense(spec) for i in range(spec.n_layers)) if _dense(spec) else 0:
        keys["leading_dense_block_count"] = n_dense
    if f.d_shared and spec.architecture == "gemma4":  # a dense block, beside the experts
        keys["feed_forward_length"] = f.d_shared
    elif f.d_shared:
        keys |= {"expert_shared_count": f.shared, "expert_shared_feed_forward_length": f.d_shared}
    return keys


def _of_layers(spec: Spec) -> Keys:
    """What tells the layers' mixers apart."""
    mixers = [m for m in map(spec.mixer_of, range(spec.n_layers)) if m]
    rule = next((m for m in mixers if m.kind == "deltanet"), None)
    window = next((m for m in mixers if m.window), None)
    if rule:
        return {
            "ssm.conv_kernel": rule.conv,
            "ssm.state_size": rule.k_dim,
            "ssm.group_count": rule.k_heads,
            "ssm.time_step_rank": rule.v_heads,
            "ssm.inner_size": rule.v_heads * rule.v_dim,
            "attention.recurrent_layers": [m.kind == "deltanet" for m in mixers],
            "full_attention_interval": 1 + spec.mixer_letters.find(_letter_of(spec, spec.main)),
        } | ({"rope.dimension_sections": [11, 11, 10, 0]} if spec.architecture == "qwen35moe" else {})
    if spec.architecture == "gpt-oss" and window:
        return {"attention.sliding_window": window.window}
    if spec.architecture == "llama4" and window and window.window != LLAMA4_CHUNK:
        return {"attention.sliding_window": window.window}
    if spec.architecture == "gemma4" and window:
        return {
            "attention.head_count_kv": [m.kv_heads for m in mixers],
            "attention.sliding_window": window.window,
            "attention.sliding_window_pattern": [bool(m.window) for m in mixers],
            "attention.key_length_swa": window.head_dim,
            "attention.value_length_swa": window.value_dim,
            "rope.dimension_count_swa": window.head_dim,
            "rope.freq_base_swa": 1e4,
            "attention.shared_kv_layers": 0,
            "embedding_length_per_layer_input": 0,
        }
    return {}


def _letter_of(spec: Spec, mixer: MixerSpec) -> str:
    return next(letter for letter, m in spec.mixer.items() if m is mixer)
