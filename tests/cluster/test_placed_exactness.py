"""The exactness principle from end to end, on the kernels that users run: the logits' bits do not depend on where a
layer, an expert or a row lives, on the threads, on the chunking of a prompt, nor on what else is in the batch."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from in_process import three_devices
from motley.engine.local import LocalRunner
from motley.engine.placed import PlacedRunner, Site
from motley.engine.runner import Runner
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.placement import LayerPlacement, Pace, Placement, RowsPart
from motley.ops.native import NativeOps, isas
from motley.ops.protocol import Batch
from tiny_models import FAMILIES, write_tiny

E, CONTEXT, VOCAB = 6, 64, 320
THREADS = {"a": 1, "b": 2, "c": 3}
PLACEMENTS = {  # by layer: the home, and the owner of each of the six experts
    "experts on two nodes": [("a", "abbaba"), ("a", "bababb")],
    "experts on three nodes": [("a", "cabcba"), ("a", "bcbcbc")],
    "layers split": [("a", "aaaaaa"), ("b", "bbbbbb")],
    "layers split, experts crosswise": [("b", "acabca"), ("a", "bbccbb")],
}
COPIES = {  # further holders of each expert; paces that make each of them the best one at times
    "all experts twice": ([("a", "abbaba"), ("a", "bababb")], ["baabab", "ababaa"]),
    "copies on three nodes, layers split": ([("b", "acabca"), ("a", "bbccbb")], ["bb-c-b", "aa-ac-"]),
}


def placed(home: str, owners: str, further: str = "------") -> LayerPlacement:
    copies = tuple((e, d) for e, d in enumerate(further) if d != "-")
    others = sorted({*owners, *further} - {home, "-"})
    paces = (Pace(home, 0, 5, 1), *(Pace(d, 3 + 4 * i, 2, 2) for i, d in enumerate(others))) if copies else ()
    return LayerPlacement(home, tuple(owners), copies, paces)


def in_rows(path: Path, placement: Placement) -> Placement:
    """Thirds of q's, k's and v's rows, none of which ends where a head or a group of rows does."""
    layers, shape = [], shape_of(open_checkpoint(path))
    for i, layer in enumerate(placement.layers):
        projections = shape.projections(i)
        assert projections
        ends = [projections.n_rows // 3 + 5, 2 * projections.n_rows // 3 - 3, projections.n_rows]
        parts = tuple(RowsPart(d, first, end) for d, first, end in zip("abc", [0, *ends], ends))
        layers.append(replace(layer, projections=parts))
    return Placement(tuple(layers))


def random_tokens(n: int, seed: int) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, VOCAB, n)]


A, B, C = random_tokens(37, 1), random_tokens(21, 2), random_tokens(5, 3)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with three_devices(lambda name: NativeOps(threads=THREADS[name])) as devices:
        yield devices


def logits_of(runner: Runner, tokens: list[int], slot: int, chunk: int) -> np.ndarray:
    """float32 [tokens, vocab], `chunk` tokens a step."""
    parts = []
    for first in range(0, len(tokens), chunk):
        share = tokens[first : first + chunk]
        n = len(share)
        parts.append(np.array(runner.step(Batch(share, range(first, first + n), [slot] * n, range(n)))))
    return np.concatenate(parts)


def logits_together(runner: Runner) -> list[np.ndarray]:
    """A, B and C in one batch: A in chunks of 8, B in chunks of 5, C token by token; each in a slot that C used."""
    streams = [(A, 8), (B, 5), (C, 1)]
    for slot in range(3):
        logits_of(runner, C, slot, 2)  # what a slot held before must leave no trace
    out: list[list[np.ndarray]] = [[], [], []]
    done = [0, 0, 0]
    while any(done[i] < len(tokens) for i, (tokens, _) in enumerate(streams)):
        ids, positions, slots = [], [], []
        for slot, (tokens, chunk) in enumerate(streams):
            share = tokens[done[slot] : done[slot] + chunk]
            ids += share
            positions += range(done[slot], done[slot] + len(share))
            slots += [slot] * len(share)
            done[slot] += len(share)
        rows = np.array(runner.step(Batch(ids, positions, slots, range(len(ids)))))
        for row, slot in zip(rows, slots):
            out[slot].append(row)
    return [np.stack(rows) for rows in out]


def same_bits(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quant", ["f16", "q8_0", "q4_0", "q4_k", "q5_k", "q6_k", "mxfp4"])
def test_bits_of_the_logits(site: Site, tmp_path: Path, family: str, quant: str) -> None:
    path = write_tiny(tmp_path, family, quant)

    def whole(threads: int, isa: str = "") -> LocalRunner:
        ops = NativeOps(threads=threads, isa=isa)
        return LocalRunner(open_checkpoint(path), ops, n_slots=3, context=CONTEXT)

    one = whole(threads=1)
    want = [logits_of(one, tokens, 0, len(tokens)) for tokens in (A, B, C)]
    assert np.isfinite(want[0]).all()
    assert np.abs(want[0]).max() > 0

    stored = LocalRunner(open_checkpoint(path), NativeOps(threads=2), n_slots=3, context=CONTEXT, repack=False)
    others: dict[str, LocalRunner] = {"3 threads": whole(3), "stored": stored, **{isa: whole(1, isa) for isa in isas()}}
    for runner in (one, *others.values()):
        for chunk in (1, 7, 16):
            same_bits(logits_of(runner, A, 2, chunk), want[0])
        for got, expected in zip(logits_together(runner), want, strict=True):
            same_bits(got, expected)
        runner.close()

    placements = {name: Placement(tuple(placed(*row) for row in rows)) for name, rows in PLACEMENTS.items()}
    for name, (rows, further) in COPIES.items():
        placements[name] = Placement(tuple(placed(*row, more) for row, more in zip(rows, further)))
    placements["rows of q, k and v on three nodes"] = in_rows(path, placements["experts on three nodes"])
    for name, placement in placements.items():
        runner = PlacedRunner(str(path), placement, site, n_slots=3, context=CONTEXT, stored="b")
        try:
            same_bits(logits_of(runner, A, 1, len(A)), want[0])
            same_bits(logits_of(runner, A, 0, 9), want[0])
            for got, expected in zip(logits_together(runner), want, strict=True):
                same_bits(got, expected)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
        finally:
            runner.close()
