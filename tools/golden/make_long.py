"""Golden logits far behind the contexts that models were trained for: what `transformers` computes in float32 for the
tiny checkpoints of make_models.py after 2,048 tokens, with each way of stretching a rotary embedding.

    python tools/golden/make_long.py      # needs what make_models.py needs, but not llama.cpp

Writes tests/golden/long.npz: of each case the logits float32 [rows, V] of the last tokens. The tokens come from a seed;
of the checkpoints only the first layers are used. Committed; the tests need none of these packages.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from make_models import COMMON, FAMILIES, some_values

OUT = Path(__file__).parents[2] / "tests" / "golden" / "long.npz"
TOKENS, ROWS, CHUNK = 2_048, 6, 512
LINEAR = {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}}
# family: layers used, settings beside its own. Trained for 64 positions, or (linear) stretched from 256.
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "llama": (1, {}),  # llama3's factors
    "qwen3": (1, LINEAR),
    "gpt-oss": (2, {}),  # YaRN; a window, then everything
    "deepseek2-lite": (1, {}),  # YaRN with mscale, latent attention
}


def logits_of(family: str, n_layers: int, more: dict[str, Any]) -> np.ndarray:
    stem, own = FAMILIES[family]
    config = getattr(transformers, f"{stem}Config")(**(COMMON | own))
    torch.manual_seed(sum(family.encode()))
    make = getattr(transformers, f"{stem}ForCausalLM")
    first = make._from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, p in [*first.named_parameters(), *first.named_buffers()]:
            if not name.endswith(("inv_freq", "embed_scale")) and p.is_floating_point():
                p.copy_(some_values(name, p))
    settings = COMMON | own | more | {"max_position_embeddings": 2 * TOKENS}
    model = (
        make._from_config(getattr(transformers, f"{stem}Config")(**settings), attn_implementation="eager")
        .float()
        .eval()
    )
    model.load_state_dict(first.state_dict())
    model.model.layers = model.model.layers[:n_layers]
    tokens = np.random.default_rng(11).integers(2, config.vocab_size, TOKENS)
    cache = transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        for at in range(0, TOKENS, CHUNK):
            out = model(torch.tensor(tokens[None, at : at + CHUNK]), past_key_values=cache, use_cache=True)
    print(f"{family}: {float(out.logits.min()):.2f}..{float(out.logits.max()):.2f}", flush=True)
    return np.asarray(out.logits[0, -ROWS:].numpy(), np.float32)


if __name__ == "__main__":
    np.savez_compressed(OUT, **{family: logits_of(family, *case) for family, case in CASES.items()})
