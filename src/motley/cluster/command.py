"""Asking a program of the system's: what it prints, or nothing."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence

Run = Callable[[Sequence[str]], str | None]
COMMAND_S = 10.0  # `system_profiler` takes a few


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
