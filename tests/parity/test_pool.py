"""The thread pool: every item once, and no data race (ThreadSanitizer)."""

import shutil
from pathlib import Path

import pytest
from native_checks import CHECKS, FLAGS, ROOT, run


@pytest.mark.parametrize(("flags", "jobs"), [(["-O2"], 200_000), (["-O1", "-g", "-fsanitize=thread"], 3_000)])
def test_every_item_is_done_once(tmp_path: Path, flags: list[str], jobs: int) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    program = tmp_path / "pool"
    run("g++", *FLAGS, *flags, "-pthread", CHECKS / "check_pool.cpp", ROOT / "native" / "pool.cpp", "-o", program)
    assert "every item once" in run(program, str(jobs))
