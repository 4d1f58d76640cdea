"""`motley eval`: how well a model file, in a quantisation and a placement, predicts a text. docs/eval.md explains."""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import motley
from motley.bundled import heldout_path
from motley.cli import where
from motley.cli.options import MODEL_HELP, model_file, output_file, positive, writing
from motley.cli.show import shown
from motley.engine.runner import Runner
from motley.errors import UsageError
from motley.eval.divergence import Divergence, Summary, window_rows
from motley.eval.perplexity import Perplexity, window_nll
from motley.eval.reference import Header, Reference, Writer, saved_size, vocabulary_hash
from motley.eval.windows import Windows, cut, read_text
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.tensor import Checkpoint
from motley.formats.tokenizer import Tokenizer
from motley.predict.workload import Workload
from motley.progress import Progress
from motley.shape.model import ModelShape

CONTEXT = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "perplexity: of a text; kl: divergence from a reference run"
    parser.add_argument("what", choices=["perplexity", "kl"], help=what)
    parser.add_argument("model", nargs="?", metavar="FILE", help=MODEL_HELP)
    text = "a text, UTF-8 (default: the bundled model's own); with kl: check that the reference is of this one"
    parser.add_argument("--text", type=Path, metavar="FILE", help=text)
    context = f"tokens of a window, the second half of each is scored (default: {CONTEXT}, or the reference's)"
    parser.add_argument("--context", type=positive, metavar="N", help=context)
    parser.add_argument("--chunks", type=positive, metavar="N", help="only the first N windows")
    save = "with perplexity: keep the logits as a reference for kl"
    parser.add_argument("--save-logits", type=output_file, metavar="LOGITS", help=save)
    parser.add_argument("--reference", type=Path, metavar="LOGITS", help="with kl: the reference")
    where.add_arguments(parser, nodes=1)
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the result for programs")


def run(args: argparse.Namespace) -> int:
    if args.what == "perplexity":
        if args.reference:
            raise UsageError("--reference is for `motley eval kl`: leave it out")
        return _perplexity(args)
    if args.save_logits:
        raise UsageError("--save-logits is for `motley eval perplexity`: leave it out")
    if not args.reference:
        raise UsageError("name a reference run: `motley eval perplexity ... --save-logits LOGITS` writes one")
    return _kl(args)


@dataclass(frozen=True)
class Target:
    """The model to be judged."""

    path: Path
    checkpoint: Checkpoint
    shape: ModelShape
    tokenizer: Tokenizer

    @classmethod
    def open(cls, given: str | None) -> "Target":
        checkpoint = open_checkpoint(path := model_file(given))
        return cls(path, checkpoint, shape_of(checkpoint), Tokenizer.from_metadata(checkpoint.metadata))

    def require_context(self, context: int) -> None:
        if context > self.shape.context:
            raise UsageError(
                f"windows of {context} tokens exceed the {self.shape.context} that {self.shape.name} was trained for: "
                "take a shorter --context"
            )

    @property
    def facts(self) -> dict[str, Any]:
        return {"name": self.shape.name, "file": self.path.name, "hash": self.checkpoint.hash}


def _text(args: argparse.Namespace) -> Path:
    if args.text:
        return Path(args.text)
    if args.model:
        raise UsageError("name a text with --text: some hundred kilobytes that the model was not trained on")
    return heldout_path()


def _perplexity(args: argparse.Namespace) -> int:
    target, text, context = Target.open(args.model), _text(args), args.context or CONTEXT
    target.require_context(context)
    windows = cut(target.tokenizer, read_text(text), context).head(args.chunks)
    score = Perplexity()
    with (
        shown(Console(stderr=True)) as progress,
        _running(args, target, context, progress) as (runner, place),
        _saver(args, target, windows, text) as save,
    ):

        def window(i: int) -> str:
            if save:
                save.tokens(windows.tokens[i])
            score.add(window_nll(runner, windows, i, target.shape.vocab_size, save))
            return f"perplexity: {score.value:.4f}"

        started = time.perf_counter()
        whole = _windows(len(windows), window, progress)
        seconds = time.perf_counter() - started
    _write(
        args,
        target,
        {
            "text": {"file": text.name, "tokens_scored": score.tokens},
            "context": context,
            "cache": args.cache_type,
            "windows": score.windows,
            "complete": whole,
            "perplexity": score.value,
            "perplexity_error": score.error,
            "mean_nll": score.mean_nll,
            "mean_nll_error": score.nll_error,
            "where": place,
            "seconds": seconds,
        },
    )
    of = "" if whole else f" of {len(windows)}, interrupted"
    print(f"perplexity {score.value:.4f} ± {score.error:.4f}  ({target.path.name} on {text.name})")
    print(f"mean negative log-likelihood {score.mean_nll:.5f} ± {score.nll_error:.5f} nats a token")
    print(f"{score.windows} windows{of} of {context} tokens, {score.tokens:,} scored, in {seconds:.1f} s; {place}")
    if args.save_logits:
        print(f"logits: {args.save_logits} ({saved_size(args.save_logits)})")
    return 0 if whole else 130


