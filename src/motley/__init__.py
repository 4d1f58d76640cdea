"""Motley runs one Mixture-of-Experts model across machines that do not match.

model = motley.load("olmoe-q4_k.gguf", threads=2)
logits = model.logits([1, 2, 3])
shape = motley.ModelShape.named("olmoe-1b-7b", quant="q4_k")
plan = motley.find_placement(shape, motley.Lab.load("lab.toml"))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motley.engine.local import load
    from motley.lab.lab import Lab
    from motley.plan.search import find_placement
    from motley.shape.model import ModelShape

__version__ = "0.1.0"
__all__ = ["Lab", "ModelShape", "__version__", "find_placement", "load"]

_WHERE = {
    "Lab": "motley.lab.lab",
    "ModelShape": "motley.shape.model",
    "find_placement": "motley.plan.search",
    "load": "motley.engine.local",
}


def __getattr__(name: str) -> Any:
    """Imported when first used: planning needs no kernels, and `import motley` costs nothing."""
    if name not in _WHERE:
        raise AttributeError(f"motley has no {name!r}: it has {', '.join(__all__)}")
    return getattr(import_module(_WHERE[name]), name)
