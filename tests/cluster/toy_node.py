"""`motley node` for tests: the same command line, with a handler of three lines of numpy."""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from typing import Any

import numpy as np

from motley.cluster.access import Access
from motley.cluster.assignment import Assignment
from motley.cluster.messages import F32, F64, I32
from motley.cluster.node import run_node, token_from_head
from motley.errors import MotleyError
from motley.ops.protocol import Batch
from motley.progress import Progress


class ToyHandler:
    def experts(self, layer: int, x: F32, ids: I32, weights: F32) -> F64:
        return x.astype(np.float64) * layer

    def stage(self, batch: Batch, x: F32 | None) -> tuple[F32, dict[str, float]]:
        time.sleep(60)  # a node deep in its work
        raise AssertionError

    def load(self, assignment: Assignment, progress: Progress) -> dict[str, Any]:
        return {}

    def ask(self, what: str, arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "end":  # the kernel may give a process's signal to any of its threads
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        if what == "hold the lock":  # as a C extension that never lets go
            import ctypes

            ctypes.PyDLL(None).sleep(60)
        return {"threads": OPTIONS.threads, "argv": sys.argv, "environ": dict(os.environ)}


def main() -> int:
    logging.basicConfig(level=logging.INFO)
    if OPTIONS.behave == "die":
        print("cannot open the model: no such file", file=sys.stderr)
        return 2
    if OPTIONS.behave == "hang":
        time.sleep(60)
    if OPTIONS.behave == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.stdout.write("deaf\n")
    device = {"name": f"{OPTIONS.name}/cpu", "threads": OPTIONS.threads, "memory_bytes": OPTIONS.memory}
    access = Access(OPTIONS.cluster, OPTIONS.name, token_from_head(), OPTIONS.peer)
    return run_node(access, ToyHandler(), devices=[device], with_head=OPTIONS.with_head)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--behave", default="")
    parser.add_argument("--name")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--memory", type=int)
    parser.add_argument("--peer", action="append")
    parser.add_argument("--cluster")
    parser.add_argument("--with-head", action="store_true")
    OPTIONS = parser.parse_args()
    try:
        sys.exit(main())
    except MotleyError as error:
        sys.exit(f"error: {error}")
