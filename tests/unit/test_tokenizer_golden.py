"""Ids equal the published tokenizer's (llama.cpp's for `default` and SentencePiece), for every pre-tokenizer; pieces
and ends equal llama.cpp's."""

from itertools import combinations

import pytest
from golden_vocabularies import NAMES, STRINGS, golden, text_of, tokenizer

from motley.formats.pretokenizers import PRE_TOKENIZERS
from motley.formats.prompt import Prompt, joined, written
from motley.formats.sentencepiece import merge

LATER = set("\u1c89\ua7cb\U000105c0\U00010d40\U00010d6e\U00016100\U0001e5d0\u1b4e")


def test_the_set_is_hard_enough() -> None:
    assert len(STRINGS) >= 300
    proven = {PRE_TOKENIZERS[name] for name in NAMES if name in PRE_TOKENIZERS}
    assert proven == set(PRE_TOKENIZERS.values())
    assert {"spm-bpe", "spm-unigram"} <= set(NAMES)


def test_no_other_entry_would_do() -> None:
    """The strings tell any two pre-tokenizers apart that cut differently at all."""
    cuts: dict[str, list[list[str]]] = {}
    for name, pre in PRE_TOKENIZERS.items():
        built = pre.build()
        cuts[name] = [[word for word, _ in built.pre_tokenize_str(text)] for text in STRINGS]
    for a, b in combinations(cuts, 2):
        assert (cuts[a] == cuts[b]) == (PRE_TOKENIZERS[a].steps == PRE_TOKENIZERS[b].steps), (a, b)


@pytest.mark.parametrize("name", NAMES)
def test_llama_cpp_differs_where_it_is_known_to(name: str) -> None:
    """Composed characters, letters of Unicode 16 and the Kelvin sign's kin: docs/tokenizers.md."""
    differing = set(golden(name).get("llama_cpp_plain", ())) | set(golden(name).get("llama_cpp_special", ()))
    texts = [STRINGS[int(index)] for index in differing]
    if name not in ("gemma4", "gpt-4o"):
        assert all(any(ord(char) > 127 for char in text) for text in texts)
    assert len(texts) <= 12


@pytest.mark.parametrize("special", [False, True], ids=["plain", "special"])
@pytest.mark.parametrize("name", NAMES)
def test_ids_equal_the_reference(name: str, special: bool) -> None:
    expected = golden(name)["special" if special else "plain"]
    mine = [tokenizer(name).encode(text, special) for text in STRINGS]
    differing = [(text, a, b) for text, a, b in zip(STRINGS, mine, expected, strict=True) if a != b]
    if name == "default":  # llama.cpp's own, which knows the letters of Unicode 15.1 and no later ones
        differing = [row for row in differing if not LATER.intersection(row[0])]
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
    for text in map(text_of, [name] * len(STRINGS), STRINGS):
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


@pytest.mark.parametrize("name", NAMES)
def test_in_a_prompt_only_the_templates_marks_are_tokens(name: str) -> None:
    ours = tokenizer(name)
    for id in range(ours.vocab_size):
        if not ours.is_control(id):
            continue
        mark = ours.token_text(id)
        half = len(mark) // 2
        split = joined([written(mark[:half]), mark[half:]])
        assert ours.encode(written(mark), special=True) == [id]
        for outside in (Prompt(mark), split, joined([mark, written(" "), mark])):
            assert not any(ours.is_control(i) for i in ours.encode(outside, special=True))
        ids = ours.encode(joined([written(mark), f"a{mark} ", written(mark)]), special=True)
        assert [i for i in ids if ours.is_control(i)] == [id, id]


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_of_the_templates_own_is_a_text_with_special_tokens(name: str) -> None:
    ours = tokenizer(name)
    for text in STRINGS:
        assert ours.encode(written(text), special=True) == ours.encode(text, special=True)
        assert ours.encode(Prompt(text), special=False) == ours.encode(text)


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
