"""Make tests/golden/tokenizers/: small vocabularies of our own, and the reference's ids for the hard strings in each.

    pip install llama-cpp-python==0.3.36 gguf sentencepiece tiktoken tokenizers==0.23.3
    PYTHONPATH=src python tools/golden/golden_tokenizers.py [NAME ...]

Trained on the hard strings and this repository's own text, so that merges meet every script. The reference is the
published tokenizer (`published_tokenizers.py`) run by `tokenizers` or tiktoken; for `default` and SentencePiece it is
llama.cpp. Each golden file holds the vocabulary (GGUF metadata), the reference's ids without and with special tokens
parsed, llama.cpp's ids where they differ, and from llama.cpp the bytes of each token and the tokens that end a
generation. The tests need none of these programs.
"""

import gzip
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import tiktoken
from hard_strings import STRINGS
from llama_vocab import LlamaCpp, write_vocabulary
from published_tokenizers import PUBLISHED
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from motley.formats.bytelevel import BYTE_OF
from motley.formats.pretokenizers import PRE_TOKENIZERS
from motley.formats.vocabulary import TokenType

ROOT = Path(__file__).parents[2]
OUT = ROOT / "tests/golden/tokenizers"
# The first one is both beginning and end of a text.
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|user|>"]
FAMILY_CONTROLS = {
    "deepseek": ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"],
    "kimi": ["[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_system|>", "<|im_middle|>"],
    "glm": ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"],
    "gpt-4o": ["<|endoftext|>", "<|return|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"],
    "llama": ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot|>"],
    "tekken": ["<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]"],
    "refact": ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"],
    "gemma": ["<bos>", "<eos>", "<pad>", "<|turn>", "<turn|>", "<|tool_response>"],
}
USER_DEFINED = ["<think>", "</think>", "    "]
BYTE_CHARACTERS = {byte: char for char, byte in BYTE_OF.items()}
Encode = Callable[[str], list[int]]


def corpus() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.toml", "*.cpp"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [*STRINGS * 3, *((ROOT / name).read_text() for name in listed.stdout.split())]


