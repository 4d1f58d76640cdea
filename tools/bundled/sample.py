"""Write on from a few prompts, sampled by llama.cpp at temperature 0.7: how the model reads.

PYTHONPATH=src python tools/bundled/sample.py [FILE]
"""

import argparse
from pathlib import Path

import llama_cpp
from export import FILE, PACKAGE

PROMPTS = (
    "It was a cold morning, and",
    "She looked at him and said,",
    "In those days the king",
    "To create a new table, use the",
    "def read_file(path):\n",
    "friendship\n    n 1:",
)


def samples(path: Path, tokens: int = 90) -> list[str]:
    llama = llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, seed=1, verbose=False)
    texts = []
    for prompt in PROMPTS:
        answer = llama.create_completion(
            prompt, max_tokens=tokens, temperature=0.7, top_p=0.9, repeat_penalty=1.05, seed=1
        )
        texts.append(prompt + answer["choices"][0]["text"])
    return texts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=PACKAGE / FILE)
    print("\n\n---\n".join(samples(parser.parse_args().file)))
