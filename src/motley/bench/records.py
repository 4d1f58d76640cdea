"""What all records of a result have in common: strict, immutable, bounded, and the two that hold measured spreads."""

import math
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import Annotated

import msgspec

from motley.errors import FormatError

Name = Annotated[str, msgspec.Meta(max_length=300)]
Text = Annotated[str, msgspec.Meta(max_length=4000)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Size = Annotated[int, msgspec.Meta(ge=1, le=2**62)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Rate = Annotated[float, msgspec.Meta(gt=0)]

LEAST, MOST = 1e-9, 1e15  # of samples: beyond them no machine is, and arithmetic with them overflows


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts: immutable, and nothing unknown is swallowed."""


class Spread(Record, frozen=True, kw_only=True):
    """Median, extremes and the raw samples, in the order in which they were taken."""

    median: Rate
    min: Rate
    max: Rate
    samples: Annotated[tuple[Rate, ...], msgspec.Meta(min_length=1, max_length=10_000)]

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        return cls(median=median(samples), min=min(samples), max=max(samples), samples=tuple(samples))

    @property
    def mean(self) -> float:
        return fmean(self.samples)

    @property
    def stdev(self) -> float:
        """Of the samples (n - 1); 0 where there is one."""
        return stdev(self.samples) if len(self.samples) > 1 else 0.0

    @property
    def cv(self) -> float:
        """Coefficient of variation: stdev / mean."""
        return self.stdev / self.mean


class Interval(Record, frozen=True, kw_only=True):
    """A prediction: eight of ten measurements should fall between p10 and p90."""

    p10: Rate
    p50: Rate
    p90: Rate


def validate_interval(predicted: Interval | None, field: str) -> None:
    """FormatError that names `field` where the percentiles are not in their order."""
    if predicted and not predicted.p10 <= predicted.p50 <= predicted.p90:
        raise FormatError(f"{field}: must keep p10 <= p50 <= p90")


def validate_spread(spread: Spread, field: str) -> None:
    """FormatError that names `field` where the summary does not fit the samples, or no machine has such samples."""
    if not all(LEAST < sample < MOST for sample in spread.samples):
        raise FormatError(f"{field}.samples: must be between {LEAST:g} and {MOST:g}")
    want = Spread.of(spread.samples)
    for name in ("median", "min", "max"):
        said, found = getattr(spread, name), getattr(want, name)
        if not math.isclose(said, found, rel_tol=1e-6):
            raise FormatError(f"{field}.{name}: says {said:g}, but the samples give {found:g}")
