"""Divergence from a reference run, against its slow obvious twin; the reference's file and what is wrong with one."""

import math
from pathlib import Path

import numpy as np
import pytest
from toy_runner import ToyRunner

from motley.bundled import model_path
from motley.errors import FormatError, UsageError
from motley.eval.divergence import Divergence, window_rows
from motley.eval.perplexity import window_nll
from motley.eval.reference import HEADER_BYTES, Header, Reference, Writer, vocabulary_hash
from motley.eval.windows import Windows
from motley.formats.checkpoint import open_checkpoint
from motley.formats.tokenizer import Tokenizer

V, CONTEXT, N = 24, 10, 5
WINDOWS = Windows(np.random.default_rng(3).integers(0, V, (N, CONTEXT)).astype(np.int32))


def header(**other: object) -> Header:
    facts = {"model": "toy", "model_file": "toy.gguf", "model_hash": "0", "text": "t.txt", "vocabulary": "v"}
    facts |= {"n_vocab": V, "context": CONTEXT}  # type: ignore[dict-item]
    return Header(**{**facts, "windows": N, **other})  # type: ignore[arg-type]


def write(path: Path, runner: ToyRunner, stop_after: int = N) -> Path:
    try:
        with Writer(path, header()) as save:
            for i in range(N):
                save.tokens(WINDOWS.tokens[i])
                if i == stop_after:
                    raise KeyboardInterrupt
                window_nll(runner, WINDOWS, i, V, save)
    except KeyboardInterrupt:
        pass
    return path


def divergence(runner: ToyRunner, reference: Reference) -> Divergence:
    found = Divergence()
    for i in range(len(reference.windows)):
        found.add(window_rows(runner, reference.windows, reference, i))
    return found


def probabilities(row: np.ndarray) -> list[float]:
    powers = [math.exp(float(x)) for x in row]
    return [power / math.fsum(powers) for power in powers]


