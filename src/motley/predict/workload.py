"""Workload: what is to be timed. `pp512` processes a prompt of 512 tokens, `tg64` generates 64 of them one by one."""

import re
from dataclasses import dataclass
from typing import Literal, Self

from motley.errors import UsageError

STEP_TOKENS = 512  # the most that a step carries, the engine's prefill chunk, where nothing else is asked for
MOST_STEP_TOKENS = 8192  # of whose activations a link's message still holds all

_NAME = re.compile(r"(pp|tg)([0-9]{1,9})(?:@d([0-9]{1,9}))?(?:x([0-9]{1,6}))?")


@dataclass(frozen=True)
class Workload:
    """`batch` sequences, each with `depth` tokens in its cache beforehand, each given or generating `tokens` more.
    A prompt is processed `chunk` tokens a step."""

    kind: Literal["decode", "prefill"] = "decode"
    tokens: int = 64
    depth: int = 0
    batch: int = 1
    chunk: int = STEP_TOKENS

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.batch < 1 or self.depth < 0 or self.chunk < 1:
            raise UsageError(f"the workload {self.name}: it takes at least one token of one sequence")

    @classmethod
    def parse(cls, name: str, depth: int = 0, batch: int = 1, chunk: int = STEP_TOKENS) -> Self:
        """`pp512`, `tg64`, `tg64@d1024` (1024 tokens deep), `tg64x4` (4 sequences at once)."""
        match = _NAME.fullmatch(name.strip())
        if not match:
            raise UsageError(f"unknown workload {name!r}: write pp512 or tg64, with @d1024 for depth, x4 for a batch")
        kind: Literal["decode", "prefill"] = "prefill" if match[1] == "pp" else "decode"
        return cls(kind, int(match[2]), int(match[3] or depth), int(match[4] or batch), chunk)

    @property
    def name(self) -> str:
        depth = f"@d{self.depth}" if self.depth else ""
        batch = f"x{self.batch}" if self.batch > 1 else ""
        return f"{'pp' if self.kind == 'prefill' else 'tg'}{self.tokens}{depth}{batch}"

    @property
    def context(self) -> int:
        """Cache positions that one sequence needs."""
        return self.depth + self.tokens

    def too_long(self, longest: int) -> str:
        """Why it is not predicted for a model made for `longest` positions; empty where it is."""
        if self.context <= longest:
            return ""
        return f"{self.context:,} positions, the model was made for {longest:,}: not predicted"

    @property
    def step_tokens(self) -> int:
        """Tokens in one step, all sequences together: a whole chunk, or one of each sequence."""
        return self.batch if self.kind == "decode" else min(self.tokens * self.batch, self.chunk)

    @property
    def mean_depth(self) -> float:
        """Positions that a token attends to, itself included, averaged over the run."""
        return self.depth + (self.tokens + 1) / 2
