"""The model that comes with the package: see NOTICE.md beside this file."""

from importlib.resources import files
from pathlib import Path


def model_path() -> Path:
    return Path(str(files(__name__) / "motley-8m-q8_0.gguf"))