def test_divergence_is_its_twins(tmp_path: Path) -> None:
    one, other = ToyRunner(V, seed=0, spread=1.0), ToyRunner(V, seed=1, spread=1.0)
    found = divergence(other, Reference(write(tmp_path / "r", one))).summary()
    kl, same, ratios = [], 0, []
    for window in WINDOWS.tokens.tolist():
        for position in range(CONTEXT // 2, CONTEXT - 1):
            p, q = (probabilities(r.logits_after(window[: position + 1])) for r in (one, other))
            kl.append(math.fsum(a * math.log(a / b) for a, b in zip(p, q)))
            same += p.index(max(p)) == q.index(max(q))
            ratios.append(math.log(p[window[position + 1]] / q[window[position + 1]]))
    n = N * (CONTEXT - CONTEXT // 2 - 1)
    assert (found.windows, found.tokens) == (N, n)
    assert found.mean_kl == pytest.approx(math.fsum(kl) / n, rel=1e-6)
    assert found.mean_kl_error == pytest.approx(np.std(kl, ddof=1) / math.sqrt(n), rel=1e-6)
    assert found.median_kl == pytest.approx(sorted(kl)[n // 2] if n % 2 else sum(sorted(kl)[n // 2 - 1 :][:2]) / 2)
    assert found.p99_kl == pytest.approx(np.percentile(kl, 99))
    assert found.max_kl == pytest.approx(max(kl))
    assert found.same_top == same / n
    assert found.perplexity_ratio == pytest.approx(math.exp(math.fsum(ratios) / n))
    assert found.perplexity_ratio == pytest.approx(found.perplexity / found.reference_perplexity)
    assert not found.identical


def test_the_same_model_is_apart_by_exactly_nothing(tmp_path: Path) -> None:
    runner = ToyRunner(V)
    found = divergence(runner, Reference(write(tmp_path / "r", runner))).summary()
    assert found.identical
    assert (found.mean_kl, found.max_kl, found.same_top, found.perplexity_ratio) == (0, 0, 1, 1)


def test_the_file_holds_the_logits_bit_for_bit(tmp_path: Path) -> None:
    runner = ToyRunner(V)
    reference = Reference(write(tmp_path / "r", runner))
    assert (reference.windows.tokens == WINDOWS.tokens).all()
    for i, window in enumerate(WINDOWS.tokens.tolist()):
        rows = [runner.logits_after(window[: p + 1]) for p in range(CONTEXT // 2, CONTEXT - 1)]
        assert (reference.logits(i) == np.stack(rows)).all()


@pytest.mark.parametrize("whole", [1, 3])
def test_an_interrupted_run_leaves_its_whole_windows(whole: int, tmp_path: Path) -> None:
    reference = Reference(write(tmp_path / "r", ToyRunner(V), stop_after=whole))
    assert reference.header.windows == len(reference.windows) == whole
    assert divergence(ToyRunner(V), reference).summary().identical


def broken(path: Path, how: str) -> None:
    data = path.read_bytes()
    changes = {
        "truncated": data[:-1],
        "one window short": data[: -header().window_bytes],
        "longer": data + b"\0",
        "half a header": data[:2000],
        "another kind": b"GGUF" + data,
        "empty": b"",
        "damaged": data.replace(b'"context":10', b'"context":"a"', 1),
        "unknown field": data.replace(b'"context"', b'"kontext"', 1),
        "no window": data.replace(b'"windows":5', b'"windows":0', 1)[:HEADER_BYTES],
        "strange tokens": data[:HEADER_BYTES] + b"\xff" * 4 + data[HEADER_BYTES + 4 :],
    }
    path.write_bytes(changes[how])


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("truncated", "is truncated: it holds 4 windows, 5 were written"),
        ("one window short", "is truncated: it holds 4 windows, 5 were written"),
        ("longer", "longer than its header says"),
        ("half a header", "is truncated: it holds 0 windows"),
        ("another kind", "is no reference"),
        ("empty", "is no reference"),
        ("damaged", "its header is damaged"),
        ("unknown field", "its header is damaged"),
        ("no window", "holds nothing to compare with"),
        ("strange tokens", "tokens outside its vocabulary of 24"),
    ],
)
def test_broken_references_say_how(how: str, sentence: str, tmp_path: Path) -> None:
    broken(path := write(tmp_path / "r", ToyRunner(V)), how)
    with pytest.raises(FormatError, match=sentence):
        assert Reference(path).windows


def test_other_texts_and_other_windows_are_refused(tmp_path: Path) -> None:
    reference = Reference(write(tmp_path / "r", ToyRunner(V)))
    reference.require_text(WINDOWS)
    reference.require_text(Windows(np.concatenate([WINDOWS.tokens, WINDOWS.tokens])))  # only its beginning was asked
    other = WINDOWS.tokens.copy()
    other[2, 3] += 1
    for windows in (Windows(other), WINDOWS.head(3)):
        with pytest.raises(UsageError, match=r"made of another text \(t.txt\)"):
            reference.require_text(windows)
    with pytest.raises(UsageError, match="windows of 10 tokens, not 8"):
        reference.require_text(Windows(WINDOWS.tokens[:, :8]))


def test_other_vocabularies_are_refused(tmp_path: Path) -> None:
    metadata = dict(open_checkpoint(model_path()).metadata)
    tokens = list(metadata["tokenizer.ggml.tokens"])
    tokens[1:3] = tokens[2:0:-1]
    known, other = (
        Tokenizer.from_metadata({**metadata, "tokenizer.ggml.tokens": t})
        for t in (metadata["tokenizer.ggml.tokens"], tokens)
    )
    with Writer(tmp_path / "r", header(vocabulary=vocabulary_hash(known), windows=1)) as save:
        save.tokens(WINDOWS.tokens[0])
        window_nll(ToyRunner(V), WINDOWS, 0, V, save)
    reference = Reference(tmp_path / "r")
    reference.require_vocabulary(known, V, "m")
    for tokenizer, n_vocab in ((other, V), (known, V + 1)):
        with pytest.raises(UsageError, match="probabilities of different tokens can't be compared"):
            reference.require_vocabulary(tokenizer, n_vocab, "m")


def test_what_does_not_fit_the_disk_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="GB are free: give fewer --chunks"):
        Writer(tmp_path / "r", header(windows=1 << 40))
    assert not (tmp_path / "r").exists()
