"""`motley trace-routes`: the choices are the model's own, and plan and predict read them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from motley.bundled import heldout_path, model_path, routes_path
from motley.cli.main import main
from motley.engine.local import LocalRunner
from motley.eval.tracing import Tracer, joined, text_windows
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.tokenizer import Tokenizer
from motley.lab.lab import Lab
from motley.lab.placement import LayerPlacement, Placement
from motley.ops.native import NativeOps
from motley.predict.predict import predict
from motley.predict.routes import Routes
from motley.predict.workload import Workload
from perplexity_models import write_variant


def sections() -> list[str]:
    parts = re.split(r"(?m)^=== \w+ ===\n", heldout_path().read_text())[1:]
    return [part.removesuffix("\n") for part in parts]


def traced(path: Path, texts: dict[str, str], context: int, most: int | None = None) -> tuple[Routes, np.ndarray]:
    """The trace, and what the runner itself counted."""
    checkpoint = open_checkpoint(path)
    shape, tokenizer = shape_of(checkpoint), Tokenizer.from_metadata(checkpoint.metadata)
    runner = LocalRunner(checkpoint, NativeOps(threads=2), context=context)
    try:
        tracer = Tracer(runner, shape)
        found = {
            name: [tracer.window(w, int(tokenizer.add_bos)) for w in text_windows(tokenizer, text, context, most)]
            for name, text in texts.items()
        }
        return joined(found, shape.n_experts, tracer.routed), runner.routes()
    finally:
        runner.close()


def test_the_bundled_trace_comes_out_again() -> None:
    """It was made by PyTorch from the decoded weights (tools/bundled/routes.py); int8 activations flip a near-tie."""
    bundled = Routes.load(routes_path())
    novel = bundled.texts[0][1].chosen
    found, counted = traced(model_path(), {"novel": sections()[0]}, 512)
    assert found.chosen.shape == novel.shape
    same = (np.sort(found.chosen, axis=2) == np.sort(novel, axis=2)).all(axis=2)
    assert same.mean() > 0.97
    for layer in range(4):
        assert (np.bincount(found.chosen[:, layer].ravel(), minlength=32) == counted[layer]).all()


@pytest.mark.parametrize("context", [7, 512, 600])
def test_windows_of_any_length_hold_every_token_once(context: int) -> None:
    texts = {"a": sections()[1][:4000], "b": sections()[4][:900]}
    tokenizer = Tokenizer.from_metadata(open_checkpoint(model_path()).metadata)
    found, counted = traced(model_path(), texts, context)
    assert [len(part.chosen) for _, part in found.texts] == [len(tokenizer.encode(text)) for text in texts.values()]
    assert counted.sum() == found.chosen.size
    assert all(len(set(row)) == 4 for row in found.chosen.reshape(-1, 4).tolist())


def test_bos_is_fed_and_not_recorded(tmp_path: Path) -> None:
    found, counted = traced(write_variant(tmp_path, "bos"), {"a": sections()[0]}, 64, most=3)
    assert len(found.chosen) == 3 * 63
    assert counted.sum() == 3 * 64 * 4 * 4


def test_from_texts_to_a_plan_and_a_prediction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "novel.txt").write_text(sections()[0][:6000])
    (tmp_path / "man.txt").write_text(sections()[3][:6000])
    trace, story = str(tmp_path / "trace.npz"), tmp_path / "report.json"
    texts = [word for name in ("novel", "man") for word in ("--text", str(tmp_path / f"{name}.txt"))]
    assert main(["trace-routes", *texts, "-o", trace, "--json", str(story)]) == 0
    said = capsys.readouterr().out
    assert "in 2 texts; 4 layers with experts, each token takes 4 of 32" in said
    told = json.loads(story.read_text())
    assert told["texts"] == ["novel.txt", "man.txt"]
    assert told["distances"][0][1] > 2 * max(told["distances"][0][0], told["distances"][1][1])
    assert main(["trace-routes", "--show", trace]) == 0
    assert capsys.readouterr().out.strip() in said

    placements, lab, shape = {}, write_lab(tmp_path), shape_of(open_checkpoint(model_path()))
    for name, more in {"blind": [], "seeing": ["--routes", trace]}.items():
        asked = [str(model_path()), "--lab", lab, "--context", "512", *more]
        assert main(["plan", *asked, "--json", str(tmp_path / "plan.json")]) == 0
        assert main(["predict", *asked, "--json", str(tmp_path / "said.json")]) == 0
        said = capsys.readouterr().out
        placements[name] = placement_of(json.loads((tmp_path / "plan.json").read_text()))
        assert json.loads((tmp_path / "said.json").read_text())["predictions"]
    assert placements["seeing"] != placements["blind"]
    routes = Routes.load(trace)
    speeds = {
        name: predict(shape, Lab.load(lab), placement, Workload(), routes).p50 for name, placement in placements.items()
    }
    assert speeds["seeing"] > speeds["blind"]
    print(f"with the trace {speeds['seeing']:.0f} tokens/s, without {speeds['blind']:.0f}")


def placement_of(plan: dict[str, Any]) -> Placement:
    layers = plan["placement"]["layers"]
    return Placement(tuple(LayerPlacement(layer["home"], tuple(layer["experts"])) for layer in layers))


def write_lab(folder: Path) -> str:
    """A fast device that holds about half of the model, and a slow one behind a slow link."""
    facts = 'kind = "cpu"\nthreads = 1\nint8_gops = 100.0\nf32_gflops = 50.0\nop_overhead_us = 5.0\n'
    path = folder / "lab.toml"
    path.write_text(
        f'[[device]]\nname = "fast"\nnode = "fast"\nmemory_bytes = 108_000_000\nread_gb_s = 20.0\n{facts}'
        f'[[device]]\nname = "slow"\nnode = "slow"\nmemory_bytes = 1_000_000_000\nread_gb_s = 2.0\n{facts}'
        '[[link]]\na = "fast"\nb = "slow"\ntransport = "tcp"\nrtt_us = 50.0\ngb_s = 1.0\n'
    )
    return str(path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--text", "a.txt"], "give at least one --text, and -o TRACE"),
        (["--show", "t.npz", "--text", "a.txt"], "--show reads a trace that is there"),
        (["--show", "nowhere.npz"], "cannot read the route trace nowhere.npz"),
        (["--show", "a.txt"], "a.txt is not a route trace"),
        (["--text", "a.txt", "-o", "t.npz", "--context", "9999"], "exceed the 1024"),
        (["--text", "a.txt", "--text", "a.txt", "-o", "t.npz"], "a text is given twice"),
        (["--text", "empty.txt", "-o", "t.npz"], "the text empty.txt is empty"),
    ],
)
def test_wrong_use_is_one_sentence(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("Once upon a time")
    Path("empty.txt").write_text("\n")
    assert main(["trace-routes", *words]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert sentence in said
