"""Each family's logits against what transformers computes in float32 (tools/golden/make_models.py made the files)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from motley.engine.engine import Engine
from motley.engine.local import LocalRunner
from motley.formats.checkpoint import open_checkpoint
from motley.ops.protocol import Batch, Ops
from motley.ops.reference import ReferenceOps

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
FAMILIES = sorted(path.stem for path in GOLDEN.glob("*.gguf"))

Golden = dict[str, np.ndarray]


def native() -> Ops:
    from motley.ops.native import NativeOps

    return NativeOps(threads=2, kv="f32")


def mlx() -> Ops:
    pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'motley-moe[mlx]'")
    from motley.ops.mlx import MlxOps

    return MlxOps("cpu", kv="f32")


DEVICES: dict[str, Callable[[], Ops]] = {"reference": ReferenceOps, "native": native, "mlx": mlx}


@pytest.fixture(params=[(f, d) for f in FAMILIES for d in DEVICES], ids="-".join)
def loaded(request: pytest.FixtureRequest) -> Iterator[tuple[LocalRunner, Golden]]:
    family, device = request.param
    golden = dict(np.load(GOLDEN / f"{family}.npz"))
    runner = LocalRunner(open_checkpoint(GOLDEN / f"{family}.gguf"), DEVICES[device](), n_slots=3, context=64)
    yield runner, golden
    runner.close()


def batch_of(tokens: np.ndarray, first: int = 0, slot: int = 0) -> Batch:
    n = len(tokens)
    return Batch(tokens, range(first, first + n), [slot] * n, range(n))


def relative_error(logits: np.ndarray, golden: Golden) -> float:
    return float(np.abs(logits - golden["logits"]).max() / np.abs(golden["logits"]).max())


def test_logits_of_a_whole_prompt(loaded: tuple[LocalRunner, Golden]) -> None:
    runner, golden = loaded
    assert relative_error(runner.step(batch_of(golden["prompt"])), golden) < 1e-4


def test_logits_in_uneven_chunks(loaded: tuple[LocalRunner, Golden]) -> None:
    runner, golden = loaded
    parts = [slice(0, 1), slice(1, 20), slice(20, 37)]
    logits = np.concatenate([runner.step(batch_of(golden["prompt"][p], p.start, slot=2)) for p in parts])
    assert relative_error(logits, golden) < 1e-4


def test_greedy_continuation_of_three_streams_at_once(loaded: tuple[LocalRunner, Golden]) -> None:
    runner, golden = loaded
    engine = Engine(runner, chunk=16)
    streams = [engine.submit(golden["prompt"][: 37 - cut].tolist(), 16 + cut) for cut in (0, 5, 0)]
    while not all(s.done for s in streams):
        engine.step()
    assert streams[0].answer == golden["ids"].tolist()
    assert streams[2].answer == golden["ids"].tolist()
