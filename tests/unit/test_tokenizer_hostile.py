"""Corrupt and unknown vocabularies: one error that names the key. Odd but sound ones: as llama.cpp reads them."""

import time
from typing import Any

import pytest
from golden_vocabularies import golden, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from motley.errors import FormatError, MotleyError, UnsupportedError, UsageError
from motley.formats.bytelevel import BYTE_OF
from motley.formats.pretokenizers import PRE_TOKENIZERS
from motley.formats.prompt import written
from motley.formats.tokenizer import Tokenizer

G = "tokenizer.ggml."
BYTES = sorted(BYTE_OF)


def byte_level(**more: Any) -> dict[str, Any]:
    tokens = [*BYTES, "he", "ll", "hell", "<|end|>", "<b>"]
    made = {
        G + "model": "gpt2",
        G + "pre": "gpt-2",
        G + "tokens": tokens,
        G + "token_type": [1] * (len(tokens) - 2) + [3, 4],
        G + "merges": ["h e", "l l", "he ll"],
        G + "bos_token_id": 259,
        G + "eos_token_id": 259,
    }
    return made | {G + key: value for key, value in more.items()}


def sentence_piece(**more: Any) -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b", "ab", "▁a"]
    made = {
        G + "model": "llama",
        G + "tokens": tokens,
        G + "scores": [0.0] * 259 + [-1.0, -2.0, -3.0, -4.0, -5.0],
        G + "token_type": [2, 3, 3] + [6] * 256 + [1] * 5,
    }
    return made | {G + key: value for key, value in more.items()}


def without(metadata: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in metadata.items() if k != G + key}


def texts(metadata: dict[str, Any], text: str, special: bool = False) -> list[str]:
    made = Tokenizer.from_metadata(metadata)
    return [made.token_text(id) for id in made.encode(text, special)]


def test_the_small_ones_are_sound() -> None:
    assert texts(byte_level(), "hello<b><|end|>") == ["hell", "o", "<b>", *"<|end|>"]
    assert texts(byte_level(), "hello<b><|end|>", special=True) == ["hell", "o", "<b>", "<|end|>"]
    assert texts(sentence_piece(), "ab é") == ["▁", "ab", "▁", "<0xC3>", "<0xA9>"]
    assert texts(sentence_piece(add_space_prefix=False), "ab") == ["ab"]
    assert texts(sentence_piece(), "a</s>a", special=True) == ["▁a", "</s>", "▁a"]


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("model", without(byte_level(), "model")),
    ("model", byte_level(model=3)),
    ("pre", byte_level(pre=["gpt-2"])),
    ("tokens", without(byte_level(), "tokens")),
    ("tokens", byte_level(tokens=10**9)),
    ("tokens", byte_level(tokens="abc")),
    ("tokens", byte_level(tokens=[])),
    ("tokens[0]", byte_level(tokens=[1, 2])),
    ("tokens[1]", byte_level(tokens=["a", b"b"])),
    ("tokens[1]", byte_level(tokens=["a", "a"])),
    ("tokens[1]", byte_level(tokens=["a", "b" * 5000])),
    ("tokens[1]", byte_level(tokens=["a", "\udc80"])),
    ("token_type", byte_level(token_type=[1])),
    ("token_type", byte_level(token_type=10**9)),
    ("token_type", byte_level(token_type=["1"] * 261)),
    ("merges", without(byte_level(), "merges")),
    ("merges", byte_level(merges="h e")),
    ("merges[0]", byte_level(merges=["he"])),
    ("merges[0]", byte_level(merges=[" e"])),
    ("merges[0]", byte_level(merges=["h "])),
    ("merges[0]", byte_level(merges=[""])),
    ("merges[1]", byte_level(merges=["h e", "l o"])),
    ("merges[0]", byte_level(merges=["xx e"])),
    ("merges[0]", byte_level(merges=[("h", "e")])),
    ("bos_token_id", byte_level(bos_token_id=261)),
    ("eos_token_id", byte_level(eos_token_id=-1)),
    ("eos_token_id", byte_level(eos_token_id=2**32 - 1)),
    ("eot_token_id", byte_level(eot_token_id=10**9)),
    ("eot_token_id", byte_level(eot_token_id="1")),
    ("bos_token_id", byte_level(bos_token_id=True)),
    ("unknown_token_id", byte_level(unknown_token_id=1.0)),
    ("add_bos_token", byte_level(add_bos_token=1)),
    ("add_space_prefix", sentence_piece(add_space_prefix="no")),
    ("scores", without(sentence_piece(), "scores")),
    ("scores", sentence_piece(scores=[0.0])),
    ("scores[3]", sentence_piece(scores=[0.0] * 3 + [float("nan")] + [0.0] * 260)),
    ("scores[0]", sentence_piece(scores=[float("-inf")] + [0.0] * 263)),
    ("scores[0]", sentence_piece(scores=["0"] * 264)),
    ("tokens[259]", sentence_piece(token_type=[2, 3, 3] + [6] * 261)),
]


