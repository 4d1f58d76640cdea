"""Route traces made: texts through a model, and which experts each token chose (`predict.routes.Routes`).

Each text is read in windows of `context` tokens that start anew, the last one as long as what is left. Where the
vocabulary adds BOS every window begins with one, as a prompt does; its own choices are not recorded: a sequence has one
BOS and hundreds of other tokens. No logits are computed.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from motley.engine.local import LocalRunner
from motley.errors import UsageError
from motley.formats.tokenizer import Tokenizer
from motley.ops.protocol import Batch
from motley.predict.routes import Routes
from motley.predict.workload import STEP_TOKENS
from motley.shape.model import ModelShape

Ints = NDArray[np.int32]


def text_windows(tokenizer: Tokenizer, text: str, context: int, most: int | None = None) -> list[list[int]]:
    """What is fed, window by window, at most `most` of them."""
    ids = tokenizer.encode(text)
    bos = [tokenizer.bos] if tokenizer.add_bos and tokenizer.bos is not None else []
    each = context - len(bos)
    if each < 1:
        raise UsageError(f"--context {context}: a window takes BOS and at least one token")
    return [bos + ids[i : i + each] for i in range(0, len(ids), each)][:most]


class Tracer:
    """Collects what a runner's tokens choose. `chosen` [tokens, layers, A], zeros in layers without experts."""

    def __init__(self, runner: LocalRunner, shape: ModelShape) -> None:
        self._runner, self._shape = runner, shape
        self.routed = np.array([shape.experts_in(i) > 0 for i in range(shape.n_layers)])
        if not self.routed.any():
            raise UsageError(f"{shape.name} has no experts: there is nothing to trace")

    def window(self, tokens: Sequence[int], skip: int) -> Ints:
        """[tokens - skip, layers, A] of one window."""
        chosen = np.zeros((len(tokens), self._shape.n_layers, self._shape.n_experts_used), np.int32)
        for start in range(0, len(tokens), STEP_TOKENS):
            stop = min(start + STEP_TOKENS, len(tokens))
            self._runner.watch_routes(_into(chosen[start:stop]))
            try:
                self._runner.step(Batch(tokens[start:stop], range(start, stop), [0] * (stop - start), []))
            finally:
                self._runner.watch_routes(None)
        return chosen[skip:]


def _into(chosen: Ints) -> Callable[[int, Ints], None]:
    def watch(layer: int, ids: Ints) -> None:
        chosen[:, layer] = ids

    return watch


def joined(parts: Mapping[str, Sequence[Ints]], n_experts: int, routed: NDArray[np.bool_]) -> Routes:
    """The windows of each text, by its name, as one trace."""
    texts = {name: np.concatenate(windows) for name, windows in parts.items() if windows}
    domain = np.repeat(np.arange(len(texts), dtype=np.int32), [len(chosen) for chosen in texts.values()])
    chosen = np.concatenate(list(texts.values()))
    return Routes(chosen, n_experts, None if routed.all() else routed, domain, tuple(texts))
