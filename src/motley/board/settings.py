"""What the host allows: `board.toml` in the board's folder. Nothing else is loaded, downloaded or run."""

import re
import tomllib
from datetime import datetime, time
from pathlib import Path
from typing import Annotated

import msgspec

from motley.errors import UsageError

Amount = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]

MOST_TITLE = 80  # characters

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: unknown keys are errors."""


class Limits(Section, frozen=True, kw_only=True):
    model_gb: Amount = 16.0  # of weights, 1e9 bytes
    minutes: Amount = 30.0  # of one run
    tokens: Count = 8192  # of one sequence: context, prompt or generated, together
    sequences: Count = 16  # at once
    attempts: Count = 2  # at a run that ends without a result
    hours: str = ""  # "22:00-06:00": runs start only then, local time; empty: always

    def open_at(self, now: datetime) -> bool:
        """Whether a run may start."""
        if not self.hours:
            return True
        match = _HOURS.fullmatch(self.hours)
        if match is None:
            raise UsageError(f"limits.hours: {self.hours!r} must look like 22:00-06:00")
        h1, m1, h2, m2 = map(int, match.groups())
        start, end, at = time(h1, m1), time(h2, m2), now.time()
        return start <= at < end if start < end else at >= start or at < end


class Models(Section, frozen=True, kw_only=True):
    bundled: bool = True  # the one that ships with Motley
    synthetic: bool = True  # random weights of a catalogue shape, written on this machine: same speed, no meaning
    folders: tuple[str, ...] = ()  # whose GGUF files and Hugging Face folders may be run
    downloads: tuple[str, ...] = ()  # exactly these, such as "hf:owner/name:FILE.gguf"; nothing else, ever


class Public(Section, frozen=True, kw_only=True):
    moderated: bool = True  # requests and results of others wait for `motley board approve`
    behind_proxy: bool = False  # one proxy in front: the last address of X-Forwarded-For is the visitor's
    asks_per_hour: Count = 12  # of one address
    votes_per_hour: Count = 60
    results_per_hour: Count = 12
    pages_per_minute: Count = 240
    most_open: Count = 500  # requests and results that wait; beyond, nothing new is taken
    result_mb: Amount = 4.0  # of a submitted result


class Settings(Section, frozen=True, kw_only=True):
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_TITLE)] = "Motley board"
    lab: str = "lab.toml"  # what `motley probe` measured; relative to the board's folder
    cluster: str = ""  # run on this cluster's joined nodes instead of on local ones
    trusted_lan: bool = False  # of that cluster: see `motley node --trusted-lan`
    repeat: Count = 5  # samples a test
    limits: Limits = Limits()
    models: Models = Models()
    public: Public = Public()


def load_settings(path: Path) -> Settings:
    """UsageError names the file and the key."""
    try:
        found = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Settings)
    except FileNotFoundError:
        raise UsageError(f"there is no board at {path.parent}: `motley board init` makes one") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{path} can't be read ({reason}): give its user the right to, or write it anew") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{path}: {error}") from None
    found.limits.open_at(datetime.now())  # says now what is wrong with the hours
    for name in found.models.downloads:
        if not name.startswith("hf:"):
            raise UsageError(f"{path}: models.downloads: {name!r} must be hf:owner/name or hf:owner/name:FILE")
    return found
