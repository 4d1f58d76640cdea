"""Ids, pieces and ends equal llama.cpp's, for every pre-tokenizer and both SentencePiece kinds."""

import pytest
from golden_vocabularies import NAMES, STRINGS, golden, tokenizer

from motley.formats.sentencepiece import merge


def test_the_set_is_hard_enough() -> None:
    assert len(STRINGS) >= 200
    assert {"olmo", "qwen2", "gpt-2", "llama-bpe", "default", "spm-bpe", "spm-unigram"} <= set(NAMES)


@pytest.mark.parametrize("special", [False, True], ids=["plain", "special"])
@pytest.mark.parametrize("name", NAMES)
def test_ids_equal_llama_cpp(name: str, special: bool) -> None:
    expected = golden(name)["special" if special else "plain"]
    mine = [tokenizer(name).encode(text, special) for text in STRINGS]
    differing = [(text, a, b) for text, a, b in zip(STRINGS, mine, expected, strict=True) if a != b]
    assert not differing, f"{len(differing)} of {len(STRINGS)} differ, first {differing[0]}"


@pytest.mark.parametrize("name", NAMES)
def test_pieces_ends_and_bos_equal_llama_cpp(name: str) -> None:
    ours, theirs = tokenizer(name), golden(name)
    assert [ours.token_bytes(id).hex() for id in range(ours.vocab_size)] == theirs["pieces"]
    assert sorted(ours.eos) == theirs["ends"]
    assert ours.add_bos == theirs["add_bos"]


@pytest.mark.parametrize("name", NAMES)
def test_text_comes_back(name: str) -> None:
    ours = tokenizer(name)
    for text in STRINGS:
        if name.startswith("spm"):
            text = text.replace("▁", " ")  # SentencePiece's own space: the one thing it cannot tell apart
        assert ours.decode(ours.encode(text)) == text
        assert ours.decode(ours.encode(text, special=True), special=True) == text


@pytest.mark.parametrize("name", NAMES)
def test_plain_text_never_becomes_a_control_token(name: str) -> None:
    ours = tokenizer(name)
    controls = [id for id in range(ours.vocab_size) if ours.is_control(id)]
    assert controls
    for id in controls:
        text = ours.token_text(id)
        assert ours.encode(text, special=True) == [id]
        assert not any(ours.is_control(i) for i in ours.encode(f"a{text} {text}{text}"))


def test_prompt_begins_with_one_bos() -> None:
    ours = tokenizer("spm-bpe")
    assert ours.add_bos
    assert ours.encode_prompt("Hi") == [ours.bos, *ours.encode("Hi")]
    assert ours.encode_prompt("<s>Hi", special=True) == ours.encode("<s>Hi", special=True)
    assert ours.encode_prompt("") == [ours.bos]
    assert tokenizer("olmo").encode_prompt("Hi") == tokenizer("olmo").encode("Hi")


def test_text_that_goes_on_keeps_its_space() -> None:
    ours = tokenizer("spm-bpe")
    ids = ours.encode("end")
    assert ours.decode(ids) == "end"
    assert ours.decode(ids, continues=True) == " end"


def test_lone_surrogates_become_replacement_characters() -> None:
    for name in NAMES:
        assert tokenizer(name).encode("a\ud800b\udfff") == tokenizer(name).encode("a\ufffdb\ufffd")
        assert tokenizer(name).encode("\ud83d\ude42") == tokenizer(name).encode("🙂")


@pytest.mark.parametrize("name", ["spm-bpe", "spm-unigram"])
def test_the_engine_equals_the_definition(name: str) -> None:
    """`tokenizers` merging by derived pairs, against `merge` from single characters on."""
    model = tokenizer(name)._text_model
    for text in STRINGS:
        symbols = merge(list(text.replace(" ", "▁")), model._scores)
        assert model.encode(text) == [id for symbol in symbols for id in model._symbol_ids(symbol)]
