"""What `motley eval` refuses: one sentence, exit status 2, before any weight is read."""

from pathlib import Path

import numpy as np
import pytest

from motley.bundled import heldout_path, model_path
from motley.cli.eval import CONTEXT, Target, header_of
from motley.cli.main import main
from motley.eval.reference import Writer
from motley.eval.windows import cut, read_text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["perplexity", str(model_path())], "name a text with --text"),
        (["perplexity", "--text", "nowhere.txt"], "cannot read the text nowhere.txt"),
        (["perplexity", "--context", "2048"], "exceed the 1024 that Motley 8M was trained for"),
        (["perplexity", "--reference", "reference"], "--reference is for"),
        (["kl"], "name a reference run"),
        (["kl", "--reference", "one.json"], "one.json is no reference"),
        (["kl", "--reference", "reference", "--save-logits", "x"], "--save-logits is for"),
        (["kl", "--reference", "reference", "--context", "256"], "has windows of 512 tokens, not 256"),
        (["kl", "--reference", "reference", "--text", "other.txt"], "made of another text (heldout.txt)"),
    ],
)
def test_wrong_use_is_one_sentence(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.txt").write_text("In those days the king said that all was well in his lands. " * 200)
    Path("one.json").write_text("{}")
    write_reference(Path("reference"))
    assert main(["eval", *arguments]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("motley eval: ")
    assert words in said


def write_reference(path: Path) -> None:
    """Of one window of the bundled model, as far as its errors are read: no logits were computed."""
    target = Target.open(None)
    windows = cut(target.tokenizer, read_text(heldout_path()), CONTEXT).head(1)
    with Writer(path, header_of(target, windows, heldout_path())) as save:
        save.tokens(windows.tokens[0])
        save.rows(np.zeros((windows.scored, target.shape.vocab_size), np.float32))