def published(name: str, model: models.Model) -> Tokenizer:
    """`model` with the published normaliser and pre-tokenizer; for tiktoken's pattern, what trains its vocabulary."""
    facts = PUBLISHED[name]
    made = json.loads(Tokenizer(model).to_str())
    made["normalizer"] = facts.get("normalizer")
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    spelled = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    if "tiktoken" in facts:
        steps = [{**split, "pattern": {"Regex": facts["tiktoken"]}}, spelled]
        made["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    else:
        made["pre_tokenizer"] = facts["pre_tokenizer"]
    return Tokenizer.from_str(json.dumps(made))


def untrained(name: str) -> Tokenizer:
    """For `default`, which has no published form, our own."""
    if name in PUBLISHED:
        return published(name, models.BPE())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[name].build()
    return tokenizer


def byte_level(name: str, size: int = 1400) -> dict[str, Any]:
    """A byte-level BPE vocabulary; its last normal tokens are words that no merge makes, for `ignore_merges`.

    Its last merges join "a" with the first byte of characters that Unicode 16 added: whether those are letters shows.
    """
    tokenizer = untrained(name)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(tokenizer.to_str())["model"]
    tokens, merges = sorted(model["vocab"], key=model["vocab"].get), model["merges"]
    if "tiktoken" not in PUBLISHED.get(name, {}):  # there, whatever joins to a token is a merge
        words = dict.fromkeys(word for text in STRINGS for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
        tokens += [word for word in words if len(word) > 5 and word not in model["vocab"]][:40]
        crossing = [["a", BYTE_CHARACTERS[text.encode()[0]]] for text in ("\u1c89", "\ua7cb", "\U000105c0")]
        crossing = [pair for pair in crossing if "".join(pair) not in tokens]
        tokens, merges = [*tokens, *("".join(pair) for pair in crossing)], [*merges, *crossing]
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": name, **_with_marks(name, tokens, merges)}


def plain(name: str, size: int = 1400) -> dict[str, Any]:
    """BPE over text, spaces as ▁, rare characters as bytes. Words only keep training short."""
    tokenizer = published(name, models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        [text.replace("\0", "") for text in corpus()],  # which no token of llama.cpp's can hold
        trainers.BpeTrainer(vocab_size=size, limit_alphabet=400, special_tokens=tokens, show_progress=False),
    )
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    made = _with_marks(name, tokens, model["merges"])
    made["tokenizer.ggml.token_type"][:257] = [int(TokenType.UNKNOWN)] + [int(TokenType.BYTE)] * 256
    made["tokenizer.ggml.scores"] = [0.0] * len(made["tokenizer.ggml.tokens"])
    more = {"tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.add_bos_token": True}
    return {"tokenizer.ggml.model": name, **made, **more}


def _with_marks(name: str, tokens: list[str], merges: list[list[str]]) -> dict[str, Any]:
    controls = next((marks for family, marks in FAMILY_CONTROLS.items() if family in name), CONTROLS)
    types = [TokenType.NORMAL] * len(tokens) + [TokenType.CONTROL] * len(controls)
    user_defined = [text for text in USER_DEFINED if text not in tokens]
    tokens = [*tokens, *controls, *user_defined]
    types += [TokenType.USER_DEFINED] * len(user_defined)
    return {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in types],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": tokens.index(controls[0]),
        "tokenizer.ggml.eos_token_id": tokens.index(controls[0]),
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


def _of_type(metadata: dict[str, Any], kind: TokenType) -> list[str]:
    pairs = zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True)
    return [token for token, value in pairs if value == kind]


def reference(name: str, metadata: dict[str, Any], special: bool) -> Encode:
    """The published tokenizer over this vocabulary."""
    facts = PUBLISHED[name]
    ids = {text: id for id, text in enumerate(metadata["tokenizer.ggml.tokens"])}
    kinds = (TokenType.CONTROL, TokenType.UNKNOWN) if special else ()
    marks = [text for kind in kinds for text in _of_type(metadata, kind)]
    user_defined = _of_type(metadata, TokenType.USER_DEFINED)
    if "tiktoken" in facts:
        normal = _of_type(metadata, TokenType.NORMAL)
        ranks = {bytes(BYTE_OF[char] for char in text): ids[text] for text in normal}
        found = {text: ids[text] for text in [*marks, *user_defined]}
        encoding = tiktoken.Encoding(name, pat_str=facts["tiktoken"], mergeable_ranks=ranks, special_tokens=found)
        return lambda text: encoding.encode(text, allowed_special=set(found), disallowed_special=())
    merges = [tuple(line.split(" ")) for line in metadata["tokenizer.ggml.merges"]]
    settings: dict[str, Any] = {"ignore_merges": facts.get("ignore_merges", False)}
    if facts.get("plain"):
        settings |= {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    tokenizer = published(name, models.BPE(vocab=ids, merges=merges, **settings))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in user_defined])
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in marks])
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def golden(name: str, metadata: dict[str, Any], directory: Path) -> dict[str, Any]:
    path = directory / "vocabulary.gguf"
    write_vocabulary(path, metadata)
    peer = LlamaCpp(path)
    made: dict[str, Any] = {"metadata": metadata}
    for mode, special in (("plain", False), ("special", True)):
        theirs = [peer.encode(text, special=special) for text in STRINGS]
        if name in PUBLISHED:
            encode = reference(name, metadata, special)
            made[mode] = [encode(text) for text in STRINGS]
            differing = (i for i in range(len(STRINGS)) if theirs[i] != made[mode][i])
            made[f"llama_cpp_{mode}"] = {i: theirs[i] for i in differing}
        else:
            made[mode] = theirs
    pieces = [peer.piece(id, special=True).hex() for id in range(len(metadata["tokenizer.ggml.tokens"]))]
    return {**made, "pieces": pieces, "ends": sorted(peer.ends()), "add_bos": peer.add_bos()}


def vocabulary(name: str) -> dict[str, Any]:
    if name.startswith("spm-"):
        return sentence_piece(name.removeprefix("spm-"))
    return plain(name) if PUBLISHED.get(name, {}).get("plain") else byte_level(name)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "strings.json").write_text(json.dumps(STRINGS, ensure_ascii=True, indent=0) + "\n")
    for name in sys.argv[1:] or [*PUBLISHED, "default", "spm-bpe", "spm-unigram"]:
        metadata = vocabulary(name)
        with tempfile.TemporaryDirectory() as directory:
            made = golden(name, metadata, Path(directory))
        data = json.dumps(made, separators=(",", ":")).encode()
        (OUT / f"{name}.json.gz").write_bytes(gzip.compress(data, 9, mtime=0))
        differing = len(made.get("llama_cpp_plain", ())), len(made.get("llama_cpp_special", ()))
        print(f"{name}: {len(metadata['tokenizer.ggml.tokens'])} tokens; llama.cpp differs on {differing} strings")


if __name__ == "__main__":
    main()
