"""Small tokenizers of the kinds that models have, trained on the fly by the `tokenizers` library itself."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

STRINGS: list[str] = json.loads((Path(__file__).parent / "golden" / "tokenizers" / "strings.json").read_text())
TEXT = [text for text in STRINGS if "<" not in text]  # what is learned must not spell special tokens
# as in the models' own files
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
SPACE = "▁"


def _trained(engine: Tokenizer, alphabet: list[str], special: list[str], vocab_size: int = 900) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    engine.train_from_iterator(TEXT * 3, trainer)
    engine.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    engine.add_tokens([AddedToken("    ", normalized=False), AddedToken("<tool>", normalized=False)])
    return engine


def _byte_level(*splits: Any, normalizer: Any = None, ignore_merges: bool = False, bos: bool = False) -> Tokenizer:
    engine = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    engine.pre_tokenizer = pre_tokenizers.Sequence([*splits]) if len(splits) > 1 else splits[0]
    engine.decoder = decoders.ByteLevel()
    if normalizer:
        engine.normalizer = normalizer
    _trained(engine, pre_tokenizers.ByteLevel.alphabet(), [])
    if bos:
        engine.post_processor = TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", engine.token_to_id("<s>"))]
        )
    return engine


def _split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def _sentencepiece(prepend: str) -> Tokenizer:
    """`prepend`: legacy (by a normaliser, before every piece), or a scheme of Metaspace."""
    engine = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if prepend == "legacy":
        engine.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    else:
        engine.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    strip = [] if prepend == "never" else [decoders.Strip(" ", 1, 0)]
    engine.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    training = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    training.pre_tokenizer = pre_tokenizers.Metaspace()  # words: otherwise whole sentences become tokens
    byte_texts = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", SPACE, "é", "ü"]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        initial_alphabet=letters,
        limit_alphabet=200,
        special_tokens=["<unk>", "<s>", "</s>", *byte_texts],
        show_progress=False,
    )
    training.train_from_iterator(TEXT * 3, trainer)
    learned = json.loads(training.to_str())["model"]
    whole = json.loads(engine.to_str())
    whole["model"] |= {"vocab": learned["vocab"], "merges": learned["merges"]}
    engine = Tokenizer.from_str(json.dumps(whole))
    engine.add_special_tokens([AddedToken(text, normalized=False) for text in ["<unk>", *SPECIAL]])
    engine.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", engine.token_to_id("<s>"))]
    )
    return engine


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama3": lambda: _byte_level(_split(LLAMA3), BYTES, ignore_merges=True, bos=True),
    "qwen2": lambda: _byte_level(_split(QWEN2), BYTES, normalizer=normalizers.NFC()),
    "digits": lambda: _byte_level(_split(r"\p{N}{1,3}"), _split(r"[一-龥぀-ゟ゠-ヿ]+"), BYTES),
    "llama": lambda: _sentencepiece("legacy"),
    "metaspace": lambda: _sentencepiece("first"),
    "never": lambda: _sentencepiece("never"),
}


@cache
def engine(kind: str) -> Tokenizer:
    return KINDS[kind]()


def write_tokenizer(folder: Path, kind: str, **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    engine(kind).save(str(folder / "tokenizer.json"))
    told = {"bos_token": "<s>", "eos_token": {"content": "</s>"}} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder
