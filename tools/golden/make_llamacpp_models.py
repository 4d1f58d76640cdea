"""Golden logits by llama.cpp, for the family that transformers does not hold (DeepSeek-MoE 16B), and what llama.cpp
computes for the golden models that transformers made (make_models.py): two implementations that know nothing of ours.

    pip install .[peers] && PYTHONPATH=src:tests python tools/golden/make_llamacpp_models.py

Writes tests/golden/models/deepseek.gguf and .npz (as make_models.py does); tests/golden/llamacpp_models.json: per
golden model, the largest difference of llama.cpp's logits, relative to the largest logit, and the 16 tokens that it
generates greedily behind the prompt; and tests/golden/llamacpp_<model>.npy: llama.cpp's logits, float32 [T, V], where
the two differ by more than rounding.

llama.cpp refuses the small shapes of three models for what it takes them to be. It gets the same model in another
form: `fitted`.
"""

import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import llama_cpp
import numpy as np

from motley.formats.checkpoint import open_checkpoint
from motley.formats.gguf_writer import write_gguf
from motley.formats.tensor import Checkpoint, QuantTensor
from motley.shape.model import Role, TensorShape
from motley.shape.quant import Quant

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
MODELS = GOLDEN / "models"
V, D, H, F, E, L = 160, 64, 4, 32, 8, 3
DIFFERENT = ("gpt-oss", "llama4", "gemma4")  # see tests/parity/test_llamacpp_models.py
LITE = 27  # layers, by which llama.cpp knows models without compressed queries


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


def fitted(path: Path) -> Checkpoint:
    """The golden model, its weights decoded to float32 (llama.cpp rounds activations to the weights' precision). As
    llama.cpp loads it: ERNIE with the width that its shared experts have (its converter divides another number); those
    without compressed queries with layers that add nothing, until they are as many as llama.cpp knows them by."""
    file = open_checkpoint(path)
    metadata = {**file.metadata, "general.file_type": 0}
    tensors = {t.name: as_f32(t.name, t.decode()) for t in file.tensors.values()}
    if path.stem == "ernie4_5-moe":
        metadata["ernie4_5-moe.expert_shared_feed_forward_length"] = 2 * F
    if path.stem in ("deepseek2-lite", "moonlight"):
        metadata["deepseek2.block_count"] = LITE
        last = {name: t for name, t in tensors.items() if name.startswith(f"blk.{L - 1}.")}
        for layer in range(L, LITE):
            for name, tensor in last.items():
                adds = any(part in name for part in ("attn_output", "ffn_down"))
                own = name.replace(f"blk.{L - 1}.", f"blk.{layer}.")
                tensors[own] = as_f32(own, np.zeros(tensor.dims) if adds else tensor.decode())
    return Checkpoint(metadata, tensors, file.hash)


def as_f32(name: str, values: np.ndarray) -> QuantTensor:
    data = np.ascontiguousarray(values, np.float32)
    return QuantTensor(name, data.shape, Quant.F32, data.reshape(-1).view(np.uint8))


def llamacpp(path: Path, prompt: list[int]) -> tuple[np.ndarray, list[int]]:
    """Logits, float32 [tokens, V], and 16 greedy tokens, with weights and cache in float32. In a process of its own:
    llama.cpp ends the process over some files."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_llamacpp, path, prompt).result()


def _llamacpp(path: Path, prompt: list[int]) -> tuple[np.ndarray, list[int]]:
    with tempfile.TemporaryDirectory() as folder:
        model = fitted(path)
        tensors = [(TensorShape(t.name, t.dims, t.quant, Role.NORM), t.decode()) for t in model.tensors.values()]
        write_gguf(file := Path(folder) / "x.gguf", model.metadata, tensors)
        peer = llama_cpp.Llama(
            str(file), n_ctx=128, n_batch=64, n_threads=2, verbose=False, logits_all=True, type_k=0, type_v=0
        )
        ids = list(prompt)
        peer.eval(prompt)
        for _ in range(16):
            ids.append(int(np.argmax(peer.scores[len(ids) - 1])))
            peer.eval(ids[-1:])
        return np.array(peer.scores[: len(prompt)]), ids[len(prompt) :]


def main() -> None:
    write_deepseek(MODELS / "deepseek.gguf")
    prompt = np.random.default_rng(7).integers(2, V, 37).astype(np.int32)
    logits, ids = llamacpp(MODELS / "deepseek.gguf", prompt.tolist())
    np.savez_compressed(MODELS / "deepseek.npz", prompt=prompt, logits=logits, ids=np.array(ids, np.int32))
    found = {}
    for path in sorted(MODELS.glob("*.npz")):
        if path.stem == "deepseek":
            continue  # its golden logits are llama.cpp's own
        golden = np.load(path)
        got, ids = llamacpp(path.with_suffix(".gguf"), golden["prompt"].tolist())
        apart = float(f"{np.abs(got - golden['logits']).max() / np.abs(golden['logits']).max():.2g}")
        found[path.stem] = {"apart": apart, "tokens": ids}
        print(path.stem, apart, "same tokens" if ids == golden["ids"].tolist() else "other tokens", flush=True)
        if path.stem in DIFFERENT:
            np.save(GOLDEN / f"llamacpp_{path.stem}.npy", got)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items())
    text = f'{{"llama_cpp": {json.dumps(llama_cpp.__version__)}, "models": {{\n{lines}\n}}}}\n'
    (GOLDEN / "llamacpp_models.json").write_text(text)


if __name__ == "__main__":
    main()
