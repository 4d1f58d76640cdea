"""`motley run`: stream text from a model, on this machine or on a cluster, where it goes on when nodes are lost."""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from motley.cli.joined import DEFAULT, add_grow, add_link, add_trusted_lan, joined_session, named_link, require_cluster
from motley.cli.options import (
    MODEL_HELP,
    add_device,
    cache_type,
    memory,
    model_file,
    no_repack,
    positive,
    step_tokens,
)
from motley.cli.session import Session, local_seats
from motley.cli.show import shown
from motley.engine.engine import Engine
from motley.engine.local import LocalRunner
from motley.engine.sampling import Sampling
from motley.errors import UsageError
from motley.formats.chat import ChatTemplate
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.tokenizer import Tokenizer
from motley.lab.machine import this_machine, usable_cores
from motley.ops.devices import CPU, open_device
from motley.predict.memory import (
    gigabytes,
    kernels_named,
    kv_bytes,
    packed_bytes,
    takes_much_more,
    without_kernels,
    work_bytes,
)
from motley.predict.workload import STEP_TOKENS
from motley.shape.model import ModelShape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help=MODEL_HELP)
    parser.add_argument("-p", "--prompt", help="the prompt (default: standard input)")
    parser.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    parser.add_argument("-n", "--max-tokens", type=positive, default=128, help="new tokens (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=usable_cores(), help="default: %(default)s")
    where = parser.add_mutually_exclusive_group()
    nodes = "over so many local nodes (default: %(default)s)"
    where.add_argument("--nodes", type=positive, default=1, metavar="N", help=nodes)
    joined = "over the joined nodes of a cluster, this machine first; if a node ends or stops, the text goes on"
    where.add_argument("--cluster", nargs="?", const=DEFAULT, metavar="NAME", help=joined)
    add_trusted_lan(parser)
    add_link(parser)
    add_grow(parser)
    memory_help = "with --cluster: what this machine gives, e.g. 8GB (default: what is free)"
    parser.add_argument("--memory", type=memory, default=0, metavar="SIZE", help=memory_help)
    add_device(parser, "this machine")
    cache_type(parser)
    no_repack(parser)
    step_tokens(parser)
    parser.add_argument("--context", type=positive, help="default: what the prompt and the answer need")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=0, help="0 is off (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="1 is off (default)")
    parser.add_argument("--min-p", type=float, default=0.0, help="0 is off (default)")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="1 is off (default)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same text (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    require_cluster(args, "memory", "trusted_lan", "grow")
    sampling = Sampling(args.temperature, args.top_k, args.top_p, args.min_p, args.repetition_penalty, args.seed)
    prompt = args.prompt if args.prompt is not None else sys.stdin.read()
    path = model_file(args.model)
    if path.is_dir() and not (path / "tokenizer.json").is_file():
        raise UsageError(f"{path} has no tokenizer.json, which text needs: download it too")
    checkpoint = open_checkpoint(path)
    for note in checkpoint.notes:
        print(f"note: {note}", file=sys.stderr)
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata)
    tokens = _encode(tokenizer, checkpoint.metadata, prompt, args.chat)
    context = args.context or len(tokens) + args.max_tokens
    if context > (shape := shape_of(checkpoint).with_cache(args.cache_type)).context:
        raise UsageError(
            f"the context of {context} ({len(tokens)} tokens are the prompt's) exceeds the {shape.context} that "
            f"{shape.name} was trained for: shorten the prompt, or ask for fewer tokens with -n"
        )
    if args.nodes > 1 or len(args.device) > 1 or args.cluster:
        with _over_nodes(args, path, shape, context) as engine:
            _stream(engine, tokenizer, tokens, args, sampling)
        return 0
    spec = args.device[0].spec if args.device else CPU
    repack = args.repack and (spec != CPU or repacked_fits(shape, context, args.step_tokens))
    kernels = kernels_named(spec.split(":")[0])
    _say(without_kernels(shape, repack) if spec == CPU else takes_much_more(shape, kernels))
    with shown(Console(stderr=True)) as progress:
        ops = open_device(spec, args.threads)
        runner = LocalRunner(checkpoint, ops, context=context, cache=shape.cache, repack=repack, progress=progress)
    try:
        _stream(Engine(runner, args.step_tokens), tokenizer, tokens, args, sampling)
    finally:
        runner.close()
    return 0


@contextmanager
def _over_nodes(args: argparse.Namespace, path: Path, shape: ModelShape, context: int) -> Iterator[Engine]:
    """What becomes of the nodes goes to standard error."""

    def tell(sentence: str) -> None:
        print(f"\n[{sentence}]", file=sys.stderr, flush=True)

    with _session(args, shape, context) as session:
        print(f"nodes: {session.processes()}; measuring them", file=sys.stderr, flush=True)
        _say(without_kernels(shape, args.repack))
        lab = session.probe()
        with session.surviving(
            str(path),
            lab,
            shape,
            slots=1,
            context=context,
            step_tokens=args.step_tokens,
            repack=args.repack,
            grow=args.grow,
            tell=tell,
        ) as engine:
            print(f"the model is on {', '.join(engine.used)}", file=sys.stderr, flush=True)
            yield engine


def _session(args: argparse.Namespace, shape: ModelShape, context: int) -> Session:
    if args.cluster:
        return joined_session(args, args.threads, args.device)
    cores = usable_cores()
    threads = None if args.threads == cores else args.threads
    seats = local_seats(args.nodes, cores, shape, context, 1, threads, args.device, args.step_tokens)
    return Session.local(seats, named_link(args))


def repacked_fits(shape: ModelShape, context: int, step_tokens: int = STEP_TOKENS) -> bool:
    """Says so where it does not: then the weights stay in the mapped file."""
    need = packed_bytes(shape, shape.n_bytes) + kv_bytes(shape, range(shape.n_layers), context, 1)
    need += work_bytes(shape, step_tokens, home=True)
    free = this_machine().available_bytes
    if need > free:
        print(
            f"repacked, {shape.name} would take {gigabytes(need)}, and {gigabytes(free)} are free: "
            "its weights stay in the mapped file, as with --no-repack",
            file=sys.stderr,
        )
    return need <= free


def _say(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        print(sentence, file=sys.stderr, flush=True)


def _encode(tokenizer: Tokenizer, metadata: Mapping[str, Any], prompt: str, chat: bool) -> list[int]:
    if chat:
        template = ChatTemplate.from_metadata(metadata)
        return tokenizer.encode_prompt(template.render([{"role": "user", "content": prompt}]), special=True)
    tokens = tokenizer.encode_prompt(prompt)
    if not tokens:
        raise UsageError("the prompt is empty: give some text with -p")
    return tokens


def _stream(
    engine: Engine, tokenizer: Tokenizer, tokens: list[int], args: argparse.Namespace, sampling: Sampling
) -> None:
    """Text to standard output as it comes, speeds to standard error at the end."""
    decoder = tokenizer.stream(continues=not args.chat)
    started, first, n = time.perf_counter(), 0.0, 0
    for token in engine.generate(tokens, args.max_tokens, sampling, tokenizer.eos):
        n += 1
        first = first or time.perf_counter()
        if token not in tokenizer.eos:
            print(decoder.push(token), end="", flush=True)
    print(decoder.end())
    ended = time.perf_counter()
    prefill = f"prompt {len(tokens)} tokens, {len(tokens) / (first - started):.1f} tok/s"
    decode = f"; {n - 1} more at {(n - 1) / (ended - first):.1f} tok/s" if n > 1 else ""
    print(prefill + decode, file=sys.stderr)
