"""Motley over RDMA verbs without a card: soft-RoCE in a guest. `python -m pytest tests/rdma --rdma`, some minutes.

`guest` starts it, `inside` is what runs there; here is what must have been found. It is functional only: the guest is
emulated, so no speed means anything. One guest serves all tests.
"""

import compileall
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import motley
from cluster import test_mpi_link
from rdma import guest

LIMIT_S = 900
INSIDE = Path(__file__).with_name("inside.py")
SOURCES = Path(motley.__file__).parents[1]


def why_not() -> str:
    """What is missing beside the guest itself."""
    if reason := test_mpi_link.why_not():
        return reason
    if not any(Path("/usr/lib").glob("*/libibverbs/librxe-rdmav*.so")):
        return "the verbs of soft-RoCE are missing: apt install libibverbs1 ibverbs-providers"
    return guest.why_not()


class Found(dict[str, Any]):
    """By step; a step that is missing says what ended the guest's work."""

    def __init__(self, steps: dict[str, Any], console: str) -> None:
        super().__init__(steps)
        self._console = console

    def __missing__(self, step: str) -> None:
        pytest.fail(f"{step} did not end: {self.get('failed', '')}\n{self._console}")


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    if not request.config.getoption("--rdma"):
        pytest.skip("it boots a guest for some minutes, when asked for: python -m pytest tests/rdma --rdma")
    if reason := why_not():
        pytest.skip(reason)
    compileall.compile_dir(motley.__path__[0], quiet=2)  # in the guest, which can't write it, it takes a minute
    out = tmp_path_factory.mktemp("guest")
    paths = filter(None, (str(SOURCES), os.environ.get("PYTHONPATH")))
    # QEMU 7.2 emulates AVX2, but numpy's sort by it was seen to crash there
    variables = {
        "PYTHONPATH": os.pathsep.join(paths),
        "OPENBLAS_NUM_THREADS": "1",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3",
    }
    ended = guest.run([sys.executable, str(INSIDE)], out, LIMIT_S, variables)
    left = out / "found.json"
    assert left.exists(), ended.console
    told: dict[str, Any] = json.loads(left.read_text())
    return Found(told, ended.console)


def test_without_a_device_there_is_none(found: Found) -> None:
    assert found["no_device"] == {"NO-RDMA": "note: this machine has no RDMA device: its links are TCP"}


def test_the_doctor_follows_the_port(found: Found) -> None:
    stages = found["device"]
    assert stages["down"]["PORT-DOWN"] == "error: rxe0 port 1 is down"
    assert stages["small packets"]["PORT-DOWN"].startswith("ok: rxe0 port 1 is active (Ethernet, ")
    assert stages["small packets"]["ROCE-MTU"].startswith("warning: eth0 under rxe0 port 1 sends packets of 1500 bytes")
    for stage in stages.values():
        assert not set(stage) & {"NO-RDMA", "NO-VERBS", "ROCE-GID"}
    assert {text.partition(":")[0] for text in stages["ready"].values()} == {"ok"}


def test_a_limit_of_locked_memory_holds_all_but_root(found: Found) -> None:
    assert found["memlock"]["root"].startswith("ok:")
    assert found["memlock"]["somebody"].startswith("error: only 8192 KiB may be locked in memory")
    assert "only 8192 KiB may be locked: put" in found["memlock"]["mpi"]


def test_the_doctor_sees_who_carried_the_bytes(found: Found) -> None:
    said = {one["code"]: one for one in found["doctor"]["found"]}
    assert said["PAIR-TRANSPORT"]["sentence"] == "a and b both choose mpi: both were started with --link mpi"
    assert said["RDMA-SILENT"]["severity"] == "ok", said["RDMA-SILENT"]
    assert found["doctor"]["packets"] > 1000
    assert "PAIR-BROKEN" not in said


def test_a_model_over_it_answers_as_on_one_device(found: Found) -> None:
    result = found["bench"]["result"]
    assert {link["transport"] for link in result["lab"]["links"]} == {"mpi"}
    assert {name for layer in result["placement"]["layers"] for name in layer["experts"]} == {"a", "b"}
    assert result["check"]["max_abs_logit_diff"] == 0
    assert result["check"]["greedy_tokens_equal"] == result["check"]["greedy_tokens_compared"] > 0
    assert "The mpi link does not encrypt" in found["bench"]["text"]
    assert found["bench"]["packets"] > 1000


def test_the_nodes_end_well(found: Found) -> None:
    for name in ("a", "b"):
        assert found["nodes"][name].endswith("status 0"), found["nodes"][name]
        assert not re.search("no mpi link|link to .* failed", found["nodes"][name])
