"""Where Motley keeps things on a user's machine, and the environment variables that say otherwise."""

import os
import sys
from pathlib import Path


def data_folder() -> Path:
    """MOTLEY_DATA, or the place where this system keeps a user's data."""
    if chosen := os.environ.get("MOTLEY_DATA"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "motley"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "motley"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "motley"


def cache_folder() -> Path:
    """MOTLEY_CACHE, or the place where this system keeps what can be made again."""
    if chosen := os.environ.get("MOTLEY_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "motley"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "motley"
