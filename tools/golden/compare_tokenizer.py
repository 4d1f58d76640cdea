"""Compare Motley's tokenizer with llama.cpp's on any GGUF with a vocabulary: hard strings, then random ones.

    PYTHONPATH=src python tools/golden/compare_tokenizer.py ggml-vocab-qwen2.gguf --random 5000
    PYTHONPATH=src python tools/golden/compare_tokenizer.py ggml-vocab-gpt-2.gguf --pre olmo

llama.cpp's source has such files in models/. `--pre` asks both for another pre-tokenizer than the file's.
Prints the first differences and exits 1 if there are any.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hard_strings import STRINGS
from llama_vocab import LlamaCpp, write_vocabulary

from motley.formats.gguf_reader import read_gguf
from motley.formats.tokenizer import Tokenizer

WORDS = [
    "'s",
    "'LL",
    "'Re",
    "12",
    "3456789",
    "aa",
    " the",
    " I",
    "don't",
    "...",
    "::",
    "->",
    "//",
    "🦙",
    "👨‍👩‍👧",
    "é",
    "ह",
]
WORDS += [
    "א",
    "漢字",
    "</s>",
    "<s>",
    "<|endoftext|>",
    "<|im_end|>",
    "<0x0A>",
    "▁",
    "Ġ",
    "\u0301",
    "\x00",
    "٣",
    "Ⅳ",
    "½",
]
SPACES = [" ", "  ", "   ", "\n", "\r\n", "\t", " \n", "\u00a0", "\u3000", "\u0085", "\u2028", "'", "’"]
PLANES = [0x80, 0x250, 0x3000, 0x10000, 0x110000]


def random_texts(tokenizer: Tokenizer, count: int, seed: int) -> Iterator[str]:
    """Code points of all planes, spaces, trouble, and the vocabulary's own tokens."""
    chance = random.Random(seed)

    def piece() -> str:
        kind = chance.random()
        if kind < 0.25:
            return chr(chance.randrange(chance.choice(PLANES)))
        if kind < 0.45:
            return chance.choice(SPACES) * chance.randrange(1, 4)
        if kind < 0.6:
            return chance.choice(WORDS)
        return tokenizer.decode([chance.randrange(tokenizer.vocab_size)], special=True)

    for _ in range(count):
        text = "".join(piece() for _ in range(chance.randrange(1, 30)))
        yield text.encode("utf-8", "ignore").decode()


def metadata_of(path: Path) -> dict[str, Any]:
    """From a GGUF, or one of the committed golden files."""
    if path.suffix == ".gz":
        import gzip

        metadata: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))["metadata"]
        return metadata
    return {key: value for key, value in read_gguf(path).metadata.items() if key.startswith("tokenizer.")}


def compare(ours: Tokenizer, theirs: LlamaCpp, texts: list[str]) -> int:
    differences = 0
    for text in texts:
        for special in (False, True):
            mine, expected = ours.encode(text, special), theirs.encode(text, special)
            if mine == expected:
                continue
            differences += 1
            if differences <= 5:
                at = next(i for i, (a, b) in enumerate(zip([*mine, -1], [*expected, -1], strict=False)) if a != b)
                around = [[ours.token_text(id) for id in ids[max(0, at - 2) : at + 4]] for ids in (mine, expected)]
                print(f"  special={special} at token {at}: ours {around[0]}, llama.cpp's {around[1]}")
    return differences


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare Motley's tokenizer with llama.cpp's.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--pre", help="use this pre-tokenizer instead of the file's")
    parser.add_argument("--random", type=int, default=2000, metavar="N", help="random strings (2000)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    metadata = metadata_of(args.file)
    if args.pre:
        metadata["tokenizer.ggml.pre"] = args.pre
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "vocabulary.gguf"
        write_vocabulary(path, metadata)
        theirs = LlamaCpp(path)
    ours = Tokenizer.from_metadata(metadata)
    hard = compare(ours, theirs, STRINGS)
    rand = compare(ours, theirs, list(random_texts(ours, args.random, args.seed)))
    pieces = sum(ours.token_bytes(id) != theirs.piece(id, special=True) for id in range(ours.vocab_size))
    ends = len(ours.eos ^ theirs.ends())
    print(
        f"{args.file.name} pre={metadata.get('tokenizer.ggml.pre')} {ours.vocab_size} tokens; differing: "
        f"{hard} of {2 * len(STRINGS)} hard, {rand} of {2 * args.random} random, {pieces} pieces, {ends} ends, "
        f"{int(ours.add_bos != theirs.add_bos())} add_bos"
    )
    sys.exit(hard + rand + pieces + ends > 0)


if __name__ == "__main__":
    main()
