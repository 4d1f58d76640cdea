"""How each `tokenizer.ggml.pre` cuts text into words before byte-level BPE merges inside them.

A pre-tokenizer is a list of patterns: each isolates its matches inside the pieces that the one before left. The
patterns are those of the models' own `tokenizer.json` files, with llama.cpp's reading of them where the two differ:
contractions fold ASCII case only, and letters and numbers are those of Unicode 15.1.
To add one: a line in `PRE_TOKENIZERS`, then `tools/golden/golden_tokenizers.py` for its golden ids.
"""

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

from motley.errors import UnsupportedError

# What Unicode 16 added, after llama.cpp's tables: `tokenizers` calls them letters, numbers and punctuation, llama.cpp
# none of these. Measured over all code points: tokenizers 0.23.3 against llama-cpp-python 0.3.36's unicode-data.cpp.
_LATER = {
    "L": "1c89-1c8a a7cb-a7cd a7da-a7dc 105c0-105f3 10d4a-10d65 10d6f-10d85 10ec2-10ec4 11380-11389 1138b 1138e "
    "11390-113b5 113b7 113d1 113d3 11bc0-11be0 13460-143fa 16100-1611d 16d40-16d6c 18cff 1e5d0-1e5ed 1e5f0",
    "N": "10d40-10d49 116d0-116e3 11bf0-11bf9 16130-16139 16d70-16d79 1ccf0-1ccf9 1e5f1-1e5fa",
    "P": "1b4e-1b4f 1b7f 10d6e 113d4-113d5 113d7-113d8 11be1 16d6d-16d6f 1e5ff",
}


def _category(name: str) -> str:
    """A class for Unicode 15.1's category `name`, usable inside another class."""
    later = "".join("-".join(f"\\x{{{end}}}" for end in span.split("-")) for span in _LATER[name].split())
    return f"[\\p{{{name}}}&&[^{later}]]"


L, N, P = _category("L"), _category("N"), _category("P")
_CONTRACTION = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_GPT2 = f"'s|'t|'re|'ve|'m|'ll|'d| ?{L}+| ?{N}+| ?[^\\s{L}{N}]+|\\s+(?!\\S)|\\s+"


def _modern(numbers: str) -> str:
    """GPT-4's shape of pattern; `numbers` says how digits group."""
    words = f"[^\\r\\n{L}{N}]?{L}+"
    return f"{_CONTRACTION}|{words}|{numbers}| ?[^\\s{L}{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"


@dataclass(frozen=True)
class PreTokenizer:
    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a word that is itself a token is taken whole, whatever the merges say
    add_bos: bool = False  # when the file does not say

    def build(self) -> pre_tokenizers.PreTokenizer:
        """Split by every pattern, then spell each word in the 256 byte characters."""
        splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in self.patterns]
        return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_CLASSIC = PreTokenizer((_GPT2,))
_QWEN2 = PreTokenizer((_modern(N),))
_LLAMA3 = PreTokenizer((_modern(f"{N}{{1,3}}"),), ignore_merges=True, add_bos=True)
_DEFAULT = PreTokenizer((f"[{P}$+<=>^~|]+", _GPT2, f"{N}+", "[0-9]{3}"))

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": _DEFAULT,
    "gpt-2": _CLASSIC,
    "gpt2": _CLASSIC,
    "olmo": _CLASSIC,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "dbrx": PreTokenizer(_LLAMA3.patterns),
}


def pre_tokenizer(name: str) -> PreTokenizer:
    """`tokenizer.ggml.pre` -> how it cuts; a file without one means `default`, as llama.cpp reads it."""
    if name not in PRE_TOKENIZERS:
        raise UnsupportedError(f"tokenizer.ggml.pre is '{name}': Motley knows {known_pre_tokenizers()}")
    return PRE_TOKENIZERS[name]


def known_pre_tokenizers() -> str:
    return ", ".join(sorted(PRE_TOKENIZERS))
