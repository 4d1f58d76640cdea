"""Train the bundled model's tokenizer and weights on the corpus that `corpus.py` wrote.

Owns the byte-level BPE (qwen2's pre-tokenizer), the mixture of domains, the schedule and the
optimiser. Checkpoints every few minutes; a started run continues where it was cut.

    pip install torch==2.13.0 tokenizers
    python tools/bundled/train.py --work build/bundled --minutes 70 --threads 2

The learning rate falls linearly to zero over the minutes given (or over `--tokens`, which makes
the run reproducible: same seed, same threads, same tokens, same weights).
"""

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from model import Config, Model
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

END = "<|endoftext|>"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pre-tokenizer that GGUF calls `qwen2` (Qwen2's tokenizer.json, Apache-2.0)."""
MIXTURE = {"novel": 0.25, "scripture": 0.16, "docs": 0.25, "man": 0.10, "code": 0.13, "dictionary": 0.11}
DOMAIN_BYTES = 10_000_000
"""At most this much of a domain is read: more would not be seen in the time there is."""
BATCH_TOKENS = 4096
LENGTHS = ((0.0, 256), (0.72, 512), (0.92, 1024))
"""From this part of the schedule on, sequences have this many tokens."""
BALANCE = ((0.0, 0.01), (0.1, 0.002), (0.85, 0.0005))
"""Weight of the load-balancing loss, per layer, from this part of the schedule on: first none
must die, then experts may go their own ways."""


def read_pieces(work: Path, domain: str, part: str) -> list[str]:
    return [json.loads(line) for line in (work / "corpus" / f"{domain}.{part}.jsonl").open()]


def training_text(work: Path, domain: str, seed: int) -> list[str]:
    """A domain's training pieces in a seeded order, cut at `DOMAIN_BYTES`."""
    pieces = read_pieces(work, domain, "train")
    random.Random(f"{seed} {domain}").shuffle(pieces)
    total, kept = 0, []
    for piece in pieces:
        total += len(piece.encode())
        if total > DOMAIN_BYTES:
            break
        kept.append(piece)
    return kept


def train_tokenizer(work: Path, vocab: int, seed: int) -> Tokenizer:
    """A byte-level BPE of `vocab` tokens, learnt from 24 MB in the mixture's proportions."""
    path = work / "tokenizer.json"
    if path.exists():
        return Tokenizer.from_file(str(path))

    def sample() -> Iterator[str]:
        for domain, share in MIXTURE.items():
            budget = share * 24e6
            for piece in training_text(work, domain, seed):
                budget -= len(piece)
                if budget > 0:
                    yield piece

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sample(), trainer)
    tokenizer.save(str(path))
    return tokenizer


def token_stream(tokenizer: Tokenizer, pieces: list[str]) -> np.ndarray:
    """Pieces as one uint16 stream, each closed by `END`."""
    end = tokenizer.token_to_id(END)
    parts = []
    for at in range(0, len(pieces), 256):
        for encoding in tokenizer.encode_batch(pieces[at : at + 256]):
            parts.append(np.array([*encoding.ids, end], dtype=np.uint16))
    return np.concatenate(parts)


