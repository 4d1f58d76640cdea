"""What layers keep and read of a sequence, against sums done by hand and against published cache sizes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.errors import UsageError
from motley.shape.catalogue import names
from motley.shape.mixer import BESIDE, Mixer
from motley.shape.model import ModelShape

MIB = 1 << 20


def test_grouped_attention_by_hand() -> None:
    m = Mixer.full(32, 8, 128)
    assert m.elements_kept(1000) == m.elements_read(1000) == 1000 * 2 * 8 * 128
    assert m.bytes_kept(1000) == 2 * m.elements_kept(1000)
    assert m.operations(1000) == 1000 * 4 * 32 * 128  # q.k and p.v, two operations each


def test_a_window_stops_growing() -> None:
    m = Mixer.full(64, 8, 64).windowed(128)
    assert m.elements_kept(100) == 100 * 1024
    assert m.elements_kept(1_000_000) == m.elements_read(1_000_000) == 128 * 1024
    assert m.operations(1_000_000) == 128 * 4 * 64 * 64


def test_latent_attention_by_hand() -> None:
    m = Mixer.latent(128, 512, 64, 128, 128)  # DeepSeek-V3
    assert m.elements_kept(1) == 576
    assert m.operations(10) == 2 * 10 * 128 * (576 + 512)
    assert m.operations(10, prefill=True) == 2 * 10 * 128 * (192 + 128)


def test_an_indexer_reads_all_keys_and_few_entries() -> None:
    m = Mixer.latent(128, 512, 64, 128, 128).indexed(2048, 64, 128)
    assert m.elements_kept(100_000) == 100_000 * (576 + 128)
    assert m.elements_read(100_000) == 2048 * 576 + 100_000 * 128
    assert m.elements_read(1000) == 1000 * (576 + 128)
    assert m.operations(100_000) == 2 * (2048 * 128 * 1088 + 100_000 * 64 * 129)


def test_compressed_entries_beside_a_window() -> None:
    """DeepSeek V4: one entry for four positions, the latest 128 one by one."""
    m = replace(Mixer("sparse", width=512, work=64 * 1024, ratio=4, window=128), top_k=512, index_width=128)
    assert m.elements_kept(40_000) == (10_000 + 128) * 512 + 10_000 * 128
    assert m.elements_read(40_000) == (512 + 128) * 512 + 10_000 * 128


def test_a_state_is_the_same_at_any_depth() -> None:
    m = Mixer.linear(state=1000, state_work=3000)
    assert m.bytes_kept(0) == m.bytes_kept(1_000_000) == 4000
    assert m.bytes_read(5) == 8000  # read and written back
    assert m.operations(5) == m.operations(500) == 6000
    both = Mixer.full(2, 1, 8).beside(m)
    assert both.bytes_kept(10) == 10 * 16 * 2 + 4000


def test_a_cache_that_another_layer_keeps_is_read_all_the_same() -> None:
    m = replace(Mixer.full(2, 1, 8), kept=False)
    assert (m.elements_kept(10), m.elements_read(10)) == (0, 160)


def test_the_sizes_llama_cpp_prints_for_qwen3_6() -> None:
    """Printed at load of Qwen3.6-27B, 131072 cells of Q8_0 (34 bytes for 32 elements): 4352 MiB; recurrent states of 4
    sequences in 65 layers (one of them for MTP): 576 MiB and 22.5 MiB for the convolutions' inputs."""
    shape = ModelShape.named("qwen3.6-27b")
    full = [m for m in shape.mixers if m.kind == "full"]
    linear = [m for m in shape.mixers if m.kind == "linear"]
    assert sum(m.bytes_kept(131072, 34 / 32) for m in full) == 4352 * MIB
    assert 4 * sum(m.bytes_kept(131072) for m in linear) == (576 + 22.5) * MIB


def test_cache_bytes_as_published() -> None:
    """DeepSeek-V3: 70 KB a token (technical report); gpt-oss-20b: half of its layers stop at 128."""
    assert ModelShape.named("deepseek-v3").kv_bytes_per_token() == 61 * 576 * 2
    oss = ModelShape.named("gpt-oss-20b", "mxfp4")
    assert [m.kind for m in oss.mixers[:2]] == ["window", "full"]
    assert sum(m.bytes_kept(8192) for m in oss.mixers) == 12 * (128 + 8192) * 2 * 8 * 64 * 2
    assert sum(oss.kv_kept_bytes(i, 8192) for i in range(24)) == 12 * (128 + BESIDE + 8192) * 2 * 8 * 64 * 2


def test_a_cache_of_another_type() -> None:
    shape = ModelShape.named("gpt-oss-20b", "mxfp4")
    eight, full = shape.with_cache("q8_0"), shape.with_cache("f32")
    for of in (lambda s: s.kv_kept_bytes(0, 9000), lambda s: s.kv_read_bytes(1, 9000), ModelShape.kv_bytes_per_token):
        assert of(eight) * 64 == of(shape) * 34 == of(full) * 17


@given(name=st.sampled_from(names()), depth=st.integers(1, 100_000), more=st.integers(0, 100_000))
def test_nothing_shrinks_with_depth(name: str, depth: int, more: int) -> None:
    shape = ModelShape.named(name, "bf16")
    for layer in {m: i for i, m in enumerate(shape.mixers)}.values():
        m = shape.mixers[layer]
        assert 0 <= shape.kv_kept_bytes(layer, depth) <= shape.kv_kept_bytes(layer, depth + more)
        assert 0 <= shape.kv_read_bytes(layer, depth) <= shape.kv_read_bytes(layer, depth + more)
        assert 0 <= shape.attention_operations(layer, depth) <= shape.attention_operations(layer, depth + more)
        if m.kept:  # a token reads no more of the cache than there is
            assert m.elements_read(depth) <= m.elements_kept(depth) * (1 + 1e-12)


def test_layers_without_experts_have_none() -> None:
    shape = ModelShape.named("deepseek-v3", "q8_0")
    assert [shape.experts_in(i) for i in (0, 2, 3, 60)] == [0, 0, 256, 256]
    assert shape.expert_bytes(0) == 0 < shape.expert_bytes(3)
    dense = ModelShape.named("llama-2-7b", "q8_0")
    assert not any(dense.experts_in(i) for i in range(32))
    assert dense.active_bytes_per_token() == pytest.approx(dense.n_bytes - dense.embed_bytes, rel=1e-4)


def test_mixers_must_match_the_layers() -> None:
    shape = ModelShape.named("olmoe-1b-7b")
    assert shape.mixers == (Mixer.full(16, 16, 128),) * 16
    with pytest.raises(UsageError, match="2 mixers for 16 layers"):
        replace(shape, mixers=shape.mixers[:2])
