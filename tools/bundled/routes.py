"""Route the held-out text through the exported model: `heldout.txt`, `routes.npz`, the popularity table.

Owns which held-out pieces stand in the package (only those that may: public domain, PostgreSQL,
PSF) and the trace's form. The weights are the GGUF file's, decoded: what a user's run routes with.

    PYTHONPATH=src python tools/bundled/trace.py --work build/bundled
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from corpus import DOMAINS, SOURCES
from export import FILE, PACKAGE
from model import Config, Model
from tokenizers import Tokenizer
from train import read_pieces

from motley.formats.checkpoint import open_checkpoint

DOMAIN_CHARS = 17_000
"""Held-out text per domain; all six make a trace of less than 300 KB."""
WINDOW = 512
"""Tokens that see each other: every window starts afresh."""


def heldout_text(work: Path) -> dict[str, str]:
    """The longest runs of the first showable pieces, by domain; no piece gives more than a quarter."""
    texts = {}
    for domain in DOMAINS:
        pieces = [piece[: DOMAIN_CHARS // 4] for piece in read_pieces(work, domain, "show")]
        step = max(1, len(pieces) // 4)
        texts[domain] = "\n\n".join(pieces[::step])[:DOMAIN_CHARS].rsplit("\n", 1)[0]
    return texts


def write_heldout(path: Path, texts: dict[str, str]) -> None:
    """Sections, each headed by `=== domain ===`."""
    path.write_text("".join(f"=== {domain} ===\n{text}\n" for domain, text in texts.items()))


def exported_model(path: Path) -> Model:
    """The GGUF's decoded weights in the training model."""
    model = Model(Config())
    tensors = open_checkpoint(path).tensors
    state = {name.replace(".", "_"): torch.from_numpy(t.decode().copy()) for name, t in tensors.items()}
    model.load_state_dict(state)
    return model


@torch.no_grad()
def routes(model: Model, ids: list[int]) -> np.ndarray:
    """uint8 [layers, tokens, active], each token's experts from the heaviest weight down."""
    parts = []
    for a in range(0, len(ids), WINDOW):
        _, _, chosen = model(torch.tensor([ids[a : a + WINDOW]]))
        parts.append(torch.stack(chosen).to(torch.uint8).numpy())
    return np.concatenate(parts, axis=1)


def popularity(experts: np.ndarray, n: int) -> np.ndarray:
    """[layers, tokens, active] -> [layers, n]: how often each expert was chosen, over an even share."""
    return np.stack([np.bincount(layer.ravel(), minlength=n) * n / layer.size for layer in experts])


def table(experts: np.ndarray, domain: np.ndarray) -> str:
    """Markdown: min - max popularity per layer, over all text and within each domain."""
    lines = ["| text | " + " | ".join(f"layer {i}" for i in range(len(experts))) + " |"]
    lines.append("|---" * (len(experts) + 1) + "|")
    rows = [("all", np.ones(len(domain), bool)), *((name, domain == i) for i, name in enumerate(DOMAINS))]
    for name, where in rows:
        shares = popularity(experts[:, where], Config.experts)
        cells = [f"{s.min():.2f} - {s.max():.2f}, {np.sort(s)[-8:].sum() / Config.experts:.0%}" for s in shares]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def trace(work: Path, package: Path) -> None:
    texts = heldout_text(work)
    write_heldout(package / "heldout.txt", texts)
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    model = exported_model(package / FILE)
    ids = [tokenizer.encode(text).ids for text in texts.values()]
    experts = np.concatenate([routes(model, part) for part in ids], axis=1)
    domain = np.repeat(np.arange(len(ids), dtype=np.uint8), [len(part) for part in ids])
    tokens = np.concatenate([np.array(part, dtype=np.uint16) for part in ids])
    path = package / "routes.npz"
    names = np.array(DOMAINS)
    n_experts = np.array(Config.experts)
    np.savez_compressed(path, experts=experts, tokens=tokens, domain=domain, domain_names=names, n_experts=n_experts)
    print(f"{path}: {path.stat().st_size:,} bytes, experts {experts.shape}")
    print(f"{package / 'heldout.txt'}: {(package / 'heldout.txt').stat().st_size:,} bytes")
    print({source.package: source.licence for source in SOURCES if source.show})
    print("least - most chosen expert over an even share, and the eight most chosen ones' part of all choices")
    print(table(experts, domain))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/bundled"))
    parser.add_argument("--package", type=Path, default=PACKAGE)
    options = parser.parse_args()
    trace(options.work, options.package)
