"""What a Hugging Face config leaves unsaid of its family, one entry per model class, as transformers' class has it.

`hf` reads a config with these facts. A key whose value changes the mathematics, and of which Motley computes only some
values, is named under `needs`: anything else is refused, never ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Needs = dict[str, tuple[object, ...]]  # key -> what Motley computes; the first is meant where the key is absent


@dataclass(frozen=True)
class HfFamily:
    architecture: str  # GGUF's
    needs: Needs = field(default_factory=dict)
    theta: float = 1e4  # where no key says
    tied: bool = False
    layout: str = "grouped"  # of mixers: a function of `hf`
    qk_norm: str = ""
    qk_norm_if: str = ""  # only where this key is true
    bias: str = ""
    bias_if: str = ""
    sinks: bool = False
    width: str = "moe_intermediate_size"  # the key of an expert's width
    shared_width: str = ""  # the key of all shared experts' width together
    always_shared: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    expert_bias: bool = False
    truncated_yarn: bool = True  # YaRN's borders are rounded to whole pairs
    keys: Mapping[str, str] = field(default_factory=dict)  # GGUF key -> the config's; where absent: `needs`, or none


_SILU: Needs = {"hidden_act": ("silu",)}
_PLAIN: Needs = _SILU | {"attention_bias": (False,)}
_QWEN: Needs = {"use_sliding_window": (False,), "decoder_sparse_step": (1,), "mlp_only_layers": (None, [])} | _SILU
_GROUPS = {"expert_group_count": "n_group", "expert_group_used_count": "topk_group"}
_SCALED = {"expert_weights_scale": "routed_scaling_factor", "expert_weights_norm": "norm_topk_prob"}

_LLAMA = HfFamily("llama", _PLAIN | {"mlp_bias": (False,), "sliding_window": (None,)})
_DEEPSEEK3 = HfFamily(
    "deepseek2",
    _PLAIN
    | {
        "topk_method": ("noaux_tc",),
        "scoring_func": ("sigmoid",),
        "norm_topk_prob": (True, False),
        "moe_layer_freq": (1,),
        "rope_interleave": (True,),
    },
    layout="latent",
    router_bias=True,
    keys=_GROUPS | _SCALED,
)
_DELTANET = HfFamily(
    "qwen3next",
    _PLAIN | _QWEN | {"norm_topk_prob": (True,), "attn_output_gate": (True,)},
    layout="deltanet",
    qk_norm="head",
    shared_width="shared_expert_intermediate_size",
    shared_gate=True,
)
_GRANITE = HfFamily(
    "granitemoe",
    _PLAIN,
    width="intermediate_size",
    shared_width="shared_intermediate_size",
    keys={
        "attention.scale": "attention_multiplier",
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling",
    },
)
_LLAMA4 = HfFamily(
    "llama4",
    _PLAIN | {"attn_temperature_tuning": (True, 4), "attn_scale": (0.1,)},
    theta=5e5,
    layout="chunked",
    width="intermediate_size",
    always_shared=1,
)
_GEMMA4 = HfFamily(
    "gemma4",
    {
        "hidden_activation": ("gelu_pytorch_tanh",),
        "attention_bias": (False,),
        "enable_moe_block": (True,),
        "hidden_size_per_layer_input": (0, None),
        "num_kv_shared_layers": (0,),
        "use_double_wide_mlp": (False,),
        "use_bidirectional_attention": (None, False, "vision"),  # of images' tokens only
    },
    tied=True,
    layout="gemma4",
    qk_norm="head",
    always_shared=1,
    shared_width="intermediate_size",
    keys={"final_logit_softcapping": "final_logit_softcapping"},
)

HF_FAMILIES: Mapping[str, HfFamily] = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "MixtralForCausalLM": replace(
        _LLAMA, needs=_SILU | {"sliding_window": (None,)}, theta=1e6, width="intermediate_size"
    ),
    "OlmoeForCausalLM": HfFamily(
        "olmoe",
        _PLAIN | {"clip_qkv": (None,), "norm_topk_prob": (False,)},
        qk_norm="full",
        width="intermediate_size",
    ),
    "Qwen2MoeForCausalLM": HfFamily(
        "qwen2moe",
        _QWEN | {"norm_topk_prob": (False,), "qkv_bias": (True,)},
        bias="qkv",
        shared_width="shared_expert_intermediate_size",
        shared_gate=True,
    ),
    "Qwen3ForCausalLM": HfFamily("qwen3", _PLAIN | {"use_sliding_window": (False,)}, qk_norm="head"),
    "Qwen3MoeForCausalLM": HfFamily(
        "qwen3moe",
        _PLAIN | _QWEN | {"norm_topk_prob": (False, True)},
        qk_norm="head",
        keys={"expert_weights_norm": "norm_topk_prob"},
    ),
    "Qwen3NextForCausalLM": _DELTANET,
    "Qwen3_5MoeForCausalLM": replace(_DELTANET, architecture="qwen35moe"),
    "Qwen3_5MoeForConditionalGeneration": replace(_DELTANET, architecture="qwen35moe"),
    "DeepseekForCausalLM": HfFamily(
        "deepseek",
        _PLAIN | {"norm_topk_prob": (False,), "scoring_func": ("softmax",), "moe_layer_freq": (1,)},
    ),
    "DeepseekV2ForCausalLM": replace(
        _DEEPSEEK3,
        needs=_PLAIN
        | {
            "topk_method": ("greedy", "group_limited_greedy"),
            "scoring_func": ("softmax",),
            "moe_layer_freq": (1,),
            "norm_topk_prob": (False,),
        },
        router_bias=False,
    ),
    "DeepseekV3ForCausalLM": _DEEPSEEK3,
    "KimiK25ForConditionalGeneration": _DEEPSEEK3,
    "Glm4MoeLiteForCausalLM": _DEEPSEEK3,
    "Glm4MoeForCausalLM": HfFamily(
        "glm4moe",
        _SILU,
        qk_norm="head",
        qk_norm_if="use_qk_norm",
        bias="qkv",
        bias_if="attention_bias",
        router_bias=True,
        keys=_GROUPS | _SCALED,
    ),
    "GptOssForCausalLM": HfFamily(
        "gpt-oss",
        _SILU | {"attention_bias": (True,), "swiglu_limit": (7.0,), "swiglu_alpha": (1.702,)},
        theta=1.5e5,
        layout="windowed",
        bias="all",
        sinks=True,
        width="intermediate_size",
        router_bias=True,
        expert_bias=True,
        truncated_yarn=False,
    ),
    "GraniteMoeForCausalLM": _GRANITE,
    "GraniteMoeSharedForCausalLM": _GRANITE,
    "MiniMaxM2ForCausalLM": HfFamily(
        "minimax-m2",
        _SILU
        | {"scoring_func": ("sigmoid",), "use_qk_norm": (True,), "qk_norm_type": ("per_layer",)}
        | {"use_routing_bias": (True,)},
        theta=5e6,
        qk_norm="full",
        width="intermediate_size",
        router_bias=True,
    ),
    "Llama4ForCausalLM": _LLAMA4,
    "Llama4ForConditionalGeneration": _LLAMA4,
    "Gemma4ForCausalLM": _GEMMA4,
    "Gemma4ForConditionalGeneration": _GEMMA4,
    "Ernie4_5_MoeForCausalLM": HfFamily(
        "ernie4_5-moe",
        _SILU | {"use_bias": (False,), "moe_layer_interval": (1,)},
        theta=5e5,
        tied=True,
        router_bias=True,
    ),
    "Dots1ForCausalLM": HfFamily(
        "dots1",
        _PLAIN | {"scoring_func": ("sigmoid", "noaux_tc"), "norm_topk_prob": (False, True)},
        qk_norm="head",
        router_bias=True,
        keys=_GROUPS | _SCALED,
    ),
    "HunYuanMoEV1ForCausalLM": HfFamily(
        "hunyuan-moe", _PLAIN | {"use_qk_norm": (True,)}, qk_norm="head", shared_width="intermediate_size"
    ),
}
