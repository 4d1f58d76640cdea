"""What every test may rely on."""

import signal
from typing import Any

import pytest
from hypothesis import settings

# A shell that starts the tests in the background has them ignore Ctrl-C, and children inherit that: tests that
# interrupt a command would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Hypothesis's own limit of 200 ms is a test of how busy the machine is.
settings.register_profile("motley", deadline=None)
settings.load_profile("motley")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers (pytest-xdist): a file's tests stay in one, as they share what is costly to start; nodes,
    servers and browsers come one after another, as each wants both cores and some count seconds of silence. (Groups by
    marks, as `--dist loadgroup` has them, pytest-xdist 3.8 does not see under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "processes" if file.startswith(("tests/cluster/", "tests/browser/")) else file

    return Scheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rdma", action="store_true", help="run tests/rdma, too: soft-RoCE in a guest, some minutes")
