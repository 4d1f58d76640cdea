"""Synthetic models: random weights of a real shape, in a GGUF that llama.cpp loads too.

For speed, not for sense: a model nobody had to download, with the bytes, tensors and routing work of the real one.
Nothing is quantised. Random *blocks* are drawn once into a pool per precision and scale, and each tensor is a run of
pool blocks from a random offset. Scales keep activations finite, routers spread and greedy tokens varied (`_sigma`).
The same shape and seed give the same bytes.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import floor, isqrt, log2, sqrt
from os import PathLike
from string import ascii_lowercase
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from motley.errors import UsageError
from motley.formats import blocks
from motley.formats.bytelevel import BYTE_OF
from motley.formats.decode import decode, e4m3_halves
from motley.formats.encode import encode
from motley.formats.gguf_writer import write_gguf
from motley.progress import Progress, silent
from motley.shape.model import ModelShape, Role, TensorShape
from motley.shape.quant import Quant, require_quant

POOL_BYTES = 16 << 20  # at least, for tensors that are larger

# llama.cpp's general.file_type for a file of mostly this precision (llama.h, enum llama_ftype)
_FILE_TYPES = {
    Quant.F32: 0,
    Quant.F16: 1,
    Quant.Q4_0: 2,
    Quant.Q4_1: 3,
    Quant.Q8_0: 7,
    Quant.Q5_0: 8,
    Quant.Q5_1: 9,
    Quant.Q2_K: 10,
    Quant.Q3_K: 12,
    Quant.Q4_K: 15,
    Quant.Q5_K: 17,
    Quant.Q6_K: 18,
    Quant.IQ2_XXS: 19,
    Quant.IQ2_XS: 20,
    Quant.IQ3_XXS: 23,
    Quant.IQ1_S: 24,
    Quant.IQ4_NL: 25,
    Quant.IQ3_S: 26,
    Quant.IQ2_S: 28,
    Quant.IQ4_XS: 30,
    Quant.IQ1_M: 31,
    Quant.BF16: 32,
    Quant.MXFP4: 38,
    Quant.NVFP4: 39,
}
_PRE_TOKENIZERS = {"olmoe": "olmo", "qwen3moe": "qwen2"}
_END = "<|endoftext|>"


def synthesize(shape: ModelShape, path: str | PathLike[str], seed: int = 0, progress: Progress = silent) -> None:
    """Write random weights of `shape` to `path`: hundreds of MB/s, some 100 MB of memory whatever the size. Raises
    UnsupportedError for a shape that Motley does not run or a precision that it cannot write."""
    shape.require_runs()
    pools = _Pools(shape, seed)
    total = shape.n_bytes
    done = 0

    def counted(tensor: TensorShape) -> Iterator[NDArray[np.uint8]]:
        nonlocal done
        for chunk in pools.chunks(tensor):
            yield chunk
            done += chunk.nbytes
            progress(f"writing: {done / 1e6:.0f} MB", done / total)

    write_gguf(path, _metadata(shape), [(Written.of(tensor), counted(tensor)) for tensor in shape.tensors])


@dataclass(frozen=True)
class Written:
    """A tensor whose precision Motley can write."""

    name: str
    dims: tuple[int, ...]
    quant: Quant

    @classmethod
    def of(cls, tensor: TensorShape) -> Self:
        return cls(tensor.name, tensor.dims, require_quant(tensor.quant, tensor.name))


def _metadata(shape: ModelShape) -> dict[str, Any]:
    matrices = Counter[Quant]()
    for tensor in shape.tensors:
        matrices[require_quant(tensor.quant, tensor.name)] += tensor.n_bytes
    return {
        "general.architecture": shape.architecture,
        "general.name": f"synthetic {shape.name}",
        "general.file_type": file_type(matrices),
        "general.quantization_version": 2,
        **shape.attrs,
        **byte_level_tokenizer(shape.architecture, shape.vocab_size),
    }


def file_type(sizes: Counter[Quant]) -> int:
    """llama.cpp's `general.file_type` of a file with so many bytes of each precision."""
    return _FILE_TYPES[sizes.most_common(1)[0][0]]


