"""`POST /v1/completions`: text that goes on, without a template."""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from motley.serve.asking import Asked, ask, token_of
from motley.serve.events import DONE, Events, event, while_there
from motley.serve.problems import Problem
from motley.serve.read import decode, prompts_of
from motley.serve.records import CompletionRequest, completion_request
from motley.serve.sequence import Piece
from motley.serve.service import Service

MAX_TOKENS = 16  # OpenAI's default


async def completions(request: Request) -> Response:
    service: Service = request.app.state.service
    read = decode(completion_request, await request.body(), service.limits)
    prompts = await service.apart(_prompts, service, read)
    most = read.max_tokens or MAX_TOKENS
    asked = ask(service, read, prompts, most, kind="cmpl", n_odds=read.logprobs, continues=True)
    asked.start()
    if read.stream:
        return Events(_stream(asked), asked.close)
    return await while_there(request, _whole(asked), asked.close)


def _prompts(service: Service, request: CompletionRequest) -> list[list[int]]:
    vocab_size, found = service.served.vocab_size, []
    for prompt in prompts_of(request, service.limits):
        if isinstance(prompt, str):
            found.append(service.served.tokenizer.encode_prompt(prompt))
        elif all(0 <= token < vocab_size for token in prompt):
            found.append(prompt)
        else:
            raise Problem(400, f"prompt: token ids must be between 0 and {vocab_size - 1}", param="prompt")
    return found


async def _stream(asked: Asked) -> AsyncGenerator[bytes, None]:
    written = dict[int, int]()
    async for pieces in asked.pieces():
        out = []
        for choice, piece in pieces:
            if piece.text or piece.odds or piece.finish:
                chunk = _body(asked, [_choice(asked, choice, piece, written)])
                out.append(event(chunk | {"usage": None} if asked.usage_wanted else chunk))
        if out:
            yield b"".join(out)
    last = _body(asked, []) | {"usage": asked.usage(), "timings": asked.timings()}
    yield (event(last) if asked.usage_wanted else b"") + DONE


async def _whole(asked: Asked) -> Response:
    choices = [_choice(asked, choice, whole, {}) for choice, whole in enumerate(await asked.whole())]
    body = _body(asked, choices) | {"usage": asked.usage(), "timings": asked.timings()}
    return Response(msgspec.json.encode(body), media_type="application/json")


def _body(asked: Asked, choices: list[Any]) -> dict[str, Any]:
    return {
        "id": asked.id,
        "object": "text_completion",
        "created": asked.created,
        "model": asked.model,
        "choices": choices,
    }


def _choice(asked: Asked, index: int, piece: Piece, written: dict[int, int]) -> dict[str, Any]:
    """`written`: characters of each choice so far, for the offsets."""
    odds = _odds(asked, piece, written.get(index, 0))
    written[index] = written.get(index, 0) + len(piece.text)
    return {"index": index, "text": piece.text, "logprobs": odds, "finish_reason": piece.finish or None}


def _odds(asked: Asked, piece: Piece, at: int) -> dict[str, Any] | None:
    if asked.sequences[0].chooser.n_odds is None:
        return None
    tokens = [token_of(asked.service, odds.token, odds.logprob) for odds in piece.odds]
    offsets = []
    for token in tokens:
        offsets.append(at)
        at += len(token["token"])
    tops = [[token_of(asked.service, *top) for top in odds.top] for odds in piece.odds]
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [{t["token"]: t["logprob"] for t in top} for top in tops],
        "text_offset": offsets,
    }
