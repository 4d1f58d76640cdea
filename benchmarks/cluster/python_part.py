"""What Python does of one exchange of experts, with cold caches: no link, no arithmetic, one process.

python benchmarks/cluster/python_part.py [--rounds 300]: one token as wide as OLMoE's (2048 elements, 8 experts of 64,
all of them on both nodes) is sent to one owner and comes back. Before each part 6 MiB are written, as weights that are
read in between would push all else out of the caches. Medians in microseconds.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "src"))  # an installed Motley first: it has its kernels

import numpy as np

from motley.cluster import messages, server
from motley.cluster.link import Buffer, Frame
from motley.cluster.messages import Kind
from motley.cluster.remote import RemoteExperts
from motley.engine.experts import Asking, Remote, Shared
from motley.engine.times import Clock
from motley.lab.choice import Choice
from motley.ops.native import NativeOps

WIDTH, ACTIVE, EXPERTS, SWEPT = 2048, 8, 64, 6 << 20


class Line:
    """A link's two ends: it notes when a frame would leave, and gives what is put into `frame`."""

    peer, transport = "the other side", "none"

    def send(self, kind: int, request: int, parts: Sequence[Buffer]) -> None:
        self.left, self.request, self.parts = perf_counter(), request, parts

    def receive(self, timeout_s: float | None = None) -> Frame:
        return self.frame

    def answer(self, kind: Kind, parts: Sequence[Buffer]) -> None:
        self.frame = Frame(kind, self.request, memoryview(b"".join(bytes(part) for part in parts)))


class Owner:
    """Has its answer at once, and notes when it was asked."""

    def experts(self, layer: int, x: Any, ids: Any, weights: Any) -> Any:
        self.asked = perf_counter()
        return x.astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    rng, ops = np.random.default_rng(0), NativeOps(threads=1)
    swept, took = np.zeros(SWEPT, np.uint8), defaultdict[str, list[float]](list)
    here, there, owner = Line(), Line(), Owner()
    h, weights = (rng.standard_normal((1, n)).astype(np.float32) for n in (WIDTH, ACTIVE))
    ids = np.zeros((1, ACTIVE), np.int32)
    both = Shared(Choice.paced(np.ones((2, EXPERTS), bool), [(0.0, 100.0, 1.0), (60.0, 100.0, 1.0)]), {"b": 1})
    remote = Remote("b", RemoteExperts(here), {0: np.ones(EXPERTS, bool)})  # type: ignore[arg-type]
    asking = Asking(ops, Clock(lambda: 0.0), 0, h, ids, weights, [remote], both)

    def cold(what: Callable[[], object]) -> float:
        """When it began."""
        swept[::64] += 1
        began = perf_counter()
        what()
        return began

    for _ in range(args.rounds):
        ids[:] = rng.permutation(EXPERTS)[:ACTIVE]
        took["choose among the holders"].append(-cold(lambda: both.holders(ids)) + perf_counter())
        took["choose, build and send the call"].append(-cold(asking.start) + here.left)
        call = messages.experts_call(0, h, ids, weights)
        frame = Frame(Kind.EXPERTS_CALL, here.request, memoryview(b"".join(bytes(part) for part in call)))
        began = cold(lambda frame=frame: server._answer(there, owner, "b", frame))  # type: ignore[arg-type, misc]
        took["the node: read the call"].append(owner.asked - began)
        took["the node: answer"].append(there.left - owner.asked)
        here.answer(Kind.EXPERTS_REPLY, there.parts)
        took["read the answer"].append(-cold(asking.finish) + perf_counter())
    for name, found in took.items():
        print(f"{name:32} {1e6 * statistics.median(found):6.1f} us")


if __name__ == "__main__":
    main()