def load_streams(work: Path, tokenizer: Tokenizer, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """{"train" | "held": {domain: uint16 tokens}}, cached in `tokens.npz`."""
    path = work / "tokens.npz"
    if not path.exists():
        streams = {}
        for domain in MIXTURE:
            streams[f"train.{domain}"] = token_stream(tokenizer, training_text(work, domain, seed))
            held = read_pieces(work, domain, "held") + read_pieces(work, domain, "show")
            streams[f"held.{domain}"] = token_stream(tokenizer, held)
        np.savez(path, **streams)  # type: ignore[arg-type]
    with np.load(path) as file:
        return {part: {d: file[f"{part}.{d}"] for d in MIXTURE} for part in ("train", "held")}


class Batches:
    """Random windows of the training streams; every sequence is of one domain."""

    def __init__(self, streams: dict[str, np.ndarray], seed: int) -> None:
        self.streams = streams
        self.random = np.random.default_rng(seed)

    def draw(self, length: int) -> Tensor:
        """int64 [BATCH_TOKENS / length, length + 1]"""
        rows = []
        for domain in self.random.choice(list(MIXTURE), BATCH_TOKENS // length, p=list(MIXTURE.values())):
            stream = self.streams[domain]
            at = self.random.integers(len(stream) - length - 1)
            rows.append(stream[at : at + length + 1].astype(np.int64))
        return torch.from_numpy(np.stack(rows))


class Head(torch.autograd.Function):
    """Mean cross entropy of hidden @ embedding.T, a slice of rows at a time.

    Gradients are made on the way forward, so that the [BT, V] logits never stand in memory.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, hidden: Tensor, table: Tensor, target: Tensor) -> Tensor:
        d_hidden, d_table, loss = torch.empty_like(hidden), torch.zeros_like(table), 0.0
        for a in range(0, len(hidden), 1024):
            rows, wanted = hidden[a : a + 1024], target[a : a + 1024, None]
            p = rows @ table.t()
            p.sub_(p.amax(1, keepdim=True))
            right = p.gather(1, wanted)
            total = p.exp_().sum(1, keepdim=True)
            loss += float((total.log() - right).sum())
            p.div_(total * len(hidden)).scatter_add_(1, wanted, torch.full_like(right, -1 / len(hidden)))
            torch.mm(p, table, out=d_hidden[a : a + 1024])
            d_table.addmm_(p.t(), rows)
        ctx.save_for_backward(d_hidden, d_table)
        return hidden.new_tensor(loss / len(hidden))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        d_hidden, d_table = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * d_hidden, grad * d_table, None


def orthogonalised(update: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices to [..., out, in], by five Newton-Schulz rounds.

    This is Muon's step (Keller Jordan, 2024; coefficients from there): all directions of a
    gradient count alike, which learns markedly more from few tokens than Adam does.
    """
    x = update / (update.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    wide = x.mT if x.shape[-2] > x.shape[-1] else x
    for _ in range(5):
        square = wide @ wide.mT
        wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
    return wide.mT if x.shape[-2] > x.shape[-1] else wide


class Muon:
    """Momentum and orthogonalisation for the hidden matrices (experts are batches of them)."""

    def __init__(self, parameters: list[torch.nn.Parameter], rate: float) -> None:
        self.parameters, self.rate = parameters, rate
        self.momentum = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, scale: float) -> None:
        for p, m in zip(self.parameters, self.momentum, strict=True):
            assert p.grad is not None
            m.lerp_(p.grad, 0.05)
            taller = max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5
            p.sub_(orthogonalised(p.grad.lerp(m, 0.95)), alpha=self.rate * scale * taller)


@dataclass
class Clock:
    """How far the schedule is: by tokens, or by wall time without the pauses."""

    minutes: float
    tokens: int | None
    pause_file: Path | None
    before: float = 0.0  # seconds of earlier runs
    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def progress(self, seen: int) -> float:
        return min(1.0, seen / self.tokens if self.tokens else self.seconds() / 60 / self.minutes)

    def wait_while_paused(self) -> None:
        stopped = time.monotonic()
        while self.pause_file and self.pause_file.exists():
            time.sleep(1)
        self.started += time.monotonic() - stopped


def scheduled(steps: tuple[tuple[float, float], ...], progress: float) -> float:
    return next(value for start, value in reversed(steps) if progress >= start)


@torch.no_grad()
def held_out_loss(model: Model, streams: dict[str, np.ndarray], length: int = 512, rows: int = 6) -> dict[str, float]:
    """Mean loss in nats per token over the same evenly spaced windows every time."""
    losses = {}
    for domain, stream in streams.items():
        starts = np.linspace(0, len(stream) - length - 1, rows).astype(int)
        ids = torch.from_numpy(np.stack([stream[s : s + length + 1] for s in starts]).astype(np.int64))
        logits = model.logits(ids[:, :-1])
        losses[domain] = float(F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
    return losses


def expert_loads(routes: list[Tensor], experts: int) -> str:
    """Least and most chosen expert per layer, over an even share."""
    shares = [torch.bincount(r.flatten(), minlength=experts) * experts / r.numel() for r in routes]
    return " ".join(f"{float(s.min()):.2f}-{float(s.max()):.1f}" for s in shares)


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    work: Path = options.work
    tokenizer = train_tokenizer(work, Config.vocab, options.seed)
    streams = load_streams(work, tokenizer, options.seed)
    counts = {d: len(s) for d, s in streams["train"].items()}
    model = Model(Config(vocab=tokenizer.get_vocab_size()), options.seed)
    named = dict(model.named_parameters())
    muon_names = [n for n, p in named.items() if p.ndim >= 2 and "embd" not in n and "gate_inp" not in n]
    muon = Muon([named[n] for n in muon_names], rate=0.02)
    rest = [p for n, p in named.items() if n not in muon_names]
    adam = torch.optim.Adam(rest, lr=3e-3, betas=(0.9, 0.95))
    clock = Clock(options.minutes, options.tokens, options.pause_file)
    seen = step = 0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        adam.load_state_dict(saved["adam"])
        muon.momentum = saved["momentum"]
        clock.before, seen, step = saved["seconds"], saved["seen"], saved["step"]
    batches = Batches(streams["train"], options.seed + step)
    log = (work / "train.log").open("a", buffering=1)
    print(f"parameters {sum(p.numel() for p in named.values()):,} tokens {counts}", file=log)
    last_save = last_line = clock.seconds()
    lines_tokens = seen

    def save() -> None:
        losses = held_out_loss(model, streams["held"])
        mean = sum(MIXTURE[d] * loss for d, loss in losses.items())
        by_domain = " ".join(f"{d} {loss:.3f}" for d, loss in losses.items())
        print(f"held-out: step {step} tokens {seen:,} loss {mean:.4f} ({by_domain})", file=log)
        state = {"model": model.state_dict(), "adam": adam.state_dict(), "momentum": muon.momentum}
        where = {"seconds": clock.seconds(), "seen": seen, "step": step, "held_out": losses}
        torch.save({**state, **where, "config": model.config.as_dict()}, work / "checkpoint.tmp")
        os.replace(work / "checkpoint.tmp", checkpoint)

    while (progress := clock.progress(seen)) < 1:
        clock.wait_while_paused()
        length = int(scheduled(LENGTHS, progress))
        ids = batches.draw(length)
        hidden, balance, routes = model(ids[:, :-1])
        loss = Head.apply(hidden.flatten(0, 1), model.weight("token_embd"), ids[:, 1:].flatten())
        (loss + scheduled(BALANCE, progress) * model.config.layers * balance).backward()
        scale = min(1.0, (step + 1) / 40) * (1 - progress)
        for group in adam.param_groups:
            group["lr"] = 3e-3 * scale
        adam.step()
        muon.step(scale)
        model.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + BATCH_TOKENS
        loss, balance = loss.detach(), balance.detach()
        if not math.isfinite(float(loss)):
            raise SystemExit(f"loss is {float(loss)} at step {step}: start again with a lower rate")
        if step % 10 == 0:
            now = clock.seconds()
            print(
                f"step {step} tokens {seen:,} loss {float(loss):.4f} balance {float(balance):.3f} "
                f"loads {expert_loads(routes, model.config.experts)} length {length} rate {scale:.3f} "
                f"{(seen - lines_tokens) / (now - last_line):.0f} tokens/s {now / 60:.1f} min",
                file=log,
            )
            last_line, lines_tokens = now, seen
        if clock.seconds() - last_save > 300:
            save()
            last_save = clock.seconds()
    save()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/bundled"))
    parser.add_argument("--minutes", type=float, default=70.0)
    parser.add_argument("--tokens", type=int, help="end after this many tokens, whatever the clock says")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause-file", type=Path, help="sleep while this file exists")
    train(parser.parse_args())