# --- the tokenizer: any text can be encoded, every id can be decoded


def byte_level_tokenizer(architecture: str, vocab_size: int) -> dict[str, Any]:
    """GGUF keys of a BPE: the 256 bytes, pairs of letters with their merges, numbered fillers, one end token."""
    alphabet = sorted(BYTE_OF)
    room = vocab_size - len(alphabet) - 1
    if room < 0:
        raise UsageError(f"a byte-level vocabulary needs 257 tokens, not {vocab_size}: choose a shape with more")
    pairs = list(product(ascii_lowercase, repeat=2))[:room]
    fillers = [f"<{len(alphabet) + i}>" for i in range(len(pairs), room)]
    tokens = [*alphabet, *(a + b for a, b in pairs), *fillers, _END]
    end = len(tokens) - 1
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _PRE_TOKENIZERS.get(architecture, "gpt-2"),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * end + [3],  # normal; control
        "tokenizer.ggml.merges": [f"{a} {b}" for a, b in pairs] or ["a b"],
        "tokenizer.ggml.bos_token_id": end,
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.padding_token_id": end,
        "tokenizer.ggml.add_bos_token": False,
    }


# --- the weights


def _sigma(tensor: TensorShape, tied: bool, scaled: bool) -> float:
    """Standard deviation of a matrix's weights. 1 / sqrt(fan in) keeps the variance of what goes in; on top of it:

    embedding 1, so that a token stays visible in the stream that the layers add to (a tied one must also serve as
    head: larger, and every token would predict itself); outputs of the blocks 2 and 3, for attention averages and
    experts' weighted sums are small beside the stream; router 2 and head 4, so that the first choice is clear.
    `scaled`: the model multiplies embeddings by sqrt(fan in) (Gemma); tied ones are so much smaller that a token's own
    logit, of embedding times embedding, is no larger than others'.
    """
    if tensor.role is Role.EMBED:
        own = tensor.dims[-1] ** -0.75 if scaled else 1 / sqrt(tensor.dims[-1])
        return own if tied else 1.0
    gain = {Role.HEAD: 4.0, Role.ROUTER: 2.0}.get(tensor.role, 1.0)
    if ".ffn_down" in tensor.name:
        gain = 3.0
    if ".attn_output" in tensor.name:
        gain = 2.0
    return gain / sqrt(tensor.dims[-1])


class _Pools:
    """Random stored blocks by (precision, sigma), made when first needed."""

    def __init__(self, shape: ModelShape, seed: int) -> None:
        self.seed = seed
        self.tied, self.scaled = shape.has_tied_head, shape.architecture == "gemma4"
        self.offsets = np.random.default_rng([seed, 0])
        self.counts: dict[tuple[Quant, float], int] = {}  # blocks each pool must have
        for tensor in shape.tensors:
            key = self._key(tensor)
            self.counts[key] = max(self.counts.get(key, 0), _blocks_needed(tensor))
        self.pools: dict[tuple[Quant, float], NDArray[np.uint8]] = {}

    def _key(self, tensor: TensorShape) -> tuple[Quant, float]:
        return require_quant(tensor.quant, tensor.name), _sigma(tensor, self.tied, self.scaled)

    def chunks(self, tensor: TensorShape) -> Iterator[NDArray[np.uint8]]:
        """The tensor's bytes, in pieces of at most a pool."""
        if len(tensor.dims) == 1:
            yield self._vector(tensor)
            return
        pool = self._pool(*self._key(tensor))
        start = int(self.offsets.integers(len(pool)))
        left = tensor.n_bytes // tensor.quant.block_bytes
        while left:
            piece = pool[start : start + left]
            yield piece.reshape(-1)
            left -= len(piece)
            start = 0

    def _vector(self, tensor: TensorShape) -> NDArray[np.uint8]:
        """Norm weights and scales near 1, decays near -1, biases near 0. All pairs turn at their own speed."""
        if tensor.name == "rope_freqs.weight":
            return encode(np.ones(tensor.dims), require_quant(tensor.quant, tensor.name))
        near_1 = tensor.role is Role.NORM or tensor.name.endswith((".scale", "layer_output_scale.weight"))
        centre = -1 if tensor.name.endswith("ssm_a") else int(near_1)
        noise = self.offsets.uniform(-0.1, 0.1, tensor.dims)
        return encode(noise + centre, require_quant(tensor.quant, tensor.name))

    def _pool(self, quant: Quant, sigma: float) -> NDArray[np.uint8]:
        """Blocks [n, block bytes]; n is prime and at least the number of rows, so that the rows of a tensor that wraps
        around the pool all begin at different blocks: equal rows of the head would be tied logits."""
        key = (quant, sigma)
        if key not in self.pools:
            count = _prime_from(self.counts[key])
            rng = np.random.default_rng([self.seed, quant.ggml_type, round(sigma * 1e9)])
            self.pools[key] = random_blocks(rng, quant, count, sigma).view(np.uint8).reshape(count, quant.block_bytes)
        return self.pools[key]


