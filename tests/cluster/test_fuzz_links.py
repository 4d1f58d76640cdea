"""A short run of tools/fuzz_links.py: hostile frames at every port, and an honest caller at the end."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "fuzz_links.py"


def test_every_door_outlives_hostile_frames() -> None:
    ran = subprocess.run([sys.executable, TOOL, "--frames", "8000"], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "every door served an honest caller" in ran.stdout
    assert "Traceback" not in ran.stderr
