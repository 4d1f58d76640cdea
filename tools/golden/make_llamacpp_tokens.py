"""Golden tokens: what llama.cpp generates greedily from small random models of each family and precision.

    pip install .[peers] && PYTHONPATH=tests python tools/golden/make_llamacpp_tokens.py

Writes tests/golden/llamacpp_tokens.json: per model the file's SHA-256 (tests/tiny_models.py writes the same bytes on
every machine), the prompt's ids, 64 greedy tokens, per token llama.cpp's gap between the two best logits, and
the tokens it generates when the same weights are decoded to float32.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np

from tiny_models import FAMILIES, QUANTS, write_decoded, write_tiny

OUT = Path(__file__).parents[2] / "tests" / "golden" / "llamacpp_tokens.json"
PROMPT = [65, 7, 200, 131, 90, 12, 255, 33]
N = 64


def greedy(path: Path, **cache: int) -> tuple[list[int], list[float]]:
    model = llama_cpp.Llama(str(path), n_ctx=128, n_batch=64, n_threads=2, verbose=False, **cache)
    tokens, gaps = [], []
    model.eval(PROMPT)
    for _ in range(N):
        logits = np.array(
            np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), shape=(model.n_vocab(),))
        )
        second, first = np.sort(logits)[-2:]
        tokens.append(int(logits.argmax()))
        gaps.append(round(float(first - second), 5))
        model.eval(tokens[-1:])
    model.close()
    return tokens, gaps


def main() -> None:
    golden = {}
    with tempfile.TemporaryDirectory() as folder:
        for architecture in FAMILIES:
            for quant in QUANTS:
                path = write_tiny(Path(folder), architecture, quant)
                tokens, gaps = greedy(path)
                write_decoded(path, decoded := Path(folder) / "decoded.gguf")
                exact, _ = greedy(decoded, type_k=0, type_v=0)  # a float32 cache, too
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                golden[path.stem] = {"sha256": digest, "tokens": tokens, "gaps": gaps, "decoded_tokens": exact}
                print(
                    path.stem,
                    len(set(tokens)),
                    "different tokens; smallest gap",
                    min(gaps),
                    "same as decoded:",
                    tokens == exact,
                )
    OUT.write_text(json.dumps({"llama_cpp": llama_cpp.__version__, "prompt": PROMPT, "models": golden}) + "\n")


if __name__ == "__main__":
    main()
