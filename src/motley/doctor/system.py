"""System: the machine as the doctor sees it: files under a root, and what commands print. Tests give another root."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

Run = Callable[[Sequence[str]], str | None]
COMMAND_S = 5.0


def run_command(words: Sequence[str]) -> str | None:
    """What it prints; None where it is not there, fails or hangs."""
    program = shutil.which(words[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")  # not in everybody's path
    if program is None:
        return None
    try:
        ran = subprocess.run(
            [program, *words[1:]], capture_output=True, text=True, timeout=COMMAND_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout if ran.returncode == 0 else None


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
