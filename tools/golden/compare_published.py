"""Compare Motley's ids with the published tokenizers' on real vocabularies, as llama.cpp's source carries both.

    PYTHONPATH=src python tools/golden/compare_published.py LLAMA_CPP/models

There, beside ggml-vocab-NAME.gguf, lie texts (.inp) and the ids that `transformers` gave them (.out). Prints a line a
vocabulary and the first difference; exits 1 if any but the known ones differ. The files are too large to commit.
"""

import sys
import unicodedata
from pathlib import Path

from motley.errors import MotleyError
from motley.formats.gguf_reader import read_gguf
from motley.formats.tokenizer import Tokenizer

# Not the published tokenizer's: Qwen 2's vocabulary with Qwen 3.5's pattern, and ids that don't compose characters.
NOT_COMPOSED = {"ggml-vocab-qwen35"}


def compare(path: Path) -> bool:
    """Whether all is as expected. What Motley does not run is said and passes."""
    try:
        tokenizer = Tokenizer.from_metadata(read_gguf(path).metadata)
    except MotleyError as error:
        print(f"{path.stem}: {str(error)[:90]}")
        return True
    texts = path.with_name(path.name + ".inp").read_text().split("\n__ggml_vocab_test__\n")
    rows = path.with_name(path.name + ".out").read_text().split("\n")
    pairs = [(text, [int(id) for id in row.split()]) for text, row in zip(texts, rows, strict=False)]
    differing = [text for text, ids in pairs if tokenizer.encode(text) != ids]
    unknown = [text for text in differing if path.stem not in NOT_COMPOSED or unicodedata.is_normalized("NFC", text)]
    first = f", the first unexpected one {unknown[0]!r}" if unknown else ""
    print(f"{path.stem}: {tokenizer.vocab_size} tokens, {len(differing)} of {len(pairs)} texts differ{first}")
    return not unknown


def main() -> None:
    files = sorted(Path(sys.argv[1]).glob("ggml-vocab-*.gguf"))
    fine = [compare(path) for path in files if path.with_name(path.name + ".inp").exists()]
    sys.exit(not all(fine) or not fine)


if __name__ == "__main__":
    main()