def _blocks_needed(tensor: TensorShape) -> int:
    """As many as the tensor has, up to POOL_BYTES of them, and one per row."""
    n_blocks = tensor.n_bytes // tensor.quant.block_bytes
    n_rows = tensor.n_params // tensor.dims[-1]
    return max(min(n_blocks, POOL_BYTES // tensor.quant.block_bytes), n_rows)


def _prime_from(n: int) -> int:
    """The first prime that is at least `n`."""
    n = max(n, 3) | 1
    while any(n % divisor == 0 for divisor in range(3, isqrt(n) + 1, 2)):
        n += 2
    return n


def random_blocks(rng: np.random.Generator, quant: Quant, count: int, sigma: float) -> NDArray[Any]:
    """`count` stored blocks whose decoded values have mean 0 and standard deviation `sigma`."""
    if quant.block == 1:
        return encode(rng.standard_normal(count, np.float32) * np.float32(sigma), quant)
    layout = blocks.LAYOUT[quant]
    size = count * quant.block_bytes
    records = rng.integers(0, 1 << 64, -(-size // 8), np.uint64).view(np.uint8)[:size].view(layout)
    _FILLERS[quant](rng, records, sigma)
    return records


def _deviation(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _fill_q8_0(rng: np.random.Generator, records: Any, sigma: float) -> None:
    records["qs"][records["qs"] == -128] = 0  # no quantiser writes it, and kernels may rely on that
    records["d"] = sigma / _deviation(np.arange(-127, 128))


def _fill_q4_0(rng: np.random.Generator, records: Any, sigma: float) -> None:
    bytes_ = np.arange(256, dtype=np.uint8)
    bytes_[bytes_ & 0x0F == 0] |= 0x08  # -8 has no counterpart: 0 instead, or every row would lean to one side
    bytes_[bytes_ >> 4 == 0] |= 0x80
    records["qs"] = bytes_[records["qs"]]
    records["d"] = sigma / _deviation((bytes_ & 0x0F).astype(int) - 8)


def _fill_with_mins(rng: np.random.Generator, records: Any, sigma: float, levels: int) -> None:
    """Minimum = middle level times scale, for a mean of 0."""
    scales = rng.integers(16, 48, (len(records), 8), np.uint8)
    records["scales"] = blocks.pack_scales(scales, scales)
    middle = (levels - 1) / 2
    d = sigma / (_deviation(np.arange(16, 48)) * _deviation(np.arange(levels) - middle))
    records["d"] = d
    records["dmin"] = records["d"].astype(np.float32) * middle


def _fill_q4_k(rng: np.random.Generator, records: Any, sigma: float) -> None:
    _fill_with_mins(rng, records, sigma, 16)


def _fill_q5_k(rng: np.random.Generator, records: Any, sigma: float) -> None:
    _fill_with_mins(rng, records, sigma, 32)


def _fill_q6_k(rng: np.random.Generator, records: Any, sigma: float) -> None:
    scales = rng.integers(32, 96, (len(records), 16), np.int8)
    records["scales"] = np.where(rng.integers(0, 2, scales.shape, bool), scales, -scales)
    records["d"] = sigma / (_deviation(np.arange(32, 96)) * _deviation(np.arange(-32, 32)))


def _fill_with_smallest(rng: np.random.Generator, records: Any, sigma: float, levels: int) -> None:
    """Q4_1 and Q5_1."""
    middle = (levels - 1) / 2
    records["d"] = sigma / _deviation(np.arange(levels) - middle)
    records["m"] = -records["d"].astype(np.float32) * middle


def _fill_q4_1(rng: np.random.Generator, records: Any, sigma: float) -> None:
    _fill_with_smallest(rng, records, sigma, 16)


def _fill_q5_1(rng: np.random.Generator, records: Any, sigma: float) -> None:
    _fill_with_smallest(rng, records, sigma, 32)


def _fill_q2_k(rng: np.random.Generator, records: Any, sigma: float) -> None:
    scales = rng.integers(4, 12, (len(records), 16), np.uint8)
    records["scales"] = scales | scales << 4
    records["d"] = sigma / (_deviation(np.arange(4, 12)) * _deviation(np.arange(4) - 1.5))
    records["dmin"] = records["d"].astype(np.float32) * 1.5


def _fill_by_measure(rng: np.random.Generator, records: Any, sigma: float, quant: Quant) -> None:
    """Whatever else is in the blocks, d makes the deviation right; it has either sign, for a mean of 0."""
    _put_d(records, np.ones(len(records), np.float16))
    d = sigma / _deviation(decode(records[:4096].view(np.uint8), quant))
    _put_d(records, np.where(rng.integers(0, 2, len(records), bool), d, -d).astype(np.float16))


def _put_d(records: Any, d: NDArray[np.float16]) -> None:
    if "d" in records.dtype.names:
        records["d"] = d
    else:  # IQ1_M: a quarter in each of four words
        quarters = d.view(np.uint16)[:, None] >> np.array([0, 4, 8, 12], np.uint16)
        records["scales"] = records["scales"] & 0x0FFF | quarters << 12


def _fill_nvfp4(rng: np.random.Generator, records: Any, sigma: float) -> None:
    """The scales around the wanted one, in the proportion that gives its variance."""
    halves = e4m3_halves()[:0x7F].astype(np.float64)
    wanted = np.clip(sigma / _deviation(blocks.MXFP4_VALUES), halves[1], halves[-2])
    lower = int(np.searchsorted(halves, wanted, side="right")) - 1
    share = (halves[lower + 1] ** 2 - wanted**2) / (halves[lower + 1] ** 2 - halves[lower] ** 2)
    records["scales"] = lower + (rng.random(records["scales"].shape) >= share)


def _fill_mxfp4(rng: np.random.Generator, records: Any, sigma: float) -> None:
    """Scales are powers of two: the two around the wanted one, in the proportion that gives its variance."""
    wanted = sigma / _deviation(blocks.MXFP4_VALUES / 2)
    lower = floor(log2(wanted))
    share = (4 - (wanted / 2.0**lower) ** 2) / 3  # of the lower: share * 1 + (1 - share) * 4 = the ratio squared
    records["e"] = 127 + lower + (rng.random(len(records)) >= share)


_MEASURED = (
    Quant.Q5_0,
    Quant.Q3_K,
    Quant.IQ4_NL,
    Quant.IQ4_XS,
    Quant.IQ3_S,
    Quant.IQ3_XXS,
    Quant.IQ2_S,
    Quant.IQ2_XS,
    Quant.IQ2_XXS,
    Quant.IQ1_M,
    Quant.IQ1_S,
)
_FILLERS: dict[Quant, Callable[[np.random.Generator, Any, float], None]] = {
    Quant.Q8_0: _fill_q8_0,
    Quant.Q4_0: _fill_q4_0,
    Quant.Q4_1: _fill_q4_1,
    Quant.Q5_1: _fill_q5_1,
    Quant.Q2_K: _fill_q2_k,
    Quant.Q4_K: _fill_q4_k,
    Quant.Q5_K: _fill_q5_k,
    Quant.Q6_K: _fill_q6_k,
    Quant.MXFP4: _fill_mxfp4,
    Quant.NVFP4: _fill_nvfp4,
    **{quant: partial(_fill_by_measure, quant=quant) for quant in _MEASURED},
}
