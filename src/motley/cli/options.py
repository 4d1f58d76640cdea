"""Arguments that several commands share, and how their text becomes values. Wrong values are UsageErrors."""

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from motley.bundled import model_path
from motley.errors import UsageError
from motley.predict.workload import MOST_STEP_TOKENS, STEP_TOKENS
from motley.shape.catalogue import find
from motley.shape.mixer import ELEMENT_BYTES
from motley.shape.model import ModelShape

MODEL_HELP = "a GGUF file, a Hugging Face folder, or hf:owner/name[:FILE] (default: the bundled model)"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def cache_type(parser: argparse.ArgumentParser) -> None:
    kept = "how keys and values are stored: q8_0 takes half of f16's memory (default: %(default)s)"
    parser.add_argument("--cache-type", choices=list(ELEMENT_BYTES), default="f16", help=kept)


def step_tokens(parser: argparse.ArgumentParser) -> None:
    carried = "the most a step carries of prompts: more is faster where experts are brought to a GPU, and takes memory"
    parser.add_argument(
        "--step-tokens", type=_step_tokens, default=STEP_TOKENS, metavar="N", help=f"{carried} (default: %(default)s)"
    )


def _step_tokens(text: str) -> int:
    value = _whole(text)
    if not 1 <= value <= MOST_STEP_TOKENS:
        raise argparse.ArgumentTypeError(f"{text} tokens are no step: give 1 to {MOST_STEP_TOKENS:,}")
    return value


def positive(text: str) -> int:
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def not_negative(text: str) -> int:
    value = _whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} must not be negative")
    return value


def port(text: str) -> int:
    value = _whole(text)
    if not 0 <= value < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is no port: they go from 1 to 65535, and 0 takes a free one")
    return value


class _NoNumber(argparse.ArgumentTypeError, ValueError):
    """Told as it is by an argument that is one number; lists of them say more."""


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _NoNumber(f"{text[:40]!r} must be a whole number") from None


def counts(text: str) -> list[int]:
    """`128,512` -> [128, 512]"""
    try:
        return [positive(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number or a list such as 128,512") from None


def whole_numbers(text: str) -> list[int]:
    """As `counts`, 0 included: `0,4096` -> [0, 4096]"""
    try:
        return [not_negative(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number or a list such as 0,4096") from None


def memory(text: str) -> int:
    """`8GB`, `512MiB`, `6e9` -> bytes"""
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([KMGT]?I?)B?", text.strip(), re.IGNORECASE)
    try:
        if match is None:
            raise ValueError
        return int(float(match[1]) * UNITS[match[2].upper()])
    except (ValueError, KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} must be a size such as 512MiB or 8GB") from None


@dataclass(frozen=True)
class Offered:
    """A device that a node owns. memory_bytes 0: nobody said."""

    spec: str
    memory_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.spec}={self.memory_bytes}" if self.memory_bytes else self.spec


def device(text: str) -> Offered:
    """`cpu`, `mlx=8GB`, `tinygrad:CUDA`"""
    from motley.ops.devices import check_spec  # numpy is not for everybody's start

    spec, _, size = text.partition("=")
    try:
        return Offered(check_spec(spec), memory(size) if size else 0)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_device(parser: argparse.ArgumentParser, whose: str = "this node") -> None:
    parser.add_argument(
        "--device",
        type=device,
        action="append",
        default=[],
        metavar="SPEC[=SIZE]",
        help=f"what {whose} computes on: cpu (default), mlx or tinygrad:NAME, and how much of its memory it may take; "
        "give it again for a node of several devices, the first of which begins a step",
    )


def not_with_lab(args: argparse.Namespace, *flags: str) -> None:
    """A lab file says these of each of its devices: beside it they would be lost."""
    for flag in flags:
        if getattr(args, flag) and args.lab:
            raise UsageError(f"--{flag} with --lab: the file says it of each device: change it there, or leave it out")


def output_file(text: str) -> Path:
    """A file to write at the end: refused now where it can't be, before the work is done."""
    path = Path(text)
    if text == "-":
        raise argparse.ArgumentTypeError("- is no file here: name one, such as out.json or /dev/stdout")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text or path} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}: make it first, or write elsewhere")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} can't be written by this user: write elsewhere")
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the file where writing it goes wrong: a full disk's own error does not."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path} was not written: {error.strerror or error}") from None


def no_repack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-repack",
        dest="repack",
        action="store_false",
        help="leave the weights in the mapped file: there at once, shared with other processes, slower",
    )


def model_file(given: str | None) -> Path:
    """The named file or Hugging Face directory, what `hf:` names (downloaded where it is not here), or the bundled
    model. Where it names a shape of the catalogue instead, the error says what can be done with that."""
    if given and given.startswith("hf:"):
        from motley.formats.hub import download

        return download(given)
    path = Path(given) if given else model_path()
    if path.is_dir():
        return path
    if given and not path.exists() and path.suffix != ".gguf" and (shape := find(given)):
        ModelShape.named(shape).require_runs()
        raise UsageError(
            f"{given} is a shape, not a file: `motley synth --shape {shape} -o FILE` writes random weights"
        )
    if not path.is_file():
        raise UsageError(
            f"there is no file {path}: give a GGUF file, a Hugging Face folder, or nothing for the bundled model"
        )
    return path
