"""Suites: named lists of tests, in TOML. Those that come with Motley lie in `suites/`; anyone's own file does as well.

about = "one line for people"
repeat = 5                    # samples of a test, runs of a load

[[speed]]                     # every combination, as `--pp`, `--tg`, `--depth` and `--batch`
pp = [512]
tg = [128]
depth = [0, 4096]
batch = [1]

[[load]]                      # requests in a closed loop, one load for each concurrency
prompt = 128
output = 64
concurrency = [1, 2, 4]
per_slot = 2                  # requests of a run for each that is under way
seconds = 0                   # go on for so long at least (a soak)
ttft_ms = 2000                # what a good request keeps (goodput)
tpot_ms = 100
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec

from motley.bench.load import Objectives
from motley.errors import UsageError
from motley.predict.workload import Workload

FOLDER = files("motley.bench") / "suites"

_Tokens = Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
_Many = Annotated[int, msgspec.Meta(ge=1, le=4096)]
_Time = Annotated[float, msgspec.Meta(gt=0)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Speed(_Table, frozen=True, kw_only=True):
    pp: tuple[_Tokens, ...] = ()
    tg: tuple[_Tokens, ...] = ()
    depth: tuple[_Tokens, ...] = (0,)
    batch: tuple[_Many, ...] = (1,)


class _Load(_Table, frozen=True, kw_only=True):
    prompt: _Number
    output: _Number
    concurrency: tuple[_Many, ...]
    per_slot: _Many = 2
    seconds: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 0.0
    ttft_ms: _Time | None = None
    tpot_ms: _Time | None = None


class _Suite(_Table, frozen=True, kw_only=True):
    about: str
    repeat: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    speed: tuple[_Speed, ...] = ()
    load: tuple[_Load, ...] = ()


@dataclass(frozen=True)
class Load:
    """`concurrency` requests under way at any time, `requests` of them in a run, each a prompt and an answer."""

    prompt: int
    output: int
    concurrency: int
    per_slot: int = 2
    seconds: float = 0.0
    objectives: Objectives | None = None

    @property
    def name(self) -> str:
        """`128+64c4`, a soak `128+64c4 for 600 s`"""
        return f"{self.prompt}+{self.output}c{self.concurrency}" + (f" for {self.seconds:g} s" if self.seconds else "")

    @property
    def requests(self) -> int:
        return self.per_slot * self.concurrency

    @property
    def context(self) -> int:
        """Cache positions that one of its sequences needs."""
        return self.prompt + self.output

    def enough(self, runs: int, seconds: float, repeat: int) -> bool:
        return runs >= repeat and seconds >= self.seconds

    def done(self, runs: int, seconds: float, repeat: int) -> float:
        """The part of the whole, 0..1."""
        return min(1.0, runs / repeat, seconds / self.seconds if self.seconds else 1.0)


Unit = Workload | Load


@dataclass(frozen=True)
class Suite:
    """`units`: what is measured, in order: tests, then loads."""

    name: str
    about: str
    repeat: int
    units: tuple[Unit, ...]

    @classmethod
    def load(cls, name: str) -> "Suite":
        """A suite's name or a TOML file. UsageError names the field, or what there is."""
        if name in names():
            return parse(name, (FOLDER / f"{name}.toml").read_bytes())
        path = Path(name)
        if path.suffix != ".toml":
            raise UsageError(
                f"there is no suite {name!r}: take {', '.join(names())}, or a file of your own (FILE.toml)"
            )
        try:
            return parse(path.stem, path.read_bytes())
        except OSError as error:
            raise UsageError(f"cannot read the suite {name}: {error.strerror}") from None


def names() -> list[str]:
    """Of the suites that come with Motley."""
    return sorted(file.name.removesuffix(".toml") for file in FOLDER.iterdir() if file.name.endswith(".toml"))


def parse(name: str, data: bytes) -> Suite:
    try:
        found = msgspec.toml.decode(data, type=_Suite)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at ")
        raise UsageError(f"suite {name}, {where.strip('`').removeprefix('$.') or 'the file'}: {problem}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"suite {name} is no TOML: {error}") from None
    units: list[Unit] = [w for table in found.speed for w in workloads(table.pp, table.tg, table.depth, table.batch)]
    units += [load for table in found.load for load in _loads(table)]
    if not units:
        raise UsageError(f"suite {name} holds nothing to measure: give it [[speed]] or [[load]]")
    unique = tuple(dict.fromkeys(units))
    _require_names(name, unique)
    return Suite(name, found.about, found.repeat, unique)


def _require_names(suite: str, units: Sequence[Unit]) -> None:
    """Two of one name: the journal would take the first's result for the second's."""
    known: dict[str, Unit] = {}
    for unit in units:
        if (other := known.setdefault(unit.name, unit)) is not unit:
            raise UsageError(
                f"suite {suite}: {_words(other)} and {_words(unit)} are both called {unit.name}: keep one, or change "
                "prompt, output, concurrency or seconds"
            )


def _words(unit: Unit) -> str:
    if isinstance(unit, Workload):
        return unit.name
    wanted = unit.objectives or Objectives()
    given = {"per_slot": unit.per_slot, "ttft_ms": wanted.ttft_ms, "tpot_ms": wanted.tpot_ms}
    return "a load with " + ", ".join(f"{key} = {value:g}" for key, value in given.items() if value)


def workloads(
    pp: Sequence[int], tg: Sequence[int], depths: Sequence[int] = (0,), batches: Sequence[int] = (1,)
) -> list[Workload]:
    """Every combination, prompts first. 0 tokens: none."""
    cases = [(depth, batch) for batch in batches for depth in depths]
    prompts = [Workload("prefill", n, depth, batch) for depth, batch in cases for n in pp if n]
    return prompts + [Workload("decode", n, depth, batch) for depth, batch in cases for n in tg if n]


def _loads(table: _Load) -> list[Load]:
    wanted = Objectives(ttft_ms=table.ttft_ms, tpot_ms=table.tpot_ms)
    objectives = wanted if table.ttft_ms or table.tpot_ms else None
    return [Load(table.prompt, table.output, c, table.per_slot, table.seconds, objectives) for c in table.concurrency]
