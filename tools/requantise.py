"""Write a GGUF file with its matrices in another precision: for the examples of docs/eval.md, small models only.

    PYTHONPATH=src python tools/requantise.py q4_k small.gguf [MODEL]

Routers, norms and rows that do not fill a block stay as they are. MODEL: default the bundled one.
"""

import sys
from collections.abc import Iterator
from typing import Any

from motley.bundled import model_path
from motley.formats.checkpoint import open_checkpoint
from motley.formats.encode import encode
from motley.formats.gguf_writer import write_gguf
from motley.formats.tensor import Checkpoint
from motley.shape.model import Role, TensorShape
from motley.shape.quant import Quant


def tensors(checkpoint: Checkpoint, quant: Quant) -> Iterator[tuple[TensorShape, Any]]:
    for t in checkpoint.tensors.values():
        if len(t.dims) < 2 or t.dims[-1] % quant.block or "ffn_gate_inp" in t.name:
            yield TensorShape(t.name, t.dims, t.quant, Role.NORM), t.data
        else:
            yield TensorShape(t.name, t.dims, quant, Role.NORM), encode(t.decode(), quant)


def main(quant: str, output: str, model: str = "") -> None:
    checkpoint = open_checkpoint(model or model_path())
    write_gguf(output, dict(checkpoint.metadata), tensors(checkpoint, Quant.named(quant)))


if __name__ == "__main__":
    main(*sys.argv[1:])
