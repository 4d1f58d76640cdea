"""Hold the exported file against llama.cpp and against PyTorch, token for token.

Owns the prompts and the comparison; changes nothing. Needs `llama-cpp-python==0.3.36`. Two passes:
the weights as F32, where the two must agree to rounding, and the Q8_0 file itself. There llama.cpp
rounds activations to 8 bits too, so logits differ by a few percent where a router's choice tips over;
where greedy tokens part, the gap between the two candidates in PyTorch's logits is printed.

    PYTHONPATH=src python tools/bundled/check.py [FILE]
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import llama_cpp
import numpy as np
import torch
from export import FILE, PACKAGE
from routes import exported_model

from motley.formats.checkpoint import open_checkpoint
from motley.formats.gguf_writer import write_gguf
from motley.shape.quant import Quant

PROMPTS = (
    "It is a truth universally acknowledged, that",
    "In the beginning,",
    "The function returns",
    "def __init__(self",
    "NAME\n     ",
    "She was not happy, but",
    "class Error(Exception):\n",
    "Jesus said to them,",
)
TOKENS = 64
F32 = 0
"""ggml's type id, for the KV cache of the first pass."""


@dataclass(frozen=True)
class Limits:
    worst: float
    median: float
    gap: float  # of two candidates, where a greedy choice may turn round


EXACT, ROUNDED = Limits(1e-4, 1e-4, 1e-2), Limits(0.5, 0.03, 0.25)


@dataclass(frozen=True)
class Agreement:
    equal: int  # greedy tokens before the first difference, of TOKENS
    gap: float  # PyTorch's gap between its choice and llama.cpp's, where they part
    worst: float  # largest logit difference over the largest logit, of all tokens
    median: float  # the same of the median token
    text: str


def compare(llama: llama_cpp.Llama, model: torch.nn.Module, prompt: str) -> Agreement:
    """llama.cpp continues the prompt greedily; PyTorch reads the whole text once and says where it chose otherwise.
    After the first difference the two would have other pasts, so nothing behind it counts."""
    ids = llama.tokenize(prompt.encode(), add_bos=False, special=False)
    llama.reset()
    llama.eval(ids)
    past = list(ids)
    for _ in range(TOKENS):
        past.append(int(np.asarray(llama.scores[len(past) - 1]).argmax()))
        llama.eval(past[-1:])
    with torch.no_grad():
        ours = model.logits(torch.tensor([past]))[0].numpy()  # [tokens, V]
    theirs = np.asarray(llama.scores[: len(past)])
    apart = np.abs(theirs - ours).max(axis=1) / np.abs(ours).max()  # [tokens]
    equal, gap = TOKENS, 0.0
    for step, at in enumerate(range(len(ids) - 1, len(past) - 1)):
        if ours[at].argmax() != past[at + 1]:
            equal, gap = step, float(ours[at].max() - ours[at, past[at + 1]])
            break
    return Agreement(
        equal, gap, float(apart.max()), float(np.median(apart)), llama.detokenize(past).decode("utf-8", "replace")
    )


def report(found: list[Agreement], limits: Limits, verbose: bool) -> bool:
    for a in found if verbose else []:
        parting = f", then a gap of {a.gap:.4f}" if a.equal < TOKENS else ""
        print(
            f"--- {a.equal} of {TOKENS} equal{parting}; logits within {a.median:.2%}, worst {a.worst:.2%}\n{a.text}\n"
        )
    good = all(a.gap < limits.gap and a.median < limits.median and a.worst < limits.worst for a in found)
    print(
        f"{sum(a.equal for a in found)} of {TOKENS * len(found)} greedy tokens equal, largest gap where they part "
        f"{max(a.gap for a in found):.4f}, logits of the median token within {max(a.median for a in found):.1e}, "
        f"of the worst within {max(a.worst for a in found):.1e}: {'good' if good else 'BAD'}"
    )
    return good


def check(path: Path) -> bool:
    torch.set_num_threads(1)
    checkpoint = open_checkpoint(path)
    model = exported_model(path)
    with TemporaryDirectory() as folder:
        exact = Path(folder) / "f32.gguf"
        tensors = [(replace(t, quant=Quant.F32), t.decode()) for t in checkpoint.tensors.values()]
        write_gguf(exact, checkpoint.metadata, tensors)
        llama = llama_cpp.Llama(
            str(exact), n_ctx=512, n_threads=1, logits_all=True, verbose=False, type_k=F32, type_v=F32
        )
        print("weights as F32:")
        good = report([compare(llama, model, prompt) for prompt in PROMPTS], EXACT, verbose=False)
    llama = llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, logits_all=True, verbose=False)
    print("\nthe file itself:")
    return report([compare(llama, model, prompt) for prompt in PROMPTS], ROUNDED, verbose=True) and good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=PACKAGE / FILE)
    sys.exit(0 if check(parser.parse_args().file) else 1)
