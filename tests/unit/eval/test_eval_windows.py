"""How a text becomes windows: the definition, spelled out token by token."""

from pathlib import Path

import numpy as np
import pytest

from motley.bundled import model_path
from motley.errors import UsageError
from motley.eval.windows import Windows, cut, read_text
from motley.formats.checkpoint import open_checkpoint
from motley.formats.tokenizer import Tokenizer

TEXT = "It was a cold morning, and nobody in the house had slept. " * 20


@pytest.fixture(scope="module")
def metadata() -> dict[str, object]:
    return dict(open_checkpoint(model_path()).metadata)


@pytest.mark.parametrize("context", [4, 5, 8, 17, 64])
def test_windows_do_not_overlap_and_score_their_second_half(metadata: dict[str, object], context: int) -> None:
    tokenizer = Tokenizer.from_metadata(metadata)
    ids = tokenizer.encode(TEXT)
    windows = cut(tokenizer, TEXT, context)
    assert len(windows) == len(ids) // context
    assert windows.tokens.ravel().tolist() == ids[: len(windows) * context]
    first = context // 2
    for i in range(len(windows)):
        expected = [ids[i * context + position + 1] for position in range(first, context - 1)]
        assert windows.targets(i).tolist() == expected
        assert len(expected) == windows.scored


def test_bos_comes_once_before_the_text_and_instead_of_each_windows_first_token(metadata: dict[str, object]) -> None:
    tokenizer = Tokenizer.from_metadata({**metadata, "tokenizer.ggml.add_bos_token": True})
    ids = [tokenizer.bos, *tokenizer.encode(TEXT)]
    windows = cut(tokenizer, TEXT, 16)
    for i, window in enumerate(windows.tokens.tolist()):
        assert window == [tokenizer.bos, *ids[16 * i + 1 : 16 * (i + 1)]]


def test_only_the_first_windows() -> None:
    windows = Windows(np.zeros((5, 8), np.int32))
    assert [len(windows.head(n)) for n in (None, 2, 9)] == [5, 2, 5]


def test_one_newline_at_the_end_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a\n\n")
    assert read_text(tmp_path / "t") == "a\n"


def test_what_cannot_be_cut(metadata: dict[str, object], tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_metadata(metadata)
    with pytest.raises(UsageError, match="the text has 2 tokens, and one window takes 512"):
        cut(tokenizer, "It was", 512)
    with pytest.raises(UsageError, match="at least 4"):
        cut(tokenizer, TEXT, 3)
    with pytest.raises(UsageError, match="cannot read the text"):
        read_text(tmp_path / "nowhere")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match=r"not UTF-8 \(byte 3\)"):
        read_text(tmp_path / "latin")