@pytest.mark.parametrize(("key", "metadata"), WRONG, ids=[f"{i}-{key}" for i, (key, _) in enumerate(WRONG)])
def test_corrupt_metadata_names_the_key(key: str, metadata: dict[str, Any]) -> None:
    with pytest.raises(FormatError) as caught:
        Tokenizer.from_metadata(metadata)
    assert G + key in str(caught.value)
    assert not isinstance(caught.value, UnsupportedError)
    assert len(str(caught.value)) < 300


def test_unknown_kinds_list_the_known() -> None:
    with pytest.raises(UnsupportedError, match=r"'bert'.*gpt2, llama"):
        Tokenizer.from_metadata(byte_level(model="bert"))
    with pytest.raises(UnsupportedError, match=r"'new'.*olmo.*qwen2"):
        Tokenizer.from_metadata(byte_level(pre="new"))


def test_ids_outside_are_a_usage_error() -> None:
    for id in (-1, 261, 10**9):
        with pytest.raises(UsageError, match=r"outside the vocabulary of 261"):
            Tokenizer.from_metadata(byte_level()).decode([id])


def test_defaults() -> None:
    made = Tokenizer.from_metadata(without(without(byte_level(), "bos_token_id"), "eos_token_id"))
    assert made.bos is None
    assert made.eos == {259}  # by its text
    assert not made.add_bos
    made = Tokenizer.from_metadata(sentence_piece())
    assert (made.bos, made.eos, made.add_bos) == (1, {2}, True)
    assert not Tokenizer.from_metadata(sentence_piece(add_bos_token=False)).add_bos
    assert Tokenizer.from_metadata(byte_level(add_bos_token=True)).encode_prompt("h")[0] == 259
    assert Tokenizer.from_metadata(byte_level(pre="llama-bpe")).add_bos
    assert texts(without(byte_level(), "pre"), "hello") == ["hell", "o"]


def test_every_pre_tokenizer_builds() -> None:
    for name in [name for name, pre in PRE_TOKENIZERS.items() if pre.spelled]:
        assert Tokenizer.from_metadata(byte_level(pre=name)).decode(range(256)) != ""


def plain_bpe(**more: Any) -> dict[str, Any]:
    tokens = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "▁a", "\n", "\n\n", "<|turn>", "</s>"]
    made = {
        G + "model": "gemma4",
        G + "tokens": tokens,
        G + "token_type": [2] + [6] * 256 + [1] * 5 + [3, 1],
        G + "merges": ["▁ a", "\n \n"],
        G + "unknown_token_id": 0,
        G + "bos_token_id": 262,
    }
    return made | {G + key: value for key, value in more.items()}


def test_plain_bpe() -> None:
    assert texts(plain_bpe(), " aa\n\n\né<|turn>") == [
        *("▁a", "a", "\n\n", "\n", "<0xC3>", "<0xA9>"),
        *(f"<0x{byte:02X}>" for byte in b"<|turn>"),
    ]
    assert texts(plain_bpe(), "a<|turn>a", special=True) == ["a", "<|turn>", "a"]
    made = Tokenizer.from_metadata(plain_bpe())
    assert made.add_bos
    assert made.decode(made.encode(" a  é\0<0x0A>🙂")) == " a  é\0<0x0A>🙂"
    with pytest.raises(FormatError, match="unknown token or all of"):
        Tokenizer.from_metadata(
            without(plain_bpe(tokens=["<0x00>"], token_type=[6], merges=[]), "unknown_token_id")
            | {G + "bos_token_id": 0}
        )


def test_what_ends_a_generation_depends_on_the_company() -> None:
    def ends(*marks: str, **more: Any) -> set[str]:
        tokens = [*BYTES, *marks]
        metadata = byte_level(tokens=tokens, token_type=[1] * 256 + [3] * len(marks), merges=[], **more)
        made = Tokenizer.from_metadata(without(without(metadata, "bos_token_id"), "eos_token_id"))
        return {made.token_text(id) for id in made.eos}

    assert ends("<|end|>", "<|user|>") == {"<|end|>"}  # Phi
    assert ends("<|end|>", "<|return|>", "<|call|>") == {"<|return|>", "<|call|>"}  # gpt-oss: more messages may follow
    assert ends("</s>", "<s>") == {"</s>"}
    assert ends("</s>", "<|tool_response>", "<turn|>") == {"<|tool_response>", "<turn|>"}  # Gemma 4's is HTML


def test_ignore_merges_takes_a_word_whole() -> None:
    tokens = [*BYTES, "he", "hello"]
    more = {"tokens": tokens, "token_type": [1] * 258, "merges": ["h e"], "bos_token_id": 0, "eos_token_id": 0}
    assert texts(byte_level(pre="llama-bpe", **more), "hello") == ["hello"]
    assert texts(byte_level(pre="dbrx", **more), "hello") == ["he", "l", "l", "o"]


