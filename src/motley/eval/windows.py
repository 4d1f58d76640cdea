"""A text as windows: what is fed to the model, and which of its predictions are scored.

The definition is that of llama.cpp's `perplexity` tool, so that numbers compare (facts from its tools/perplexity, in
the llama-cpp-python 0.3.36 source): the text loses one newline at its end; it is tokenised once, with BOS where the
vocabulary adds one, and cut into windows of `context` tokens that do not overlap; what is left over is not read. Each
window starts anew, its first token replaced by BOS where the vocabulary adds one. The first half is context only; the
predictions from position context // 2 on are scored: context - context // 2 - 1 of them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from motley.errors import UsageError
from motley.formats.tokenizer import Tokenizer

SHORTEST = 4  # tokens of a window: fewer leave no half to score


def read_text(path: Path) -> str:
    """UTF-8, without one newline at the end. Raises UsageError."""
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n")
    except OSError as error:
        raise UsageError(f"cannot read the text {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"the text {path} is not UTF-8 (byte {error.start}): convert it first") from None


@dataclass(frozen=True, eq=False)
class Windows:
    tokens: NDArray[np.int32]  # [n, context], as they are fed

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def context(self) -> int:
        return int(self.tokens.shape[1])

    @property
    def first(self) -> int:
        """The first position whose prediction is scored."""
        return self.context // 2

    @property
    def scored(self) -> int:
        """Predictions that are scored in each window."""
        return self.context - self.first - 1

    def targets(self, i: int) -> NDArray[np.int32]:
        """[scored]: the tokens that window i's scored predictions are about."""
        return self.tokens[i, self.first + 1 :]

    def head(self, most: int | None) -> "Windows":
        """The first `most` of them; None: all."""
        return self if most is None else Windows(self.tokens[:most])


def cut(tokenizer: Tokenizer, text: str, context: int) -> Windows:
    """Raises UsageError for a text that does not fill one window."""
    if context < SHORTEST:
        raise UsageError(f"--context {context}: a window takes at least {SHORTEST} tokens")
    ids = np.array(tokenizer.encode_prompt(text), np.int32)
    n = len(ids) // context
    if not n:
        raise UsageError(
            f"the text has {len(ids)} tokens, and one window takes {context}: give a longer text or a shorter --context"
        )
    tokens = ids[: n * context].reshape(n, context)
    if tokenizer.add_bos and tokenizer.bos is not None:
        tokens[:, 0] = tokenizer.bos
    return Windows(tokens)
