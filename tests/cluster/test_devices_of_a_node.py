"""A node of two devices of different kinds: attention on MLX, experts on the CPU of the same process, with no network
between them; in the head's own process, and in another's."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'motley-moe[mlx]'")

from motley.cli.options import Offered
from motley.cli.session import Seat, Session
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.lab import Device, Lab, Link
from motley.lab.placement import LayerPlacement, Placement
from motley.ops.protocol import Batch
from motley.predict.predict import predict
from motley.predict.workload import Workload

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
FILE = GOLDEN / "qwen3moe.gguf"
BOTH = Offered("mlx:cpu"), Offered("cpu")


def home_and_experts(home: str, holder: str) -> Placement:
    """Of eight experts the home has two."""
    shape = shape_of(open_checkpoint(FILE))
    owners = tuple(home if e < 2 else holder for e in range(shape.n_experts))
    return Placement(tuple(LayerPlacement(home, owners) for _ in range(shape.n_layers)))


def error_of(session: Session, placement: Placement) -> float:
    golden = np.load(GOLDEN / "qwen3moe.npz")
    tokens, parts = golden["prompt"].tolist(), []
    with session.placed(str(FILE), placement, slots=1, context=64) as runner:
        for first, end in ((0, 20), (20, 36), (36, len(tokens))):
            n = end - first
            parts.append(np.array(runner.step(Batch(tokens[first:end], range(first, end), [0] * n, range(n)))))
        asked = {(x.a, x.b): x.transport for x in runner.exchanges()}
    assert set(asked.values()) <= {"memory", "tcp", "local"}
    near = [transport for (a, b), transport in asked.items() if a.split(".")[0] == b.split(".")[0]]
    assert near
    assert set(near) == {"memory"}
    return float(np.abs(np.concatenate(parts) - golden["logits"]).max() / np.abs(golden["logits"]).max())


@pytest.mark.parametrize(("home", "holder"), [("a", "a.cpu"), ("a.cpu", "a")])
def test_two_devices_of_the_head(home: str, holder: str) -> None:
    with Session.local([Seat("a", 1, 0, BOTH)]) as session:
        assert session.site.addresses.keys() == {"a", "a.cpu"}
        assert error_of(session, home_and_experts(home, holder)) < 1e-3


def test_two_devices_of_another_node() -> None:
    with Session.local([Seat("a", 1, 0), Seat("b", 1, 0, BOTH)]) as session:
        assert session.site.addresses.keys() == {"a", "b", "b.cpu"}
        assert error_of(session, home_and_experts("b", "b.cpu")) < 1e-3


def lab_of_both() -> Lab:
    """A fast GPU and a slow CPU in one node."""
    figures = {"threads": 1, "op_overhead_us": 5.0, "call_us": 5.0, "memory_bytes": 1 << 30}
    gpu = Device("a", "a", "mlx", read_gb_s=400, int8_gops=1e4, f32_gflops=1e4, exchange_us=60.0, **figures)
    cpu = Device("a.cpu", "a", "cpu", read_gb_s=1.0, int8_gops=500, f32_gflops=200, **figures)
    return Lab((gpu, cpu), (Link("a", "a.cpu", "memory", 40.0, 10.0),))


def test_streams_that_survive_run_on_them_too() -> None:
    golden, shape = np.load(GOLDEN / "qwen3moe.npz"), shape_of(open_checkpoint(FILE))
    told: list[str] = []
    with (
        Session.local([Seat("a", 1, 0, BOTH)]) as session,
        session.surviving(str(FILE), lab_of_both(), shape, slots=1, context=64, tell=told.append) as engine,
    ):
        assert list(engine.generate(golden["prompt"].tolist(), 16)) == golden["ids"].tolist()
    assert told == []


def test_the_prediction_knows_both() -> None:
    """Most experts on the slow one: slower than the fast one alone would be."""
    lab = lab_of_both()
    shape = shape_of(open_checkpoint(FILE))
    alone, split = (
        predict(shape, lab, home_and_experts("a", holder), Workload(tokens=8), head="a") for holder in ("a", "a.cpu")
    )
    print(f"alone {alone.p50:.0f} tokens/s, with the CPU's experts {split.p50:.0f}")
    assert split.p50 < alone.p50
