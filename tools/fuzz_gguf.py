"""Fuzz the GGUF reader: damaged files must give a MotleyError or open and decode; never crash, hang or eat memory.

    python tools/fuzz_gguf.py                  # 100,000 cases, about three minutes
    python tools/fuzz_gguf.py --cases 1000000 --first 100000
    python tools/fuzz_gguf.py --case 4711      # one case again, with its traceback

Each case is its number: it seeds the damage. Cases run in forked workers under a limit on address space and a time
limit per case; a worker that dies (segmentation fault, bus error) is reported with the case that killed it.
`tests/unit/test_gguf_fuzz.py` drives the same `damage` and `open_everything` from hypothesis.
"""

import argparse
import multiprocessing
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np

from motley.errors import MotleyError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.synth import byte_level_tokenizer
from motley.formats.tokenizer import Tokenizer
from motley.shape.dims import Dims
from motley.shape.model import ModelShape
from motley.shape.quant import Quant

DECODE_BYTES = 1 << 16  # tensors up to this size are decoded
CASE_SECONDS = 2.0
MEMORY_ROOM = 512 << 20  # address space beyond what a worker starts with
BATCH = 5000
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # where a case's file is written

# --- valid files, with the place of every header field


@dataclass(repr=False)
class Builder:
    """A GGUF file in the making; `fields` are (offset, size) of every number in its header."""

    raw: bytearray = field(default_factory=lambda: bytearray(b"GGUF"))
    fields: list[tuple[int, int]] = field(default_factory=lambda: [(0, 4)])

    def number(self, code: str, value: int | float) -> None:
        packed = struct.pack("<" + code, value)
        self.fields.append((len(self.raw), len(packed)))
        self.raw += packed

    def text(self, text: str) -> None:
        self.number("Q", len(text.encode()))
        self.raw += text.encode()

    def pair(self, key: str, kind: int, value: Any) -> None:
        self.text(key)
        self.number("I", kind)
        self.value(kind, value)

    def value(self, kind: int, value: Any) -> None:
        if kind == 8:
            self.text(value)
        elif kind == 9:
            inner, items = value
            self.number("I", inner)
            self.number("Q", len(items))
            for item in items:
                self.value(inner, item)
        else:
            self.number("BbHhIif?__Qqd"[kind], value)

    def info(self, name: str, dims: tuple[int, ...], quant: Quant, offset: int) -> None:
        self.text(name)
        self.number("I", len(dims))
        for dim in reversed(dims):
            self.number("Q", dim)
        self.number("I", quant.ggml_type)
        self.number("Q", offset)


