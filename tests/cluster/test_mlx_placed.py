"""Two kinds of devices, one answer: each family with layers and experts split between MLX and native kernels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'motley-moe[mlx]'")

from in_process import three_devices
from motley.engine.placed import PlacedRunner, Site
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.placement import LayerPlacement, Placement
from motley.ops.mlx import MlxOps
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
FAMILIES = sorted(path.stem for path in GOLDEN.glob("*.gguf"))
HOMES = "ab", "ba"  # of all layers but the last, and of that one: MLX then native, native then MLX


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with three_devices(lambda name: MlxOps("cpu", "f32") if name == "a" else NativeOps(1, kv="f32")) as devices:
        yield devices


@pytest.mark.parametrize(("family", "homes"), [(f, HOMES[i % 2]) for i, f in enumerate(FAMILIES)])
def test_mlx_and_native_together(site: Site, family: str, homes: str) -> None:
    """The experts lie with both, five of eight with b."""
    path = GOLDEN / f"{family}.gguf"
    golden, shape = np.load(GOLDEN / f"{family}.npz"), shape_of(open_checkpoint(path))
    placement = Placement(
        tuple(
            LayerPlacement(homes[i == shape.n_layers - 1], tuple("bbaabbab"[e % 8] for e in range(n)))
            for i, n in enumerate(map(shape.experts_in, range(shape.n_layers)))
        )
    )
    runner = PlacedRunner(str(path), placement, site, n_slots=2, context=64)
    tokens = golden["prompt"].tolist()
    cuts = [0, 20, 35, 36, len(tokens)]
    parts = []
    for first, end in zip(cuts, cuts[1:]):  # noqa: RUF007
        parts.append(runner.step(Batch(tokens[first:end], range(first, end), [1] * (end - first), range(end - first))))
    runner.close()
    error = np.abs(np.concatenate(parts) - golden["logits"]).max() / np.abs(golden["logits"]).max()
    assert error < 1e-4
