"""What both completion routes do alike: from a read request and its prompts to sequences under way, and their usage."""

import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter, time
from typing import Any

from motley.serve.answer import Answer
from motley.serve.choosing import Chooser, TokenOdds
from motley.serve.grammar import Grammar
from motley.serve.problems import Problem
from motley.serve.read import bias_of, sampling_of, stops_of
from motley.serve.records import ChatRequest, CompletionRequest
from motley.serve.sequence import Piece, Sequence, Timings, joined
from motley.serve.service import Service, problem_of
from motley.serve.text import Stops

NOTHING: Mapping[int, str] = {}


@dataclass
class Asked:
    """One request under way: its choices, numbered."""

    service: Service
    id: str
    model: str
    usage_wanted: bool
    answer: Answer
    sequences: list[Sequence]
    created: int = field(default_factory=lambda: int(time()))
    n_tokens: dict[int, int] = field(default_factory=dict)
    finishes: dict[int, str] = field(default_factory=dict)
    _closed: bool = False

    def start(self) -> None:
        self.service.submit(self.sequences)

    async def pieces(self) -> AsyncIterator[list[tuple[int, Piece]]]:
        """What came, as it comes, until every choice has ended. Raises `Problem` where one failed."""
        going = len(self.sequences)
        while going:
            pieces = await self.answer.next()
            for choice, piece in pieces:
                self.n_tokens[choice] = piece.n_tokens or self.n_tokens.get(choice, 0)
                if piece.finish:
                    going -= 1
                    self.finishes[choice] = piece.finish
                if piece.error is not None:
                    raise problem_of(piece.error)
            yield pieces

    async def whole(self) -> list[Piece]:
        """Each choice's pieces as one."""
        parts: dict[int, list[Piece]] = {}
        async for pieces in self.pieces():
            for choice, piece in pieces:
                parts.setdefault(choice, []).append(piece)
        return [joined(of) for _, of in sorted(parts.items())]

    def close(self) -> None:
        """At the end, or when nobody waits any more: what still runs is cancelled."""
        if self._closed:
            return
        self._closed = True
        for sequence in self.sequences:
            if not sequence.ended:
                self.service.scheduler.cancel(sequence)
        self.service.journal.write(self._entry())

    def _entry(self) -> dict[str, Any]:
        times = [s.timings for s in self.sequences]
        now, asked, first = perf_counter(), times[0].asked, [t.first for t in times if t.first]
        return {
            "time": self.created,
            "id": self.id,
            "choices": len(self.sequences),
            "prompt_tokens": sum(len(s.prompt) for s in self.sequences),
            "completion_tokens": sum(self.n_tokens.values()),
            "finish": [self.finishes.get(i, "cancelled") for i in range(len(self.sequences))],
            "ttft_ms": round(1e3 * (min(first) - asked), 2) if first else None,
            "seconds": round(now - asked, 4),
        }

    def usage(self) -> dict[str, Any]:
        prompts = {id(s.prompt): s for s in self.sequences}.values()  # choices of one prompt share it
        n_prompt, n_answer = sum(len(s.prompt) for s in prompts), sum(self.n_tokens.values())
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_answer,
            "total_tokens": n_prompt + n_answer,
            "prompt_tokens_details": {"cached_tokens": sum(s.cached for s in prompts)},
        }

    def timings(self) -> dict[str, float]:
        """As llama.cpp's server names them; `queue_ms` beside. Of all choices: `prompt_n` tokens were computed until
        the last of them had its first token; answers count from the first of those."""
        times = [s.timings for s in self.sequences]
        n_prompt = sum(len(s.prompt) - s.cached for s in self.sequences)
        n_answer = sum(self.n_tokens.values())
        prompt_s = max(1e-9, max(t.first for t in times) - min(_started(t) for t in times))
        answer_s = max(1e-9, max(t.ended or perf_counter() for t in times) - min(t.first for t in times))
        later = n_answer - len(self.sequences)  # the first token of each came with its prompt
        return {
            "queue_ms": 1e3 * max(0.0, min(_started(t) - t.asked for t in times)),
            "prompt_n": n_prompt,
            "prompt_ms": 1e3 * prompt_s,
            "prompt_per_second": n_prompt / prompt_s,
            "predicted_n": n_answer,
            "predicted_ms": 1e3 * answer_s,
            "predicted_per_second": later / answer_s if later else 0.0,
        }


def _started(timings: Timings) -> float:
    return timings.started or timings.asked


def ask(
    service: Service,
    request: ChatRequest | CompletionRequest,
    prompts: list[list[int]],
    most: int | None,
    *,
    kind: str,
    n_odds: int | None,
    shown: Mapping[int, str] = NOTHING,
    grammar: Grammar | None = None,
    continues: bool = False,
) -> Asked:
    """`most`: new tokens of each choice; None: as many as the context takes. `kind`: what the id begins with."""
    answer, served = service.answer(), service.served
    stops, bias = stops_of(request, service.limits), bias_of(request, served.vocab_size)
    sequences: list[Sequence] = []
    for prompt in prompts:
        room = service.scheduler.context - len(prompt)
        if (wanted := most or max(1, room)) > room:
            raise Problem(
                400,
                f"{len(prompt)} prompt tokens and {wanted} new ones exceed the context of {service.scheduler.context}: "
                "shorten the prompt, ask for fewer, or serve with a longer --context",
                code="context_length_exceeded",
            )
        if not prompt:
            raise Problem(400, "the prompt is empty: give at least one token", param="prompt")
        for _ in range(request.n or 1):
            choice = len(sequences)
            sequences.append(
                Sequence(
                    prompt=prompt,
                    max_tokens=wanted,
                    chooser=Chooser(sampling_of(request, choice), n_odds, bias, grammar and grammar.copy()),
                    tokenizer=served.tokenizer,
                    deliver=lambda piece, choice=choice: answer.deliver(choice, piece),  # type: ignore[misc]
                    stops=Stops(stops),
                    ends=frozenset() if request.ignore_eos else served.tokenizer.eos,
                    shown=shown,
                    continues=continues,
                )
            )
    include_usage = bool(request.stream_options and request.stream_options.include_usage)
    return Asked(service, f"{kind}-{secrets.token_hex(12)}", served.name, include_usage, answer, sequences)


def token_of(service: Service, token: int, logprob: float) -> dict[str, Any]:
    data = service.served.tokenizer.token_bytes(token) if token < service.served.tokenizer.vocab_size else b""
    return {"token": data.decode(errors="replace"), "logprob": max(logprob, -9999.0), "bytes": list(data)}


def odds_of(service: Service, odds: TokenOdds) -> dict[str, Any]:
    return {
        **token_of(service, odds.token, odds.logprob),
        "top_logprobs": [token_of(service, token, logprob) for token, logprob in odds.top],
    }
