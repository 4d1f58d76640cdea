"""System: the machine as the doctor sees it: files under a root, and what commands print. Tests give another root."""

import os
import platform
from pathlib import Path

from motley.cluster.command import Run, run_command


class System:
    def __init__(self, root: Path = Path("/"), run: Run = run_command, kind: str = platform.system()) -> None:
        self.root, self.run, self.kind = root, run, kind

    def text(self, path: str) -> str:
        """A file's text, stripped; "" where it can't be read."""
        try:
            return (self.root / path.lstrip("/")).read_text(errors="replace").strip()
        except OSError:
            return ""

    def link(self, path: str) -> str:
        """Where a symbolic link points; "" where there is none."""
        try:
            return os.readlink(self.root / path.lstrip("/"))
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        try:
            return int(self.text(path))
        except ValueError:
            return None

    def glob(self, pattern: str) -> list[Path]:
        return sorted(self.root.glob(pattern.lstrip("/")))
