"""MPI between real processes, through the `mpich` wheel: on one machine, so through shared memory and TCP; over RDMA's
verbs in `tests/rdma`.

What runs is in `mpi_ends`, each function in a process of its own.
"""

import resource
import shutil
import subprocess
import sys
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest import mock

import pytest

from motley.cluster import agreed, mpi_process
from motley.errors import ClusterError

ENDS = Path(__file__).with_name("mpi_ends.py")


def why_not() -> str:
    """What these tests miss."""
    for package in ("mpi4py", "mpich"):
        try:
            version(package)
        except PackageNotFoundError:
            return f"{package} is not installed: pip install 'motley-moe[rdma]'"
    if version("mpich") >= "5":
        return "MPICH 5.0 can't connect processes that were started apart (github.com/pmodels/mpich/issues/7805)"
    return ""


needs_mpi = pytest.mark.skipif(bool(why_not()), reason=why_not())


def run(*command: str | Path) -> None:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done" in done.stdout


@needs_mpi
@pytest.mark.parametrize(
    "what",
    [
        "crosswise frames both_send_large_frames",
        "malformed_calls spoilt waiting the_choice nobody_there",
        "killed",
        "a_cluster",
    ],
)
def test_processes_that_nobody_started_together(what: str) -> None:
    run(sys.executable, ENDS, *what.split())


@needs_mpi
def test_the_world_that_a_launcher_gave(tmp_path: Path) -> None:
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    if not mpiexec:
        pytest.skip("the mpich wheel's mpiexec is not beside python")
    run(mpiexec, "-n", "2", sys.executable, ENDS, "given_world", tmp_path / "port")


@pytest.fixture
def _fresh() -> object:
    with mock.patch.object(agreed, "_started", {}) as nothing:
        yield nothing


@pytest.mark.usefixtures("_fresh")
def test_without_the_extra_it_is_one_sentence_where_it_is_named() -> None:
    sentence = r"needs mpi4py and an MPI: pip install 'motley-moe\[rdma\]'"
    with mock.patch.object(mpi_process, "installed", return_value=False), pytest.raises(ClusterError, match=sentence):
        agreed.started("mpi")


@pytest.mark.usefixtures("_fresh")
def test_an_mpi_that_ends_its_process_ends_another() -> None:
    with (
        mock.patch.object(mpi_process, "installed", return_value=True),
        mock.patch.object(mpi_process, "given", return_value=False),
        mock.patch.object(mpi_process, "REHEARSAL", "import os, sys; sys.stderr.write('no transport\\n'); os.abort()"),
        pytest.raises(ClusterError, match="MPI does not start: no transport"),
    ):
        agreed.started("mpi")


@pytest.mark.parametrize(
    ("device", "limit", "privileges", "refused"),
    [
        ("uverbs0", 8 << 20, "000001ffffffbfff", True),
        ("uverbs0", 8 << 20, "000001ffffffffff", False),
        ("uverbs0", 2 << 30, "0000000000000000", False),
        ("uverbs0", resource.RLIM_INFINITY, "0000000000000000", False),
        ("rdma_cm", 8 << 20, "0000000000000000", False),
    ],
)
def test_verbs_that_may_not_lock_memory_are_refused(
    tmp_path: Path, device: str, limit: int, privileges: str, refused: bool
) -> None:
    """UCX would ask for it again without end; run for real in tests/rdma."""
    (tmp_path / device).touch()
    status = tmp_path / "status"
    status.write_text(f"Name:\tpython\nCapEff:\t{privileges}\n")
    sentence = "only 8192 KiB may be locked: put .* or set UCX_TLS=tcp,self"
    with (
        mock.patch.object(mpi_process, "VERBS", tmp_path),
        mock.patch.object(resource, "getrlimit", return_value=(limit, limit)),
        pytest.raises(ClusterError, match=sentence) if refused else nullcontext(),
    ):
        mpi_process._expect_lockable(status)


def test_it_is_not_loaded_by_who_does_not_name_it() -> None:
    code = "import sys, motley.cli.main, motley.cluster.mpi_link; sys.exit('mpi4py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
