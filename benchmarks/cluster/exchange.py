"""What an exchange costs beyond the work, beside the bare link: on a cluster's joined nodes, this machine the head.

python benchmarks/cluster/exchange.py [--cluster NAME] [--trusted-lan] [--tokens 200] [--repeat 5]: the bundled model,
attention here, experts dealt over this machine and all nodes; every step asks every node in each of 4 layers. For each
node: the bare round trip of 16 KiB (a checksummed ping-pong in the same minute), and what a round takes beyond the
longer of the works on both sides. Medians over the repeats. For delays: two namespaces, tests/cluster/delay.py between.
"""

import argparse
import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "src"))  # an installed Motley first: it has its kernels

from motley.bundled import model_path
from motley.cli.joined import add_cluster, joined_session
from motley.cluster.remote import measure
from motley.engine.placed import PlacedRunner
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.placement import LayerPlacement, Placement
from motley.ops.protocol import Batch

WARM_UP = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_cluster(parser)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    args.memory = 0
    shape = shape_of(open_checkpoint(model_path()))
    with joined_session(args, threads=1) as session:
        names = [session.own.name, *session.cluster.nodes]
        owners = tuple(names[e % len(names)] for e in range(shape.n_experts))
        placement = Placement(tuple(LayerPlacement(names[0], owners) for _ in range(shape.n_layers)))
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name in names[1:]}
        with session.placed(str(model_path()), placement, slots=1, context=WARM_UP + args.tokens) as runner:
            for _ in range(args.repeat):
                bare = {name: measure(session.cluster.links[name], bulk=3).rtt_us for name in rows}
                for name, apart_us in decode(runner, args.tokens).items():
                    rows[name].append((bare[name], apart_us))
        transport = next(iter(session.cluster.links.values())).transport
    for name, found in rows.items():
        bare_us, apart_us = (statistics.median(column) for column in zip(*found))
        print(
            f"{names[0]} - {name} ({transport}): bare {bare_us:.0f} us, an exchange {apart_us:.0f} us beyond the work"
        )


def decode(runner: PlacedRunner, tokens: int) -> dict[str, float]:
    """By node, microseconds an exchange takes beyond the longer of the works."""
    for i in range(WARM_UP):
        runner.step(Batch([i], [i], [0], [0]))
    before = {x.b: x for x in runner.exchanges()}
    for i in range(WARM_UP, WARM_UP + tokens):
        runner.step(Batch([i % 500], [i], [0], [0]))
    found = {}
    for x in runner.exchanges():
        was = before[x.b]
        beyond = (x.seconds - was.seconds) - (x.work_seconds - was.work_seconds)
        found[x.b] = 1e6 * beyond / (x.count - was.count)
    return found


if __name__ == "__main__":
    main()
