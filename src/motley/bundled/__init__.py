"""The model that comes with the package: where its file, its route trace and its held-out text are.

Owns paths only: the GGUF is opened by `motley.formats`, the trace by whoever plans with it. How both were made,
from which texts and under which licence, stands in NOTICE.md beside this file.
"""

from importlib.resources import files
from pathlib import Path

from motley.errors import UsageError

MODEL = "motley-8m-q8_0.gguf"
ROUTES = "routes.npz"
HELD_OUT = "heldout.txt"

__all__ = ["heldout_path", "model_path", "routes_path"]


def model_path() -> Path:
    """The bundled model: Qwen3-MoE, 8 M parameters, 4 layers of 32 experts, 4 used; Q8_0, under 10 MB."""
    return _real(MODEL)


def routes_path() -> Path:
    """Its route trace over `heldout_path()`: numpy arrays `experts` uint8 [layers, tokens, active] from the heaviest
    weight down, `tokens` uint16 [tokens], `domain` uint8 [tokens], `domain_names` [6], `n_experts` scalar."""
    return _real(ROUTES)


def heldout_path() -> Path:
    """The text of the trace, never trained on: sections headed `=== domain ===`."""
    return _real(HELD_OUT)


def _real(name: str) -> Path:
    path = Path(str(files(__name__) / name))
    if not path.is_file():
        raise UsageError(f"{path}: is missing from this installation; install motley-moe again")
    return path
