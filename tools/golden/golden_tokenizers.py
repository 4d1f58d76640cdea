"""Make tests/golden/tokenizers/: small vocabularies of our own, and llama.cpp's ids for the hard strings in each.

    pip install llama-cpp-python==0.3.36 gguf sentencepiece
    PYTHONPATH=src python tools/golden/golden_tokenizers.py

Trained on the hard strings and this repository's own text, so that merges meet every script. Each golden file holds
the vocabulary (GGUF metadata), and what llama.cpp made of it: ids without and with special tokens parsed, the bytes of
each token, and the tokens that end a generation. The tests need neither llama.cpp nor this script.
"""

import gzip
import io
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import sentencepiece
from hard_strings import STRINGS
from llama_vocab import LlamaCpp, write_vocabulary
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from motley.formats.bytelevel import BYTE_OF
from motley.formats.pretokenizers import pre_tokenizer
from motley.formats.vocabulary import TokenType

ROOT = Path(__file__).parents[2]
OUT = ROOT / "tests/golden/tokenizers"
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|user|>"]
USER_DEFINED = ["<think>", "</think>", "    "]
BYTE_CHARACTERS = {byte: char for char, byte in BYTE_OF.items()}
PRES = ["olmo", "qwen2", "gpt-2", "llama-bpe", "default"]


def corpus() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.toml", "*.cpp"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [*STRINGS * 3, *((ROOT / name).read_text() for name in listed.stdout.split())]


def byte_level(pre: str, size: int = 2500) -> dict[str, Any]:
    """A byte-level BPE vocabulary; its last normal tokens are words that no merge makes, for `ignore_merges`.

    Its last merges join "a" with the first byte of characters that Unicode 16 added: whether those are letters shows.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer(pre).build()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    words = dict.fromkeys(word for text in STRINGS for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
    tokens += [word for word in words if len(word) > 5 and word not in model["vocab"]][:40]
    crossing = [["a", BYTE_CHARACTERS[text.encode()[0]]] for text in ("\u1c89", "\ua7cb", "\U000105c0")]
    tokens += ["".join(pair) for pair in crossing]
    types = [TokenType.NORMAL] * len(tokens) + [TokenType.CONTROL] * len(CONTROLS)
    tokens += [*CONTROLS, *USER_DEFINED]
    types += [TokenType.USER_DEFINED] * len(USER_DEFINED)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in types],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in [*model["merges"], *crossing]],
        "tokenizer.ggml.bos_token_id": tokens.index(CONTROLS[0]),
        "tokenizer.ggml.eos_token_id": tokens.index(CONTROLS[0]),
    }


def sentence_piece(kind: str, size: int = 2000) -> dict[str, Any]:
    """`bpe`: scores by rank, and runs of spaces that tie at the bottom, as Llama has them. `unigram`: log
    probabilities, which a merging tokenizer was never meant to read, and no prefix space."""
    buffer = io.BytesIO()
    lines = [line for text in corpus() for line in text.replace("\0", "").split("\n") if line.strip()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=buffer,
        model_type=kind,
        vocab_size=size,
        byte_fallback=True,
        character_coverage=0.995,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        num_threads=1,
    )
    made = sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue())
    tokens = [made.id_to_piece(id) for id in range(made.get_piece_size())]
    scores = [made.get_score(id) for id in range(len(tokens))]
    types = [TokenType.NORMAL] * len(tokens)
    for id in range(len(tokens)):
        for is_kind, value in (
            (made.is_unknown, TokenType.UNKNOWN),
            (made.is_control, TokenType.CONTROL),
            (made.is_byte, TokenType.BYTE),
        ):
            if is_kind(id):
                types[id] = value
    for length in range(2, 17):
        if (run := "▁" * length) not in tokens:
            tokens, scores, types = [*tokens, run], [*scores, -1e9], [*types, TokenType.NORMAL]
    tokens, scores, types = [*tokens, "<think>"], [*scores, 0.0], [*types, TokenType.USER_DEFINED]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [int(kind) for kind in types],
        "tokenizer.ggml.bos_token_id": made.bos_id(),
        "tokenizer.ggml.eos_token_id": made.eos_id(),
        "tokenizer.ggml.unknown_token_id": made.unk_id(),
        "tokenizer.ggml.add_space_prefix": kind == "bpe",
    }


def golden(metadata: dict[str, Any], directory: Path) -> dict[str, Any]:
    path = directory / "vocabulary.gguf"
    write_vocabulary(path, metadata)
    peer = LlamaCpp(path)
    return {
        "metadata": metadata,
        "plain": [peer.encode(text) for text in STRINGS],
        "special": [peer.encode(text, special=True) for text in STRINGS],
        "pieces": [peer.piece(id, special=True).hex() for id in range(len(metadata["tokenizer.ggml.tokens"]))],
        "ends": sorted(peer.ends()),
        "add_bos": peer.add_bos(),
    }


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "strings.json").write_text(json.dumps(STRINGS, ensure_ascii=True, indent=0) + "\n")
    vocabularies = {pre: byte_level(pre) for pre in PRES}
    vocabularies |= {f"spm-{kind}": sentence_piece(kind) for kind in ("bpe", "unigram")}
    for name, metadata in vocabularies.items():
        with tempfile.TemporaryDirectory() as directory:
            data = json.dumps(golden(metadata, Path(directory)), separators=(",", ":")).encode()
        (OUT / f"{name}.json.gz").write_bytes(gzip.compress(data, 9, mtime=0))
        print(f"{name}: {len(metadata['tokenizer.ggml.tokens'])} tokens, {len(data)} bytes of JSON")


if __name__ == "__main__":
    main()
