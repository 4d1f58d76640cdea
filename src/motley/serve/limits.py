"""What one request, and all of them together, may cost. Everything a client can grow has its end here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    body_bytes: int = 4 << 20
    body_seconds: float = 30.0  # from the first to the last byte of a body
    json_depth: int = 64
    messages: int = 2048
    choices: int = 8  # `n`, and prompts of one completion request
    stops: int = 16
    stop_characters: int = 256
    top_logprobs: int = 20
    logit_bias: int = 1024
    tools: int = 128
    schema_bytes: int = 256 << 10  # all schemas of a request together
    queue: int = 64  # sequences that wait for a slot; more are answered 429
    connections: int = 512
    prompt_threads: int = 2  # render and tokenise prompts
