"""Shapes against published totals, and against sums done by hand."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.errors import FormatError, UnsupportedError, UsageError
from motley.shape.catalogue import lookup, names
from motley.shape.mix import MIXES
from motley.shape.model import ModelShape, Role
from motley.shape.quant import Quant

OLMOE = {
    "architectures": ["OlmoeForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "vocab_size": 50304,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "clip_qkv": None,
    "norm_topk_prob": False,
}
QWEN = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "sliding_window": None,
}


@pytest.mark.parametrize("name", [n for n in names() if lookup(n).published_params])
def test_totals_equal_the_published_ones(name: str) -> None:
    shape, spec = ModelShape.named(name), lookup(name)
    total = shape.n_params + (shape.n_mtp_params if spec.published_with_mtp else 0)
    assert total == pytest.approx(spec.published_params, rel=1e-2)
    if spec.published_active_params:
        active = shape.active_params(without=spec.published_active_excludes)
        assert active == pytest.approx(spec.published_active_params, rel=spec.active_tolerance)


def test_the_catalogue_has_the_models_of_the_foundation() -> None:
    assert {"olmoe-1b-7b", "qwen3-30b-a3b", "mixtral-8x7b", "motley-8m"} <= set(names())
    assert all(ModelShape.named(n).source for n in names())


def test_olmoe_bytes_by_hand() -> None:
    shape = ModelShape.named("olmoe-1b-7b", "q4_k")
    expert = 3 * 2048 * 1024 * 144 // 256
    attention = 4 * 2048 * 2048 * 144 // 256
    router, norms = 64 * 2048 * 4, 4 * 2048 * 4  # q and k norm over the whole width
    assert shape.expert_bytes(0) == expert == 3_538_944
    assert shape.home_bytes(5) == attention + router + norms
    head = 50304 * 2048 // 256 * 210 + 2048 * 4
    assert shape.head_bytes == head
    assert shape.embed_bytes == 50304 * 2048 // 256 * 144
    assert shape.n_bytes == 16 * (64 * expert + attention + router + norms) + head + shape.embed_bytes
    row = 2048 * 144 // 256
    assert shape.active_bytes_per_token() == 16 * (8 * expert + attention + router + norms) + head + row
    assert shape.kv_bytes_per_token() == 16 * 2 * 16 * 128 * 2


def test_flops_by_hand() -> None:
    shape = ModelShape.named("mixtral-8x7b", "f16")
    layer = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 8 * 4096 + 2 * 3 * 14336 * 4096
    assert shape.flops_per_token(0) == 2 * (32 * layer + 32000 * 4096 + 32 * 2 * 4096)
    assert shape.flops_per_token(1000) - shape.flops_per_token(0) == 1000 * 32 * 4 * 4096


def test_distinct_experts_by_hand() -> None:
    shape = ModelShape.named("mixtral-8x7b")
    assert shape.distinct_experts(1) == pytest.approx(2)
    assert shape.distinct_experts(2) == pytest.approx(2 + 2 * 6 / 8)
    assert shape.distinct_experts(1000) == pytest.approx(8)


@given(batch=st.integers(1, 500), name=st.sampled_from(names()), quant=st.sampled_from(MIXES))
def test_a_batch_reads_between_one_token_and_the_whole_model(batch: int, name: str, quant: str) -> None:
    shape = ModelShape.named(name, quant).with_layers(2)
    one, many = shape.step_bytes(1), shape.step_bytes(batch)
    assert one <= many * (1 + 1e-12)
    table = 0 if shape.has_tied_head else shape.embed_bytes  # a tied head reads the whole table, as the head
    whole = shape.n_bytes - table + batch * shape.embed_bytes / shape.vocab_size
    assert many <= whole * (1 + 1e-12)
    assert shape.active_bytes_per_token(batch) <= one * (1 + 1e-12)


@pytest.mark.parametrize(
    ("config", "name"), [(OLMOE, "olmoe-1b-7b"), (QWEN, "qwen3-30b-a3b"), (MIXTRAL, "mixtral-8x7b")]
)
def test_hf_config_gives_the_catalogue_shape(config: dict[str, object], name: str) -> None:
    from_config, from_catalogue = ModelShape.from_hf_config(json.loads(json.dumps(config))), ModelShape.named(name)
    assert from_config.tensors == from_catalogue.tensors
    said = {"qwen3moe.expert_weights_norm": True} if config is QWEN else {}  # by a config only
    assert from_config.attrs == {**from_catalogue.attrs, **said}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"clip_qkv": 8.0}, "clip_qkv"),
        ({"norm_topk_prob": True}, "norm_topk_prob"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 4}}, "longrope"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "attention_factor": 0.5}}, "scales attention"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "truncate": False}}, "truncate"),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"attention_bias": True}, "attention_bias"),
    ],
)
def test_unsupported_mathematics_is_refused_by_name(change: dict[str, object], says: str) -> None:
    with pytest.raises(UnsupportedError, match=says):
        ModelShape.from_hf_config({**OLMOE, **change})


@pytest.mark.parametrize(
    "change", [{"vocab_size": None}, {"hidden_size": "2048"}, {"architectures": None}, {"rms_norm_eps": "x"}]
)
def test_a_misshapen_config_is_a_format_error(change: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        ModelShape.from_hf_config({**OLMOE, **change})


def test_a_config_of_zeros_is_refused_not_divided_by() -> None:
    with pytest.raises((UsageError, FormatError)):
        ModelShape.from_hf_config({**OLMOE, "num_attention_heads": 0})


def test_new_style_rope_parameters() -> None:
    config = {k: v for k, v in OLMOE.items() if k not in ("rope_theta", "rope_scaling")}
    shape = ModelShape.from_hf_config({**config, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})
    assert shape.attrs["olmoe.rope.freq_base"] == 5e5


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(UsageError, match="olmoe-1b-7b"):
        ModelShape.named("olmo-1b")
    with pytest.raises(UsageError, match="lists them"):
        ModelShape.named("zzz")
    with pytest.raises(UnsupportedError, match="q3_k_m"):
        ModelShape.named("olmoe-1b-7b", "q3_k")


def test_norms_and_router_stay_float() -> None:
    for t in ModelShape.named("qwen3-30b-a3b", "q4_0").tensors:
        assert (t.quant is Quant.F32) == (t.role in (Role.NORM, Role.ROUTER))


def test_q4_k_m_lifts_half_of_the_down_projections() -> None:
    shape = ModelShape.named("qwen3-30b-a3b", "q4_k_m")
    down = [t.quant for t in shape.tensors if "ffn_down_exps" in t.name]
    lifted = [i for i, q in enumerate(down) if q is Quant.Q6_K]
    assert lifted == [*range(6), *range(8, 42, 3), *range(42, 48)]  # by hand from the rule
    assert len(down) == 48
    values = [t.quant for t in shape.tensors if ".attn_v." in t.name]
    assert values == down


def test_q4_k_m_of_an_eight_expert_model_lifts_attention() -> None:
    quants = {t.name: t.quant for t in ModelShape.named("mixtral-8x7b", "q4_k_m").tensors}
    assert quants["blk.10.attn_v.weight"] is Quant.Q8_0
    assert quants["blk.10.attn_k.weight"] is Quant.Q8_0
    assert quants["blk.10.attn_output.weight"] is Quant.Q5_K
    assert quants["blk.10.attn_q.weight"] is Quant.Q4_K


def test_mxfp4_is_the_experts_alone() -> None:
    shape = ModelShape.named("olmoe-1b-7b", "mxfp4")
    for t in shape.tensors:
        matrix = Quant.MXFP4 if t.role is Role.EXPERT else Quant.Q8_0
        assert t.quant is (Quant.F32 if t.role in (Role.NORM, Role.ROUTER) else matrix)
    assert shape.expert_bytes(0) == 3 * 2048 * 1024 * 4.25 / 8  # four bits, and eight of scale for 32 weights


def test_rows_that_do_not_fill_blocks_fall_back() -> None:
    quants = {t.name: t.quant for t in ModelShape.named("motley-8m", "q4_k").tensors}
    assert quants["blk.0.ffn_down_exps.weight"] is Quant.Q8_0  # rows of 64
    assert quants["blk.0.ffn_up_exps.weight"] is Quant.Q4_K


@given(st.integers(1, 15))
def test_cutting_layers(n: int) -> None:
    whole = ModelShape.named("olmoe-1b-7b")
    cut = whole.with_layers(n)
    layer = (whole.n_bytes - whole.embed_bytes - whole.head_bytes) // 16
    assert whole.n_bytes - cut.n_bytes == (16 - n) * layer
    assert cut.attrs["olmoe.block_count"] == n == cut.n_layers
    assert cut.name != whole.name


@pytest.mark.parametrize("n", [0, -1, 17])
def test_cutting_to_impossible_depths(n: int) -> None:
    with pytest.raises(UsageError, match="16 layers"):
        ModelShape.named("olmoe-1b-7b").with_layers(n)


def test_a_tied_head_reads_the_embedding() -> None:
    tied = ModelShape.from_hf_config({**OLMOE, "tie_word_embeddings": True})
    assert tied.has_tied_head
    assert not any(t.name == "output.weight" for t in tied.tensors)
    assert tied.head_bytes == tied.embed_bytes + 2048 * 4
    assert tied.flops_per_token() == ModelShape.from_hf_config(OLMOE).flops_per_token()
