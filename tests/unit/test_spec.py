"""Catalogue files: patterns of layers, and every mistake refused with the file and the key named."""

import tomllib

import pytest

from motley.errors import UsageError
from motley.shape.dims import dims_of
from motley.shape.model import ModelShape, Role
from motley.shape.reader import read_spec
from motley.shape.spec import expand

GOOD = """
name = "toy"
architecture = "toy"
source = "-"
n_layers = 6
d_model = 64
vocab_size = 100
context = 128
mixers = "L2F"
ffns = "DE5"

[mixer.F]
kind = "attention"
heads = 4
kv_heads = 2
head_dim = 16

[mixer.L]
kind = "deltanet"
k_heads = 2
v_heads = 4
k_dim = 8
v_dim = 8
conv = 4

[ffn.D]
kind = "dense"
width = 128

[ffn.E]
kind = "moe"
experts = 8
used = 2
width = 32
shared = 1
"""


def shape(text: str, quant: str = "f32") -> ModelShape:
    return ModelShape.from_spec(read_spec(tomllib.loads(text), "toy.toml"), quant)


@pytest.mark.parametrize(
    ("pattern", "n", "flat"),
    [
        ("F", 3, "FFF"),
        ("L3F", 8, "LLLFLLLF"),
        ("L3F", 6, "LLLFLL"),
        ("D3E3", 6, "DDDEEE"),
        ("W2(CH)2C", 7, "WWCHCHC"),
        ("(L3F)2F", 9, "LLLFLLLFF"),
        ("M-", 4, "M-M-"),
    ],
)
def test_patterns(pattern: str, n: int, flat: str) -> None:
    assert expand(pattern, n, "x") == flat


@pytest.mark.parametrize("pattern", ["", "f", "F,L", "(F", "((F)2)2", "3F", "F7"])
def test_wrong_patterns(pattern: str) -> None:
    with pytest.raises(UsageError, match="x = "):
        expand(pattern, 6, "x")


def test_layers_of_several_kinds_by_hand() -> None:
    toy = shape(GOOD)
    assert [m.kind for m in toy.mixers] == ["linear", "linear", "full"] * 2
    assert [toy.experts_in(i) for i in range(6)] == [0, 8, 8, 8, 8, 8]
    full = 4 * 16 * 64 * 2 + 2 * 2 * 16 * 64
    linear = (64 + 32 + 8 + 32) * 64 + 64 * 4 + 4 + 4 + 8  # qkv, gate, beta and alpha, out; conv; dt, a, norm
    moe = 8 * 64 + 8 * 3 * 64 * 32 + 3 * 64 * 32
    assert toy.n_params == 2 * full + 4 * linear + 3 * 64 * 128 + 5 * moe + 2 * 100 * 64 + 13 * 64
    assert toy.n_active_params == toy.n_params - 5 * 6 * 3 * 64 * 32
    assert toy.mixers[0].state == 4 * 8 * 8 + 3 * 64


def test_a_layer_may_lack_a_mixer_or_a_block() -> None:
    text = GOOD.replace('mixers = "L2F"\nffns = "DE5"', 'hybrid = "MEM*-E"').replace("[mixer.L]", "[mixer.M]")
    toy = shape(text)
    assert [m.kind for m in toy.mixers] == ["linear", "none", "linear", "full", "none", "none"]
    assert [toy.experts_in(i) for i in range(6)] == [0, 8, 0, 0, 0, 8]
    assert toy.role_bytes(4, Role.DENSE_FFN) > toy.role_bytes(3, Role.DENSE_FFN) == 0


