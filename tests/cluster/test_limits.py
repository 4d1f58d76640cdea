"""A node that gets slow, and one that runs out of memory, in mid-answer: the tokens are those of an undisturbed run."""

from pathlib import Path

import psutil
import pytest

from cluster.limits import limited, why_not
from cluster.test_failure import Bed, bed, undisturbed

__all__ = ["bed", "undisturbed"]  # fixtures
REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON or "-")


def test_a_slow_node_is_waited_for(bed: Bed, undisturbed: list[list[int]]) -> None:
    """It answers, if late: nothing is told, nothing is loaded anew."""
    with limited(cpus=0.03) as group:
        bed.until(lambda s: len(s.answer) >= 10)
        group.take(bed.cluster.pids()["n2"])
        assert bed.finish() == undisturbed
        assert group.count("nr_throttled") > 0
        assert bed.told == []
        assert psutil.pid_exists(bed.cluster.pids()["n2"])


def test_a_node_out_of_memory_is_lost(bed: Bed, undisturbed: list[list[int]]) -> None:
    """The kernel ends it when it loads its part anew."""
    with limited(memory_bytes=1 << 20) as group:
        bed.until(lambda s: len(s.answer) >= 10)
        group.take(bed.cluster.pids()["n2"])
        bed.engine._interrupt()
        assert bed.finish() == undisturbed
        assert group.count("oom_kill") > 0
        assert any("n2 is lost" in sentence for sentence in bed.told)
        assert "n2" not in bed.engine.used


def test_groups_leave_nothing(tmp_path: Path) -> None:
    process = psutil.Popen(["sleep", "60"])
    with limited(cpus=0.5, memory_bytes=1 << 30) as group:
        group.take(process.pid)
        assert all(str(process.pid) in (f / "cgroup.procs").read_text().split() for f in group.folders)
    assert process.wait(5) != 0
    assert not any(folder.exists() for folder in group.folders)
