"""Hugging Face directories for tests: a safetensors writer of a few lines. (`hf_golden` has the models.)"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Tensors = Mapping[str, tuple[str, np.ndarray]]  # dtype by the format's name, and an array with the bytes


def f32(values: np.ndarray) -> tuple[str, np.ndarray]:
    return "F32", np.asarray(values, np.float32, order="C")


def f16(values: np.ndarray) -> tuple[str, np.ndarray]:
    return "F16", np.asarray(values, np.float16, order="C")


def bf16(values: np.ndarray) -> tuple[str, np.ndarray]:
    """Cut, not rounded: for tests any bfloat16 does."""
    return "BF16", (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def safetensors_bytes(tensors: Tensors, **changes: Any) -> bytes:
    """`changes` replace what the header says of a tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at, data = 0, b""
    for name, (dtype, values) in tensors.items():
        raw = values.tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + len(raw)]}
        header[name] |= changes.get(name, {})
        at, data = at + len(raw), data + raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def write_folder(folder: Path, config: Mapping[str, Any], *shards: Tensors) -> Path:
    """One file, or several with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if len(shards) == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(shards[0]))
        return folder
    where = {}
    for i, tensors in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        (folder / name).write_bytes(safetensors_bytes(tensors))
        where |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