def test_layers_for_further_tokens_are_counted_apart() -> None:
    plain, more = shape(GOOD), shape(GOOD + "\n[mtp]\nlayers = 2\nembeds = true\n")
    assert (more.n_params, more.n_bytes) == (plain.n_params, plain.n_bytes)
    layer = sum(t.n_params for t in plain.tensors if t.layer == 5)
    assert more.n_mtp_params == 2 * (layer + 2 * 64 * 64 + 3 * 64 + 2 * 100 * 64)
    assert more.file_bytes == more.n_bytes + 4 * more.n_mtp_params
    assert more.with_layers(5).mtp == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("d_model = 64", "d_modle = 64", "toy.toml: unknown keys d_modle"),
        ("d_model = 64\n", "", "toy.toml: d_model missing"),
        ("d_model = 64", "d_model = 0", "d_model must be positive"),
        ("d_model = 64", "d_model = -1", "toy.toml: d_model = -1"),
        ("d_model = 64", "d_model = true", "toy.toml: d_model = True"),
        ("d_model = 64", 'd_model = "64"', "toy.toml: d_model = '64'"),
        ("heads = 4\nkv_heads = 2\n", "", r"\[mixer.F\]: attention needs heads"),
        ("heads = 4", "heads = 3", "3 heads do not share 2"),
        ('kind = "deltanet"', 'kind = "delta"', r"\[mixer.L\]: kind = 'delta' is not one of attention, mla"),
        ('kind = "attention"', 'kind = "attention"\ngate = "yes"', r"\[mixer.F\]: gate = 'yes': choose one of"),
        ('kind = "attention"', 'kind = "attention"\ntop_k = 8', "top_k needs index_heads"),
        ('kind = "attention"', 'kind = "attention"\nbeside = "X"', "beside = 'X' is not another mixer"),
        ('kind = "attention"', 'like = "X"', "is like 'X', which is not another"),
        ("used = 2", "used = 9", "uses 9 of only 8 experts"),
        ("experts = 8", "experts = 8\nsparse = true", r"\[ffn.E\]: unknown keys sparse"),
        ('mixers = "L2F"', 'mixers = "L2G"', "the layers name mixer G, but there is no such table"),
        ('mixers = "L2F"', 'mixers = "F"', r"no layer has \[mixer.L\]"),
        ('mixers = "L2F"', 'mixers = "L2F5"', "is 7 layers long, the model has 6"),
        ('ffns = "DE5"', "", "ffns = '' is not a pattern"),
        ("[mixer.F]", "[mixer.full]", "must be named by one capital letter"),
        ('ffns = "DE5"', 'ffns = "DE5"\nhybrid = "MEM*-E"', "stands alone"),
        ('ffns = "DE5"', 'ffns = "DE5"\naliases = "toy"', "aliases = 'toy'"),
        ("shared = 1", 'shared = 1\n[shipped]\nnative = "mystery"', "native = 'mystery' is not a quantisation"),
        ("shared = 1", "shared = 1\n[mtp]\ndepth = 1", r"\[mtp\]: unknown keys depth"),
    ],
)
def test_mistakes(old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError, match=said):
        shape(GOOD.replace(old, new))


def test_only_what_motley_computes_counts_as_running() -> None:
    """A file of a running family with something more to it is another model."""
    text = GOOD.replace('"toy"', '"qwen3moe"').replace(
        'mixers = "L2F"\nffns = "DE5"', "rms_eps = 1e-6\nrope_theta = 1e6"
    )
    text = text.replace(text[text.index("[mixer.L]") : text.index("[ffn.E]")], "").replace("shared = 1", "")
    runs = text.replace("head_dim = 16", 'head_dim = 16\nqk_norm = "head"')
    assert dims_of(read_spec(tomllib.loads(runs), "toy")) is not None
    for changed in (
        text,  # no norm of queries and keys
        runs.replace("head_dim = 16", "head_dim = 16\nwindow = 64"),
        runs.replace("head_dim = 16", 'head_dim = 16\nbias = "qkv"'),
        runs + "shared = 1\n",
        runs + "[mtp]\nlayers = 1\n",
        runs.replace("n_layers = 6", "n_layers = 6\npost_norms = true"),
    ):
        assert dims_of(read_spec(tomllib.loads(changed), "toy")) is None
