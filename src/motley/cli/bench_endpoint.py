"""`motley bench --endpoint URL`: the same suites against somebody's server."""

import argparse
import os
from collections.abc import Callable

import motley
from motley.bench import facts
from motley.bench.endpoint import Address, require_client
from motley.bench.journal import Journal
from motley.bench.load_http import Served, run_served
from motley.bench.served import ServedResult
from motley.bench.suite import Unit
from motley.cli.unfinished import kept_when_interrupted, open_journal
from motley.errors import UsageError
from motley.predict.workload import STEP_TOKENS
from motley.progress import Progress

# What says where and how a model of ours runs: with a server that is its host's business.
OURS = ("model", "shape", "layers", "lab", "cluster", "memory", "threads", "home", "peer", "trace")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint", metavar="URL", help="bench a server instead: any OpenAI endpoint")
    parser.add_argument("--api-key-env", metavar="NAME", help="of --endpoint: the variable that holds its key")
    parser.add_argument("--model", dest="served_model", metavar="NAME", help="of --endpoint, if it has several")


def bench_endpoint(
    args: argparse.Namespace,
    units: list[Unit],
    repeat: int,
    suite: str | None,
    progress: Progress,
    tell: Callable[[str], None],
) -> tuple[ServedResult, Journal]:
    """As `cli.bench.bench`. UsageError where an argument means nothing to a server."""
    ours = [name for name in OURS if getattr(args, name)]
    ours += ["step-tokens"] * (args.step_tokens != STEP_TOKENS)
    if ours:
        names = ", ".join("FILE" if name == "model" else f"--{name}" for name in ours)
        raise UsageError(f"--endpoint measures a server as it is: leave {names} out")
    require_client()
    address = Address.of(args.endpoint, _key(args.api_key_env))
    journal = Journal(facts.now())
    if suite is not None:
        question = [motley.__version__, facts.commit(), address.base, args.served_model, repeat, units]
        journal = open_journal(suite, question, args.resume, tell)
    asked = Served(address, args.served_model, units, repeat, suite)
    with kept_when_interrupted(journal, len(units), tell):
        return run_served(asked, progress, journal), journal


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name)
    if not key:
        raise UsageError(f"--api-key-env: there is no variable {name}, or it is empty")
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"--api-key-env: what {name} holds can't be a key: a line break at its end, perhaps")
    return key
