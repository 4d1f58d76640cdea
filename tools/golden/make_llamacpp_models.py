"""Golden logits by llama.cpp, for the family that transformers does not hold (DeepSeek-MoE 16B), and what llama.cpp
computes for the golden models that transformers made (make_models.py): two implementations that know nothing of ours.

    pip install .[peers] && PYTHONPATH=src:tests python tools/golden/make_llamacpp_models.py

Writes tests/golden/models/deepseek.gguf and .npz (as make_models.py does); tests/golden/llamacpp_models.json: per
golden model that transformers made, the largest difference of llama.cpp's logits, relative to the largest logit; and
tests/golden/llamacpp_gpt-oss.npy: llama.cpp's logits, float32 [T, V], where the two differ by more than rounding.
"""

import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import llama_cpp
import numpy as np

from motley.formats.gguf_writer import write_gguf
from motley.shape.model import Role, TensorShape
from motley.shape.quant import Quant
from tiny_models import write_decoded

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
MODELS = GOLDEN / "models"
V, D, H, F, E, L = 160, 64, 4, 32, 8, 3


def write_deepseek(path: Path) -> None:
    rng = np.random.default_rng(16)
    dims: dict[str, tuple[int, ...]] = {"token_embd": (V, D), "output_norm": (D,), "output": (V, D)}
    for i in range(L):
        blk = f"blk.{i}."
        dims |= {f"{blk}{n}": (D,) for n in ("attn_norm", "ffn_norm")}
        dims |= {f"{blk}attn_{n}": (D, D) for n in ("q", "k", "v", "output")}
        if i == 0:
            dims |= {f"{blk}ffn_gate": (96, D), f"{blk}ffn_up": (96, D), f"{blk}ffn_down": (D, 96)}
            continue
        dims |= {f"{blk}ffn_gate_inp": (E, D)}
        dims |= {f"{blk}ffn_{n}_exps": (E, F, D) for n in ("gate", "up")} | {f"{blk}ffn_down_exps": (E, D, F)}
        dims |= {f"{blk}ffn_{n}_shexp": (2 * F, D) for n in ("gate", "up")} | {f"{blk}ffn_down_shexp": (D, 2 * F)}
    tensors = []
    for name, shape in dims.items():
        noise = (rng.standard_normal(shape) * (0.15 if len(shape) > 1 else 0.2) * 32).round() / 32
        quant = Quant.F32 if len(shape) == 1 or "gate_inp" in name else Quant.F16
        values = noise if len(shape) > 1 else 1 + noise
        values = values.astype(np.float32 if quant is Quant.F32 else np.float16)
        tensors.append((TensorShape(f"{name}.weight", shape, quant, Role.NORM), values))
    keys = {
        "block_count": L,
        "context_length": 256,
        "embedding_length": D,
        "feed_forward_length": 96,
        "attention.head_count": H,
        "attention.head_count_kv": H,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10000.0,
        "rope.dimension_count": D // H,
        "expert_count": E,
        "expert_used_count": 3,
        "expert_shared_count": 2,
        "expert_feed_forward_length": F,
        "expert_weights_scale": 1.0,
        "leading_dense_block_count": 1,
        "vocab_size": V,
    }
    metadata = {"general.architecture": "deepseek", "general.name": "golden-deepseek", "tokenizer.ggml.model": "none"}
    write_gguf(path, metadata | {f"deepseek.{key}": value for key, value in keys.items()}, tensors)


def llamacpp_logits(path: Path, tokens: list[int]) -> np.ndarray | None:
    """float32 [tokens, V], with weights and cache in float32: it rounds activations to the weights' precision. In a
    process of its own: llama.cpp ends the process over some files, and refuses others (None)."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_logits, path, tokens).result()
        except (ValueError, BrokenProcessPool):
            return None


def _logits(path: Path, tokens: list[int]) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        write_decoded(path, decoded := Path(folder) / "decoded.gguf")
        model = llama_cpp.Llama(
            str(decoded), n_ctx=128, n_batch=64, n_threads=2, verbose=False, logits_all=True, type_k=0, type_v=0
        )
        model.eval(tokens)
        return np.array(model.scores[: len(tokens)])


def main() -> None:
    write_deepseek(MODELS / "deepseek.gguf")
    prompt = np.random.default_rng(7).integers(2, V, 37).astype(np.int32)
    ids = prompt.tolist()
    for _ in range(16):
        logits = llamacpp_logits(MODELS / "deepseek.gguf", ids)
        assert logits is not None
        ids.append(int(logits[-1].argmax()))
    logits = logits[: len(prompt)]
    np.savez_compressed(MODELS / "deepseek.npz", prompt=prompt, logits=logits, ids=np.array(ids[37:], np.int32))
    apart = {}
    for path in sorted(MODELS.glob("*.npz")):
        if path.stem == "deepseek":  # llama.cpp's own
            continue
        golden = np.load(path)
        got = llamacpp_logits(path.with_suffix(".gguf"), golden["prompt"].tolist())
        if got is None:
            print(path.stem, "llama.cpp does not run it")
            continue
        apart[path.stem] = float(f"{np.abs(got - golden['logits']).max() / np.abs(golden['logits']).max():.2g}")
        print(path.stem, apart[path.stem], flush=True)
        if path.stem == "gpt-oss":
            np.save(GOLDEN / "llamacpp_gpt-oss.npy", got)
    (GOLDEN / "llamacpp_models.json").write_text(
        json.dumps({"llama_cpp": llama_cpp.__version__, "apart": apart}) + "\n"
    )


if __name__ == "__main__":
    main()