def test_a_merge_never_makes_a_control_token() -> None:
    tokens = [*BYTES, "<s", "<s>"]
    more = {"tokens": tokens, "token_type": [1] * 257 + [3], "merges": ["< s", "<s >"]}
    metadata = byte_level(**more, bos_token_id=257, eos_token_id=257)
    assert texts(metadata, "<s>") == ["<", "s", ">"]  # the pattern parts them anyway
    assert texts(metadata, "<s>", special=True) == ["<s>"]
    tokens = [*sentence_piece()[G + "tokens"], "<", "s", ">", "<s"]
    scored = sentence_piece(tokens=tokens, scores=[0.0] * 268, token_type=[2, 3, 3] + [6] * 256 + [1] * 9)
    assert texts(scored, "<s>") == ["▁", "<s", ">"]


def test_a_missing_byte_is_said_not_dropped() -> None:
    tokens = [t for t in BYTES if t != "z"]
    metadata = byte_level(tokens=tokens, token_type=[1] * 255, merges=[], bos_token_id=0, eos_token_id=0)
    assert texts(metadata, "ay") == ["a", "y"]
    with pytest.raises(UsageError, match="no token for byte 0x7A"):
        Tokenizer.from_metadata(metadata).encode("az")


def test_without_byte_tokens_the_unknown_token_stands_in() -> None:
    tokens = ["<unk>", "<s>", "</s>", "▁", "a"]
    metadata = sentence_piece(tokens=tokens, scores=[0.0] * 5, token_type=[2, 3, 3, 1, 1])
    assert texts(metadata, "aéa") == ["▁", "a", "<unk>", "a"]


def test_characters_outside_the_vocabulary_take_part_in_merges() -> None:
    """As in llama.cpp: 'é' is no token, 'aé' is."""
    base = sentence_piece()
    metadata = sentence_piece(
        tokens=[*base[G + "tokens"], "aé"],
        scores=[*base[G + "scores"], -0.5],
        token_type=[*base[G + "token_type"], 1],
    )
    assert texts(metadata, "aéb") == ["▁", "aé", "b"]


def test_equal_scores_merge_leftmost_first() -> None:
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "ba"]
    metadata = sentence_piece(
        tokens=tokens, scores=[0.0] * 3 + [-1.0] * 5, token_type=[2, 3, 3] + [1] * 5, add_space_prefix=False
    )
    assert texts(metadata, "abab") == ["ab", "ab"]
    assert texts(metadata, "baba") == ["ba", "ba"]
    assert texts(metadata, "aba") == ["ab", "a"]


@pytest.mark.parametrize("name", ["qwen2", "llama-bpe", "gpt-4o", "deepseek-llm", "kimi-k2", "gemma4", "spm-bpe"])
def test_long_words_take_no_forever(name: str) -> None:
    ours = tokenizer(name)
    for text in ("a" * 50_000, "ab " * 15_000, " " * 50_000, "é" * 15_000, "\n" * 50_000, "<|im_" * 10_000):
        start = time.process_time()
        assert ours.decode(ours.encode(written(text), special=True)) == text
        assert time.process_time() - start < 20


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**33), 2**33),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.one_of(st.integers(-3, 10**9), st.text(max_size=4), st.floats(), st.none()), max_size=6),
)
KEYS = ["model", "pre", "tokens", "scores", "token_type", "merges", "bos_token_id", "eos_token_id", "eot_token_id"]
KEYS += ["unknown_token_id", "add_bos_token", "add_space_prefix"]


@given(
    st.sampled_from(["olmo", "llama-bpe", "spm-bpe", "small", "small-spm"]),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 3000), VALUES), max_size=3),
    st.text(max_size=20),
)
@settings(max_examples=500, deadline=None)
def test_any_metadata_is_a_tokenizer_or_one_error(
    name: str, replaced: dict[str, Any], entries: list[tuple[str, int, Any]], text: str
) -> None:
    small = {"small": byte_level, "small-spm": sentence_piece}
    metadata = dict(small[name]() if name in small else golden(name)["metadata"])
    metadata |= {G + key: value for key, value in replaced.items()}
    for key, index, value in entries:
        if isinstance(metadata.get(G + key), list) and metadata[G + key]:
            changed = list(metadata[G + key])
            changed[index % len(changed)] = value
            metadata[G + key] = changed
    try:
        made = Tokenizer.from_metadata(metadata)
        made.decode(made.encode(text))
        made.encode(text, special=True)
        for id in range(made.vocab_size):
            made.token_bytes(id)
        said = ""
    except MotleyError as error:
        said = str(error)
    assert "\n" not in said
