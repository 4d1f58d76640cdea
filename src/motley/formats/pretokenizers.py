"""How each `tokenizer.ggml.pre` cuts text into words before BPE merges inside them: one line of a table a name.

A pre-tokenizer is a list of steps: each isolates its matches inside the pieces that the one before left. Names are
llama.cpp's (llama-vocab.cpp); patterns and normal forms are those of the models' own `tokenizer.json` (or tiktoken)
files, and where llama.cpp reads a text otherwise, the model's own file is right: docs/tokenizers.md lists where.
To add one: a line in `PRE_TOKENIZERS`, its published form in `tools/golden/published_tokenizers.py`, then
`tools/golden/golden_tokenizers.py` for its golden ids.
"""

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

from motley.errors import UnsupportedError

DIGITS = "each digit apart"  # `tokenizers`' own step: its digits are a few more than \p{N}'s
_FOLDED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _gpt4(numbers: str, letters: str = r"\p{L}") -> str:
    """GPT-4's shape of pattern. `numbers` says how digits group, `letters` what words are made of."""
    return (
        rf"{_FOLDED}|[^\r\n\p{{L}}\p{{N}}]?[{letters}]+|{numbers}| ?[^\s{letters}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def _gpt4o(numbers: str, ending: str = f"{_FOLDED}?", tail: str = r"[\r\n/]*", without: str = "") -> str:
    """GPT-4o's: a word is capitals then small letters, and takes its `ending` along."""
    upper, lower = (
        rf"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{without}]",
        rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{without}]",
    )
    before = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{before}{upper}*{lower}+{ending}|{before}{upper}+{lower}*{ending}"
        rf"|{numbers}| ?[^\s\p{{L}}\p{{N}}]+{tail}|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


@dataclass(frozen=True)
class PreTokenizer:
    steps: tuple[str, ...]  # patterns, or DIGITS
    nfc: bool = False  # the model was trained on composed characters: é for e and its accent
    ignore_merges: bool = False  # a word that is itself a token is taken whole, whatever the merges say
    add_bos: bool = False  # when the file does not say
    spelled: bool = True  # words are spelled in the 256 byte characters, as GPT-2 does; else spaces become ▁

    def normalizer(self) -> normalizers.Normalizer | None:
        return normalizers.NFC() if self.nfc else None

    def build(self) -> pre_tokenizers.PreTokenizer:
        """Split by every step, then spell each word."""
        spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        steps = [_step(step) for step in self.steps]
        return pre_tokenizers.Sequence([*steps, spelling] if self.spelled else steps)


def _characters(spans: str) -> str:
    """'41-5a b5' -> what a class of these code points contains: some of them no editor leaves as they are."""
    return "".join("-".join(f"\\x{{{end}}}" for end in span.split("-")) for span in spans.split())


def _step(step: str) -> pre_tokenizers.PreTokenizer:
    if step is DIGITS:
        return pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Split(Regex(step), "isolated")


_CJK = r"[\x{4e00}-\x{9fa5}\x{0800}-\x{4e00}\x{ac00}-\x{d7ff}]+"
# The letters of alphabets with two cases, as DeepSeek's first tokenizer listed them.
_CASED = (
    "41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a 38c "
    "38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b "
    "1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 "
    "1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 "
    "2115 2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 2c00-2c7b "
    "2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 "
    "fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df "
    "1e900-1e943"
)
_WIDE = "ff01-ff0f ff1a-ff5e 2018-201f 3000-3002"
_DEEPSEEK_LLM = ("[\r\n]", rf"\s?[{_characters(_CASED)}]+", rf"\s?[!-/:-~{_characters(_WIDE)}]+", r"\s+$", _CJK, DIGITS)
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    r"[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
)
_HAN_APART = r"[\p{Han}]+|" + _gpt4o(r"\p{N}{1,3}", tail=r"[\r\n]*", without=r"&&[^\p{Han}]")

_CLASSIC = PreTokenizer((_GPT2,))
_CLASSIC_NFC = PreTokenizer((_GPT2,), nfc=True)
_STARCODER = PreTokenizer((DIGITS, _GPT2))
_QWEN2 = PreTokenizer((_gpt4(r"\p{N}"),), nfc=True)
_GPT4 = PreTokenizer((_gpt4(r"\p{N}{1,3}"),))
_LLAMA3 = PreTokenizer(_GPT4.steps, ignore_merges=True, add_bos=True)
_GPT4O = PreTokenizer((_gpt4o(r"\p{N}{1,3}"),))
_DEEPSEEK3 = PreTokenizer(_DEEPSEEK_V3)
_GLM4 = PreTokenizer(_GPT4.steps, ignore_merges=True)
_BAILING = PreTokenizer(_QWEN2.steps)  # published in other words, which cut the same

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9]{3}")),  # llama.cpp's, for files without one
    "gpt-2": _CLASSIC,
    "gpt2": _CLASSIC,
    "olmo": _CLASSIC_NFC,
    "refact": _STARCODER,  # Granite 3
    "starcoder": _STARCODER,
    "dbrx": _GPT4,  # Granite 4
    "qwen2": _QWEN2,  # Qwen 2, 2.5, 3
    "deepseek-r1-qwen": _QWEN2,
    "hunyuan": _QWEN2,
    "qwen35": PreTokenizer((_gpt4(r"\p{N}", letters=r"\p{L}\p{M}"),), nfc=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama4": _GPT4O,
    "gpt-4o": _GPT4O,  # gpt-oss
    "minimax-m2": _GPT4O,
    "tekken": PreTokenizer((_gpt4o(r"\p{N}", ending=""),), ignore_merges=True, add_bos=True),  # Mistral from Nemo on
    "deepseek-llm": PreTokenizer(_DEEPSEEK_LLM),  # DeepSeek-MoE, V2, V2-Lite
    "deepseek-coder": PreTokenizer(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, DIGITS)),
    "deepseek-v3": _DEEPSEEK3,
    "hunyuan-dense": _DEEPSEEK3,
    "joyai-llm": _DEEPSEEK3,
    "kimi-k2": PreTokenizer((_HAN_APART,), ignore_merges=True),  # Moonlight, too
    "chatglm-bpe": _GPT4,
    "glm4": _GLM4,
    "glm5": _GLM4,
    "bailingmoe": _BAILING,  # Ling
    "bailingmoe2": _BAILING,
    "gemma4": PreTokenizer((), spelled=False, add_bos=True),
}


def pre_tokenizer(name: str) -> PreTokenizer:
    """`tokenizer.ggml.pre` -> how it cuts; a file without one means `default`, as llama.cpp reads it."""
    if name not in PRE_TOKENIZERS:
        raise UnsupportedError(f"tokenizer.ggml.pre is '{name}': Motley knows {known_pre_tokenizers()}")
    return PRE_TOKENIZERS[name]


def known_pre_tokenizers() -> str:
    return ", ".join(sorted(PRE_TOKENIZERS))
