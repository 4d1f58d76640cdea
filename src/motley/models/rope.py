"""Rotary embeddings from a checkpoint's metadata: plain, linear, YaRN. (Llama 3's factors are a tensor, `rope_freqs`.)

Every way of stretching a context comes down to a factor for each pair's frequency, and a magnitude.
Sources: YaRN, arXiv:2309.00071 (3.2: interpolation by parts; 3.4: the temperature), DeepSeek V2's configuration for
`mscale`, GGUF's keys `rope.*`.
"""

from math import ceil, floor, inf, log, pi

import numpy as np

from motley.errors import FormatError, UnsupportedError
from motley.formats.keys import Keys
from motley.ops.protocol import Rope


def read_rope(keys: Keys, head_dim: int, *, interleaved: bool, ending: str = "", truncate: bool = True) -> Rope:
    """Of heads of `head_dim`. `ending`: of the keys for layers with a window, where they differ. `truncate`: YaRN's
    borders are rounded to whole pairs."""
    dim = keys.whole(f"rope.dimension_count{ending}", head_dim)
    theta = keys.real(f"rope.freq_base{ending}", 10000.0)
    if dim % 2 or dim <= 0 or theta <= 0:
        raise FormatError(f"{keys.name('rope.dimension_count' + ending)} = {dim}, frequency base {theta}: no rotation")
    kind = keys.word("rope.scaling.type", "none")
    factor = keys.real("rope.scaling.factor", keys.real("rope.scale_linear", 1.0))
    if kind == "none" or factor == 1.0:
        return Rope(dim, theta, interleaved)
    if kind == "linear":
        return Rope(dim, theta, interleaved, factors=(factor,) * (dim // 2))
    if kind != "yarn":
        raise UnsupportedError(f"{keys.name('rope.scaling.type')} = {kind!r}: Motley knows none, linear and yarn")
    trained = keys.whole("rope.scaling.original_context_length")
    fast, slow = (keys.real(f"rope.scaling.yarn_beta_{n}", b) for n, b in (("fast", 32.0), ("slow", 1.0)))
    turns = [trained / (beta * 2 * pi) for beta in (fast, slow) if beta > 0]
    if theta <= 1 or factor <= 0 or len(turns) < 2 or not 0 < min(turns) <= max(turns) < inf:
        raise FormatError(f"{keys.name('rope.scaling.type')} = yarn with factor {factor} from {trained}: no rotation")
    first, last = (dim * log(each) / (2 * log(theta)) for each in turns)
    if truncate:
        first, last = floor(first), ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    # From pair `first` on the frequency goes over to the interpolated one, which it is from pair `last` on.
    ramp = np.clip((np.arange(dim // 2) - first) / max(last - first, 0.001), 0, 1)
    factors = 1 / (1 - ramp + ramp / factor)
    magnitude = keys.real("rope.scaling.yarn_attn_factor", 1.0) * (0.1 * log(factor) + 1.0)
    return Rope(dim, theta, interleaved, factors=tuple(factors.tolist()), magnitude=magnitude)


def yarn_mscale(keys: Keys) -> float:
    """DeepSeek's temperature, by which scores are multiplied twice in place of YaRN's magnitude: 1 without YaRN."""
    factor = keys.real("rope.scaling.factor", 1.0)
    multiplier = keys.real("rope.scaling.yarn_log_multiplier", 0.0)  # 0.1 mscale_all_dim
    return multiplier * log(factor) + 1.0 if factor > 1.0 else 1.0