def _kl(args: argparse.Namespace) -> int:
    reference, target = Reference(args.reference), Target.open(args.model)
    reference.require_vocabulary(target.tokenizer, target.shape.vocab_size, target.shape.name)
    context = reference.header.context
    if args.text:
        reference.require_text(cut(target.tokenizer, read_text(args.text), args.context or context))
    elif args.context not in (None, context):
        raise UsageError(f"{reference.path} has windows of {context} tokens, not {args.context}: leave out --context")
    target.require_context(context)
    windows = reference.windows.head(args.chunks)
    divergence = Divergence()
    with shown(Console(stderr=True)) as progress, _running(args, target, context, progress) as (runner, place):

        def window(i: int) -> str:
            divergence.add(window_rows(runner, windows, reference, i))
            return f"divergence: {divergence.mean_kl:.6f} nats"

        started = time.perf_counter()
        whole = _windows(len(windows), window, progress)
        seconds = time.perf_counter() - started
    found = divergence.summary()
    h = reference.header
    made_by = {"model": {"name": h.model, "file": h.model_file, "hash": h.model_hash}, "text": h.text}
    facts = {"reference": made_by, "context": context, "cache": args.cache_type, "complete": whole, **asdict(found)}
    _write(args, target, {**facts, "where": place, "seconds": seconds})
    print(f"{target.path.name} beside {h.model_file} on {h.text}")
    print("\n".join(_kl_lines(found)))
    of = "" if whole else f" of {len(windows)}, interrupted"
    print(f"{found.windows} windows{of} of {context} tokens, {found.tokens:,} scored, in {seconds:.1f} s; {place}")
    return 0 if whole else 130


def _kl_lines(s: Summary) -> Iterator[str]:
    exact = " (the same, to the last bit)" if s.identical else ""
    yield f"KL divergence   mean {s.mean_kl:.3g} ± {s.mean_kl_error:.2g} nats a token{exact}"
    yield f"                median {s.median_kl:.3g}, 99th percentile {s.p99_kl:.3g}, largest {s.max_kl:.3g}"
    yield f"same top token  {100 * s.same_top:.3f} ± {100 * s.same_top_error:.3f} %"
    yield f"perplexity      {s.perplexity:.4f} ± {s.perplexity_error:.4f}, the reference's {s.reference_perplexity:.4f}"
    yield f"their ratio     {s.perplexity_ratio:.6f} ± {s.perplexity_ratio_error:.6f}"


def _running(
    args: argparse.Namespace, target: Target, context: int, progress: Progress
) -> AbstractContextManager[tuple[Runner, str]]:
    workload = Workload("prefill", tokens=context)
    return where.running(args, target.path, target.checkpoint, workload, progress)


def _saver(
    args: argparse.Namespace, target: Target, windows: Windows, text: Path
) -> AbstractContextManager[Writer | None]:
    return Writer(args.save_logits, header_of(target, windows, text)) if args.save_logits else nullcontext()


def header_of(target: Target, windows: Windows, text: Path) -> Header:
    return Header(
        model=target.shape.name,
        model_file=target.path.name,
        model_hash=target.checkpoint.hash,
        text=text.name,
        vocabulary=vocabulary_hash(target.tokenizer),
        n_vocab=target.shape.vocab_size,
        context=windows.context,
        windows=len(windows),
    )


def _windows(n: int, window: Callable[[int], str], progress: Progress) -> bool:
    """Each in turn; False where Ctrl-C came after the first: what there is counts."""
    done = 0
    try:
        for i in range(n):
            said = window(i)
            done += 1
            progress(f"{said} after {done} of {n} windows", done / n)
    except KeyboardInterrupt:
        if not done:
            raise
    return done == n


def _write(args: argparse.Namespace, target: Target, facts: dict[str, Any]) -> None:
    """Before the text: whoever reads that may stop reading."""
    if args.json:
        with writing(args.json):
            document = {"motley": motley.__version__, "model": target.facts, **facts}
            args.json.write_text(json.dumps(document, indent=1) + "\n")
