"""What the models' own files say about the text before BPE: the truth that golden ids come from.

Facts, one entry a `tokenizer.ggml.pre`: the `normalizer` and `pre_tokenizer` of a published `tokenizer.json` in
`tokenizers`' own form, written out here apart from `motley.formats.pretokenizers`, so that a slip in either shows.
Kimi and Moonlight publish a tiktoken pattern instead. Where each was read is in `source`:
`llama-vocab.cpp` quotes the original pattern in a comment ("original regex from tokenizer.json"), and
`transformers` (5.24) builds some tokenizers from code.
"""

from typing import Any

from motley.formats.pretokenizers import PRE_TOKENIZERS


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _bytes(use_regex: bool = False) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _entry(steps: list[dict[str, Any]], source: str, nfc: bool = False, **more: Any) -> dict[str, Any]:
    return {
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "source": source,
        **more,
    }


_DIGITS = {"type": "Digits", "individual_digits": True}
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KIMI = (
    r"[\p{Han}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK3 = [
    _split(r"\p{N}{1,3}"),
    _split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
    _split(
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
        "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
    ),
]
_HAN_HANGUL = _split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+")
DEEPSEEK_CODER = [_split("[\r\n]"), _split("\\s?\\p{L}+"), _split("\\s?\\p{P}+"), _HAN_HANGUL, _DIGITS]
BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)

# DeepSeek's list of letters is long: its entry takes our own list and so proves the rest only. The list's proof is
# llama.cpp, which has it character by character, and the ids of the real vocabulary (compare_published.py).
_LETTERS, _PUNCTUATION = PRE_TOKENIZERS["deepseek-llm"].steps[1:3]
DEEPSEEK_LLM = [_split("[\r\n]"), _split(_LETTERS), _split(_PUNCTUATION), _split("\\s+$"), _HAN_HANGUL, _DIGITS]
PUBLISHED: dict[str, dict[str, Any]] = {
    "gpt-2": _entry([_bytes(use_regex=True)], "transformers: GPT2Tokenizer"),
    "olmo": _entry([_bytes(use_regex=True)], "transformers: GPTNeoXTokenizer", nfc=True),
    "refact": _entry([_DIGITS, _bytes(use_regex=True)], "StarCoder's, as Granite 3 has it"),
    "dbrx": _entry([_split(LLAMA3), _bytes()], "llama-vocab.cpp; cl100k"),
    "qwen2": _entry([_split(QWEN2), _bytes()], "transformers: Qwen2Tokenizer", nfc=True),
    "qwen35": _entry([_split(QWEN35), _bytes()], "transformers: Qwen3_5Tokenizer", nfc=True),
    "llama-bpe": _entry([_split(LLAMA3), _bytes()], "transformers: TikTokenConverter", ignore_merges=True),
    "gpt-4o": _entry([_split(O200K), _bytes()], "llama-vocab.cpp; tiktoken's o200k_base"),
    "tekken": _entry([_split(TEKKEN), _bytes()], "llama-vocab.cpp", ignore_merges=True),
    "deepseek-llm": _entry([*DEEPSEEK_LLM, _bytes()], "llama-vocab.cpp; digits apart as in its vocabulary"),
    "deepseek-coder": _entry([*DEEPSEEK_CODER, _bytes()], "llama-vocab.cpp; digits apart as in its vocabulary"),
    "deepseek-v3": _entry([*DEEPSEEK3, _bytes()], "llama-vocab.cpp"),
    "glm4": _entry([_split(LLAMA3), _bytes()], "llama-vocab.cpp", ignore_merges=True),
    "bailingmoe2": _entry([_split(BAILING), _bytes()], "llama-vocab.cpp"),
    "kimi-k2": {"tiktoken": KIMI, "source": "unicode.cpp quotes tokenization_kimi.py"},
    "gemma4": {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "source": "transformers: GemmaTokenizer",
        "plain": True,
    },
}
