"""The command `motley`: parses, runs one command, turns errors into one sentence and an exit status.

Exit status: 0 done, 1 a check failed, 2 wrong use or bad input, 130 interrupted. Each command is a module of its own
(`HELP`, `add_arguments(parser)`, `run(args) -> int`), imported when it is asked for.
"""

import argparse
import io
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import NoReturn, Protocol, cast

import motley
from motley.errors import CheckFailed, MotleyError

COMMANDS = {
    "bench": "measure a model on a local cluster of unequal nodes, beside its prediction, and check the answer",
    "run": "generate text from a model",
    "serve": "answer OpenAI clients over HTTP from a model, many at once",
    "plan": "show where attention and every expert would live, how fast that is, and why",
    "predict": "say how fast a model would run on a lab, and the sum behind it; predict published measurements",
    "eval": "judge a quantisation or a placement: perplexity of a text, divergence from a reference run",
    "trace-routes": "record which experts the tokens of texts choose, for plan and predict, and say what that shows",
    "probe": "measure this machine: memory, compute and links, into a lab file",
    "cluster": "make a cluster, print the command by which machines join it, list and revoke tokens",
    "node": "offer this machine to its cluster; with --join, join it first",
    "nodes": "show who is in the cluster now",
    "selftest": "check every operation of every device here, a model over all of them, and how fast they are",
    "doctor": "find what is in the way on this machine or between machines, and say what to do",
    "models": "list the families that run, with the proof of each, and those that are predicted only",
    "synth": "write a model file of a real shape with random weights",
    "convert": "write a model as one GGUF file, quantised if asked",
    "board": "host a board where people ask for benchmarks: predicted at once, measured when they have run",
    "report": "show past benchmark results side by side",
}


class Command(Protocol):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def command(name: str) -> Command:
    return cast(Command, import_module(f"motley.cli.{name.replace('-', '_')}"))


class Parser(argparse.ArgumentParser):
    """What is wrong and where to look, in one line: the whole usage above it would hide it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; `{self.prog} --help` shows what there is\n")


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The whole parser; with `only`, that command's arguments alone are imported (a quick start)."""
    parser = Parser(prog="motley", description=motley.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"motley {motley.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        sub.add_argument("--verbose", action="store_true", help="show the traceback of an error")
        if only is None or only == name:
            command(name).add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return _main(sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt:  # while the command's modules are imported, too
        print("motley: interrupted", file=sys.stderr)
        return 130


def _main(argv: list[str]) -> int:
    args = build_parser(only=argv[0] if argv and argv[0] in COMMANDS else None).parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that can't show a character must not end the command
            stream.reconfigure(errors="replace")
    try:
        return command(args.command).run(args)
    except MotleyError as error:
        if args.verbose:
            traceback.print_exc()
        print(f"motley {args.command}: {error}", file=sys.stderr)
        return 1 if isinstance(error, CheckFailed) else 2
    except BrokenPipeError:  # the reader of our output has gone: not an error of ours
        sys.stderr.close()
        return 0
    except (OSError, MemoryError) as error:  # a full disk, a file that went away, a machine that is too small
        if args.verbose:
            traceback.print_exc()
        print(f"motley {args.command}: {_sentence(error)}", file=sys.stderr)
        return 2


def _sentence(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory: take a shorter --context, a smaller model or fewer sequences at once"
    return str(error)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends a command as Ctrl-C does, so that what it started is ended too."""
    raise KeyboardInterrupt
