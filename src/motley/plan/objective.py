"""Objective: what the placement shall make short, as a sum of steps.

decode      the time of a generated token (the workload's sequences one token further);
throughput  the same with a batch: the most tokens per second of all sequences together;
ttft        time to first token: the whole prompt, then one step of generating.

A workload says by itself which of them it means (`pp512` the prompt, `tg64x8` the batch); several, as `pp512+tg64`, are
one request: the prompt, then that many tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from motley.errors import UsageError
from motley.predict.workload import STEP_TOKENS, Workload

NAMES = ("decode", "throughput", "ttft")
_BATCH = 8  # sequences at once, where throughput is asked for and no batch is given
PROMPT = 512


@dataclass(frozen=True)
class Objective:
    """`parts`: workloads and how many steps of each count; the first is what a plan's prediction is about."""

    name: str
    parts: tuple[tuple[Workload, float], ...]

    @classmethod
    def of(cls, workload: Workload, name: str | None = None, prompt: int = PROMPT) -> Self:
        """`prompt`: tokens of it, for the time to first token where the workload has none. Raises UsageError for an
        unknown name."""
        if name is None:
            name = "ttft" if workload.kind == "prefill" else "throughput" if workload.batch > 1 else "decode"
            return cls(name, ((workload, 1.0),))
        if name == "decode":
            return cls(name, ((workload if workload.kind == "decode" else _after(workload, 64), 1.0),))
        if name == "throughput":
            decode = workload if workload.kind == "decode" else _after(workload, 64)
            return cls(name, ((decode if decode.batch > 1 else replace(decode, batch=_BATCH), 1.0),))
        if name == "ttft":
            before = workload
            if workload.kind == "decode":
                before = Workload("prefill", workload.depth or prompt, batch=workload.batch, chunk=workload.chunk)
            return cls(name, ((before, _steps(before)), (_after(before, 1), 1.0)))
        raise UsageError(f"unknown objective {name!r}: choose {', '.join(NAMES)}")

    @classmethod
    def parse(
        cls,
        workloads: str,
        name: str | None = None,
        batch: int = 1,
        prompt: int = PROMPT,
        chunk: int = STEP_TOKENS,
    ) -> Self:
        """`tg64`, `pp512@d1024`, `pp512+tg64`; `batch` where a workload names none. Raises UsageError for what is none
        of them, and for a sum with another name."""
        parts = [Workload.parse(part, batch=batch, chunk=chunk) for part in workloads.split("+")]
        if len(parts) == 1:
            return cls.of(parts[0], name, prompt)
        if name is not None:
            raise UsageError(f"{workloads} is an objective by itself: leave out {name!r}, or give one workload")
        return cls.request(parts)

    @classmethod
    def request(cls, workloads: Sequence[Workload]) -> Self:
        """All of these, one after the other."""
        if len(workloads) == 1:
            return cls.of(workloads[0])
        return cls("+".join(w.name for w in workloads), tuple((w, _steps(w)) for w in workloads))

    @property
    def first_token(self) -> bool:
        """Whether its time is one to the first token: a prompt and a step."""
        return self.name == "ttft" and len(self.parts) == 2

    @property
    def workloads(self) -> list[Workload]:
        """What must fit the model's context: not the step after a prompt, whose token no later one reads."""
        return [w for w, _ in self.parts[: 1 if self.first_token else None]]

    @property
    def workload(self) -> Workload:
        return self.parts[0][0]

    @property
    def tokens(self) -> float:
        """Tokens that the steps give or take in."""
        return sum(w.step_tokens * steps for w, steps in self.parts)

    @property
    def context(self) -> int:
        """Cache positions that one sequence needs."""
        return max(w.context for w, _ in self.parts)

    @property
    def batch(self) -> int:
        return max(w.batch for w, _ in self.parts)

    @property
    def chunk(self) -> int:
        """The most tokens that a step carries."""
        return max(w.chunk for w, _ in self.parts)


def _steps(workload: Workload) -> float:
    """Of the engine, for the whole workload. A prompt's last chunk counts by its tokens, as in tokens per second."""
    if workload.kind == "decode":
        return float(workload.tokens)
    return workload.tokens * workload.batch / workload.step_tokens


def _after(prompt: Workload, tokens: int) -> Workload:
    """Generating behind that prompt."""
    return Workload("decode", tokens, prompt.depth + prompt.tokens, prompt.batch, prompt.chunk)