def build(pairs: list[tuple[str, int, Any]], tensors: list[tuple[str, tuple[int, ...], Quant]]) -> Builder:
    builder = Builder()
    builder.number("I", 3)
    builder.number("Q", len(tensors))
    builder.number("Q", len(pairs))
    for pair in pairs:
        builder.pair(*pair)
    offset = 0
    for name, dims, quant in tensors:
        builder.info(name, dims, quant, offset)
        offset += -(-quant.n_bytes(int(np.prod(dims))) // 32) * 32
    builder.raw += bytes(-len(builder.raw) % 32)
    builder.raw += np.random.default_rng(0).bytes(offset)
    return builder


def every_type() -> Builder:
    """All metadata types, nested arrays, all precisions."""
    scalars = {0: 200, 1: -5, 2: 60000, 3: -300, 4: 1 << 31, 5: -1, 6: 0.5, 7: True, 10: 1 << 40, 11: -1, 12: 0.1}
    pairs: list[tuple[str, int, Any]] = [("general.architecture", 8, "olmoe"), ("general.alignment", 4, 32)]
    pairs += [(f"scalar.{kind}", kind, value) for kind, value in scalars.items()]
    pairs += [(f"array.{kind}", 9, (kind, [value] * 3)) for kind, value in scalars.items()]
    pairs += [("texts", 9, (8, ["", "a", "é" * 20])), ("nested", 9, (9, [(9, [(4, [1, 2])]), (8, ["x"])]))]
    pairs += [("split.no", 2, 0), ("split.count", 2, 1), ("split.tensors.count", 5, len(Quant))]
    return build(pairs, [(f"t.{quant.name}", (2, 2, quant.block * 2), quant) for quant in Quant])


KINDS: dict[type, int] = {str: 8, bool: 7, int: 4, float: 6}


def pair_of(key: str, value: Any) -> tuple[str, int, Any]:
    if isinstance(value, list):
        return key, 9, (KINDS[type(value[0])], value)
    return key, KINDS[type(value)], value


def tokenizers() -> list[Builder]:
    """One vocabulary of each kind, without a model."""
    byte_level = byte_level_tokenizer("olmoe", 264)
    letters = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab", "▁ab"]
    pieces = {
        "model": "llama",
        "tokens": letters,
        "scores": [0.0] * 259 + [-5.0, -4.0, -4.0, -3.0, -2.0, -1.0],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * 6,
        "bos_token_id": 1,
        "add_space_prefix": True,
    }
    sentence_piece = {f"tokenizer.ggml.{key}": value for key, value in pieces.items()}
    return [build([pair_of(*pair) for pair in told.items()], []) for told in (byte_level, sentence_piece)]


def whole_model(architecture: str) -> Builder:
    """A model that `shape_of` accepts."""
    dims = Dims(architecture, architecture, 2, 32, 2, 2, 16, 4, 2, 32, 32, 40, 64, 1e-5, 1e4)
    shape = ModelShape.from_dims(dims, "q8_0")
    pairs: list[tuple[str, int, Any]] = [("general.architecture", 8, architecture)]
    pairs += [pair_of(key, value) for key, value in shape.attrs.items()]
    pairs += [("some.texts", 9, (8, [f"t{i}" for i in range(40)]))]
    return build(pairs, [(t.name, t.dims, t.quant) for t in shape.tensors])


def seeds() -> list[Builder]:
    return [every_type(), *(whole_model(name) for name in ("olmoe", "qwen3moe", "llama")), *tokenizers()]


# --- damage: pure functions of the file and three numbers in [0, 1), [0, 1) and 64 bits

EXTREMES = (0, 1, 2, 3, 4, 5, 8, 9, 13, 31, 33, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**48, 2**61,
            2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 2, 2**64 - 1)  # fmt: skip


def overwrite_field(raw: bytearray, seed: Builder, where: float, much: float, bits: int) -> None:
    """A number of the header becomes an extreme one, its neighbour, or any."""
    offset, size = seed.fields[int(where * len(seed.fields))]
    if offset + size > len(raw):
        return
    old = int.from_bytes(raw[offset : offset + size], "little")
    choices = (EXTREMES[bits % len(EXTREMES)], old + 1, old - 1, old * 2, old << 32, old ^ 1 << bits % 64, bits)
    new = choices[int(much * len(choices))]
    raw[offset : offset + size] = (new % (1 << 8 * size)).to_bytes(size, "little")


def swap_fields(raw: bytearray, seed: Builder, where: float, much: float, bits: int) -> None:
    (a, size), (b, _) = (seed.fields[int(x * len(seed.fields))] for x in (where, much))
    if max(a, b) + size <= len(raw):
        raw[a : a + size], raw[b : b + size] = raw[b : b + size], raw[a : a + size]


def flip_bytes(raw: bytearray, seed: Builder, where: float, much: float, bits: int) -> None:
    start = int(where * len(raw))
    for step in range(1 + int(much * 8)):
        if start + step < len(raw):
            raw[start + step] ^= bits >> 8 * step & 0xFF


def truncate(raw: bytearray, seed: Builder, where: float, much: float, bits: int) -> None:
    del raw[int(where * len(raw)) :]


def cut_out(raw: bytearray, seed: Builder, where: float, much: float, bits: int) -> None:
    start = int(where * len(raw))
    del raw[start : start + 1 + int(much * 64)]


def insert(raw: bytearray, seed: Builder, where: float, much: float, bits: int) -> None:
    start = int(where * len(raw))
    raw[start:start] = (bits.to_bytes(8, "little") * 8)[: 1 + int(much * 64)]


def repeat(raw: bytearray, seed: Builder, where: float, much: float, bits: int) -> None:
    start = int(where * len(raw))
    raw[start:start] = raw[start : start + 1 + int(much * 256)]


Damage = Callable[[bytearray, Builder, float, float, int], None]
# Weighted by repetition: most of the reader's decisions hang on the header's numbers.
DAMAGES: tuple[Damage, ...] = (
    overwrite_field, overwrite_field, overwrite_field, overwrite_field, swap_fields, flip_bytes, flip_bytes, truncate,
    cut_out, insert, repeat,
)  # fmt: skip
Edit = tuple[int, float, float, int]  # which damage, where, how much, bits


def damage(seed: Builder, edits: list[Edit]) -> bytes:
    raw = bytearray(seed.raw)
    for kind, where, much, bits in edits:
        DAMAGES[kind % len(DAMAGES)](raw, seed, where, much, bits)
    return bytes(raw)


def case_bytes(all_seeds: list[Builder], number: int) -> bytes:
    rng = np.random.default_rng(number)
    seed = all_seeds[int(rng.integers(len(all_seeds)))]
    # half the positions in the first sixth of the file: the header is small beside the data
    edits = [
        (
            int(rng.integers(99)),
            float(rng.random() ** rng.choice([1, 3])),
            float(rng.random()),
            int(rng.integers(1 << 63)),
        )
        for _ in range(int(rng.geometric(0.6)))
    ]
    return damage(seed, edits)


# --- what is done with a damaged file


def open_everything(path: Path) -> str:
    """Open it, decode its small tensors, use its tokenizer, take its shape. The error's name, or "opened"."""
    try:
        checkpoint = open_checkpoint(path)
        with np.errstate(all="ignore"):
            for tensor in checkpoint.tensors.values():
                if tensor.n_bytes <= DECODE_BYTES:
                    assert tensor.decode().shape == tensor.dims
                    tensor.part(tensor.dims[0] - 1).decode()
        if "tokenizer.ggml.tokens" in checkpoint.metadata:
            tokenizer = Tokenizer.from_metadata(checkpoint.metadata)
            tokenizer.decode(tokenizer.encode("Hab \u00e9<s>", special=True))
        else:
            shape_of(checkpoint)
    except MotleyError as error:
        if len(str(error)) > 2000:
            raise AssertionError("an error is a sentence, not a dump") from error
        return type(error).__name__
    return "opened"


class Hang(BaseException):
    pass


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang(f"took more than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def run_batch(numbers: range, at: "Synchronized[int]", results: Any) -> None:
    """In a worker: run the cases; report outcomes counted and failures with their tracebacks."""
    all_seeds = seeds()
    outcomes: Counter[str] = Counter()
    failures: list[tuple[int, str]] = []
    slowest = (0.0, -1)
    limit_memory()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        path = Path(folder) / "case.gguf"
        for number in numbers:
            at.value = number
            path.write_bytes(case_bytes(all_seeds, number))
            start = time.perf_counter()
            try:
                with time_limit(CASE_SECONDS):
                    outcomes[open_everything(path)] += 1
            except (Exception, Hang):
                failures.append((number, traceback.format_exc()))
            slowest = max(slowest, (time.perf_counter() - start, number))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.put((outcomes, failures, slowest, peak))


def run_all(first: int, cases: int) -> int:
    context = multiprocessing.get_context("fork")
    outcomes: Counter[str] = Counter()
    failures: list[tuple[int, str]] = []
    slowest, peak, begin = (0.0, -1), 0.0, time.perf_counter()
    end = first + cases
    batches = [range(start, min(start + BATCH, end)) for start in range(first, end, BATCH)][::-1]
    while batches:
        batch = batches.pop()
        at, results = context.Value("q", batch.start), context.SimpleQueue()
        worker = context.Process(target=run_batch, args=(batch, at, results))
        worker.start()
        while worker.is_alive() and results.empty():
            worker.join(0.02)
        if results.empty():  # it died and its counts with it: name the case, run those around it again
            failures.append((at.value, f"the worker ended with status {worker.exitcode}"))
            batches += [half for half in (range(at.value + 1, batch.stop), range(batch.start, at.value)) if half]
            continue
        counted, failed, slow, rss = results.get()
        worker.join()
        outcomes += counted
        failures += failed
        slowest, peak = max(slowest, slow), max(peak, rss)
        print(f"\r{sum(outcomes.values()) + len(failures)} of {cases} cases", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(f"{sum(outcomes.values()) + len(failures)} cases in {time.perf_counter() - begin:.0f} s: {dict(outcomes)}")
    print(f"slowest case {slowest[1]}: {1000 * slowest[0]:.1f} ms; peak memory of a worker {peak:.0f} MB")
    print(f"{len(failures)} crashes, hangs or memory bombs")
    for number, text in sorted(failures)[:20]:
        print(f"--- case {number}\n{text}")
    return 1 if failures else 0


def run_one(number: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.gguf"
        path.write_bytes(case_bytes(seeds(), number))
        try:
            open_checkpoint(path)
        except MotleyError as error:
            print(error)
        print(open_everything(path))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", type=int, help="run this one case in this process")
    args = parser.parse_args()
    return run_one(args.case) if args.case is not None else run_all(args.first, args.cases)


if __name__ == "__main__":
    sys.exit(main())
