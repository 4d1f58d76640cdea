"""A Hugging Face directory's tokenizer: ids equal those of the `tokenizers` library on the same tokenizer.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from hf_tokenizers import KINDS, STRINGS, engine, write_tokenizer
from motley.errors import FormatError, UnsupportedError
from motley.formats.chat import ChatTemplate
from motley.formats.hf_tokenizer import WHOLE, tokenizer_metadata
from motley.formats.tokenizer import Tokenizer
from motley.formats.vocabulary import TokenType

CONVERSATION = "<|im_start|>user\nHello    <tool>world <|im_end|>\n<|im_start|> 12345 it's</s>"


def metadata(folder: Path, vocab_size: int = 1200, **config: Any) -> dict[str, Any]:
    return tokenizer_metadata(folder, config, vocab_size)


def ours(tmp_path: Path, kind: str) -> Tokenizer:
    return Tokenizer.from_metadata(metadata(write_tokenizer(tmp_path, kind)))


def well_formed(text: str) -> bool:
    return not any(0xD800 <= ord(char) < 0xE000 for char in text)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts_equal_the_librarys(tmp_path: Path, kind: str) -> None:
    tokenizer, library = ours(tmp_path, kind), engine(kind)
    assert len(STRINGS) > 200
    for text in [*filter(well_formed, STRINGS), CONVERSATION, "", " ", "a", " a", "e\u0301"]:
        ids = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, special=True) == ids, text
        prompt = library.encode(text).ids
        twice = prompt[:1] == prompt[1:2] == [tokenizer.bos]  # the text brings its own: Motley adds no second one
        assert tokenizer.encode_prompt(text, special=True) == prompt[twice:], text
        if not any(tokenizer.is_control(id) for id in ids):  # around those, spaces are llama.cpp's
            assert tokenizer.decode(ids) == library.decode(ids), text


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_never_made_of_a_users_text(tmp_path: Path, kind: str) -> None:
    tokenizer, library = ours(tmp_path, kind), engine(kind)
    special = {library.token_to_id(text) for text in ("<s>", "</s>", "<|im_start|>", "<|im_end|>")}
    for text in ("<s>", "</s>", "<|im_start|>user", "x<|im_end|>", " <s> </s>", CONVERSATION):
        ids = tokenizer.encode(text)
        assert not special.intersection(ids)
        assert tokenizer.decode(ids).strip() == text.strip()
        assert special.intersection(tokenizer.encode(text, special=True))


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "llama"])
def test_the_translation_alone_gives_the_same_ids(tmp_path: Path, kind: str) -> None:
    """What GGUF readers know of it, without tokenizer.json itself."""
    found = metadata(write_tokenizer(tmp_path, kind))
    del found[WHOLE]
    found["tokenizer.ggml.pre"] = {"gpt2": "gpt-2", "llama3": "llama-bpe", "llama": "default"}[kind]
    tokenizer = Tokenizer.from_metadata(found)
    differ = [
        text for text in filter(well_formed, STRINGS)
        if tokenizer.encode(text, special=True) != engine(kind).encode(text, add_special_tokens=False).ids
    ]  # fmt: skip
    assert differ == []


def test_the_vocabulary_in_ggufs_words(tmp_path: Path) -> None:
    found = metadata(write_tokenizer(tmp_path, "llama"), vocab_size=1200)
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    size = engine("llama").get_vocab_size()
    assert (found["tokenizer.ggml.model"], len(tokens), len(types)) == ("llama", 1200, 1200)
    assert tokens[:3] == ["<unk>", "<s>", "</s>"]
    assert types[:4] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, TokenType.BYTE]
    assert (tokens[-1], types[-1]) == ("[PAD1199]", TokenType.UNUSED)
    assert types[size - 1] == TokenType.CONTROL
    ids = {key: found[f"tokenizer.ggml.{key}_token_id"] for key in ("bos", "eos", "unknown")}
    assert ids == {"bos": 1, "eos": 2, "unknown": 0}
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert found["tokenizer.ggml.add_space_prefix"] is True


def test_every_end_of_generation_config_ends(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, "qwen2")
    library = engine("qwen2")
    ends = [library.token_to_id(text) for text in ("<|im_end|>", "<tool>", "</s>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    assert Tokenizer.from_metadata(metadata(folder)).eos == set(ends)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4, 5]}))
    with pytest.raises(UnsupportedError, match="eos_token_id has 4 ids"):
        metadata(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 99999}))
    with pytest.raises(FormatError, match="eos_token_id is 99999, outside the vocabulary of 1200"):
        metadata(folder)


def test_ids_of_config_json_where_nothing_else_says(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, "gpt2")
    (folder / "tokenizer_config.json").unlink()
    found = metadata(folder, bos_token_id=7, eos_token_id=[8, 9])
    assert [found[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "eot")] == [7, 8, 9]
    assert found["tokenizer.ggml.add_bos_token"] is False
    folder = write_tokenizer(tmp_path, "gpt2", add_bos_token=True)
    assert metadata(folder)["tokenizer.ggml.add_bos_token"] is True


TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
MESSAGES = [{"role": "user", "content": "Hi"}]


def test_chat_templates_from_every_place(tmp_path: Path) -> None:
    named = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "T"}]
    folder = write_tokenizer(tmp_path, "gpt2", chat_template=named)
    chat = ChatTemplate.from_metadata(metadata(folder))
    assert sorted(chat.names) == ["default", "tool_use"]
    assert chat.render(MESSAGES) == "<|im_start|>user\nHi<|im_end|>\n"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "from json {{ bos_token }}"}))
    assert ChatTemplate.from_metadata(metadata(folder)).render(MESSAGES) == "from json <s>"
    (folder / "chat_template.jinja").write_text("from a file")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("R")
    chat = ChatTemplate.from_metadata(metadata(folder))
    assert chat.render(MESSAGES) == "from a file"
    assert sorted(chat.names) == ["default", "rag", "tool_use"]
    (folder / "tokenizer.json").unlink()
    assert set(metadata(folder)) == {f"tokenizer.chat_template{end}" for end in ("", "s", ".rag", ".tool_use")}


def changed(**changes: Any) -> dict[str, Any]:
    whole = json.loads(engine("gpt2").to_str())
    model = {key.removeprefix("model_"): changes.pop(key) for key in list(changes) if key.startswith("model_")}
    return whole | {"model": whole["model"] | model} | changes


HOSTILE: list[tuple[Any, str]] = [
    ([], "is no JSON object"),
    (changed(model=None), "model must be an object"),
    (changed(model={"type": "Unigram", "vocab": []}), "a model of type 'Unigram' is not supported"),
    (changed(model_vocab=[1, 2]), r"model\.vocab must be texts with ids"),
    (changed(model_vocab={"a": -1}), r"model\.vocab must be texts with ids"),
    (changed(model_vocab={"a": 1 << 40}), r"model\.vocab must be texts with ids"),
    (changed(model_vocab={"a": 1199, "b": 1200}), "token 'b' has the id 1200, but the model's vocabulary has 1200"),
    (changed(model_merges=["ab"]), r"model\.merges\[0\] must be two texts"),
    (changed(model_merges=[["a", 3]]), r"model\.merges\[0\] must be two texts"),
    (changed(model_merges={"a": 1}), r"model\.merges must be a list"),
    (changed(added_tokens=[3]), "added_tokens must be objects"),
    (changed(added_tokens=[{"id": -1, "content": "x"}]), "added_tokens must be objects"),
    (changed(added_tokens=[{"id": 1100, "content": "a"}]), r"tokens\[1100\] repeats"),
    (changed(model_merges=[["nowhere", "there"]]), "tokenizer.json cannot be used"),
    (changed(pre_tokenizer={"type": "Nonsense"}), "tokenizer.json cannot be used"),
]


@pytest.mark.parametrize(("whole", "sentence"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_tokenizers_are_one_clear_sentence(tmp_path: Path, whole: Any, sentence: str) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(FormatError, match=sentence):
        Tokenizer.from_metadata(metadata(tmp_path))
