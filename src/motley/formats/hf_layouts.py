"""What lies otherwise in a Hugging Face tensor than in the GGUF one, one function each: (values, shape) -> values.

They only cut and move, for values that are records of a quantised format pass through them too (see `packed`); the few
that calculate raise TypeError there, and the folder then gives them float32. Sources: transformers' modelling code for
the one side, llama.cpp's converter for the other.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motley.shape.model import ModelShape

Values = NDArray[Any]
Layout = Callable[[Values, ModelShape], Values]


def as_is(values: Values, shape: ModelShape) -> Values:
    return values


# --- rotation


def interleaved(values: Values, shape: ModelShape) -> Values:
    """Rows of each head from (i, i + N/2) pairs, Hugging Face's rotation, to (2i, 2i+1), that of GGUF's `llama`."""
    heads = values.reshape(-1, 2, shape.head_dim // 2, values.shape[-1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(values.shape)


# --- gate and up in one, experts in one


def first_half(values: Values, shape: ModelShape) -> Values:
    """[..., 2F, D] -> gate [..., F, D]"""
    return values[..., : values.shape[-2] // 2, :]


def second_half(values: Values, shape: ModelShape) -> Values:
    return values[..., values.shape[-2] // 2 :, :]


def transposed(values: Values, shape: ModelShape) -> Values:
    """[E, F, D] -> [E, D, F]: what is multiplied from the right."""
    return values.swapaxes(-1, -2)


def first_half_across(values: Values, shape: ModelShape) -> Values:
    """[E, D, 2F] -> gate [E, F, D]"""
    return first_half(values.swapaxes(-1, -2), shape)


def second_half_across(values: Values, shape: ModelShape) -> Values:
    return second_half(values.swapaxes(-1, -2), shape)


def even_across(values: Values, shape: ModelShape) -> Values:
    """gpt-oss: gate and up take turns, [E, D, 2F] -> gate [E, F, D]"""
    return values.swapaxes(-1, -2)[..., ::2, :]


def odd_across(values: Values, shape: ModelShape) -> Values:
    return values.swapaxes(-1, -2)[..., 1::2, :]


def even(values: Values, shape: ModelShape) -> Values:
    """Biases of the same: [E, 2F] -> [E, F]"""
    return values[..., ::2]


def odd(values: Values, shape: ModelShape) -> Values:
    return values[..., 1::2]


def flat(values: Values, shape: ModelShape) -> Values:
    return values.reshape(-1)


# --- latent attention


def keys_up(values: Values, shape: ModelShape) -> Values:
    """The up-projection of keys and values [H (N + M), R] -> keys [H, R, N], as queries are taken into the latent."""
    heads = values.reshape(shape.n_heads, -1, values.shape[-1])
    return heads[:, : heads.shape[1] - _value_dim(shape)].swapaxes(1, 2)


def values_up(values: Values, shape: ModelShape) -> Values:
    """-> values [H, M, R]"""
    heads = values.reshape(shape.n_heads, -1, values.shape[-1])
    return heads[:, heads.shape[1] - _value_dim(shape) :]


def _value_dim(shape: ModelShape) -> int:
    return _whole(shape, "attention.value_length_mla")


# --- the gated delta rule


def plus_one(values: Values, shape: ModelShape) -> Values:
    """Norms that are kept as what they differ from 1."""
    return values + np.float32(1)


def decay(values: Values, shape: ModelShape) -> Values:
    return -np.exp(values, dtype=np.float32)


def without_middle(values: Values, shape: ModelShape) -> Values:
    """A convolution by channel, [C, 1, taps] -> [C, taps]"""
    return values[:, 0]


def queries_keys_values(values: Values, shape: ModelShape) -> Values:
    """Qwen3-Next has q, k, v and z of each key head side by side; GGUF all q, all k, all v ..."""
    q, k, v, _ = _per_key_head(values, shape)
    return np.concatenate([part.reshape(-1, values.shape[-1]) for part in (q, k, v)])


def output_gates(values: Values, shape: ModelShape) -> Values:
    """... and z apart."""
    return _per_key_head(values, shape)[3].reshape(-1, values.shape[-1])


def _per_key_head(values: Values, shape: ModelShape) -> list[Values]:
    k_heads, k_dim = _whole(shape, "ssm.group_count"), _whole(shape, "ssm.state_size")
    v = _whole(shape, "ssm.inner_size") // k_heads
    heads = values.reshape(k_heads, 2 * k_dim + 2 * v, values.shape[-1])
    return np.split(heads, (k_dim, 2 * k_dim, 2 * k_dim + v), axis=1)


def tiled(values: Values, shape: ModelShape) -> Values:
    """Qwen 3.5: value heads by key head in Hugging Face's files; in GGUF's the first of each, then the second of each.
    Rows; also of a vector."""
    k_heads, v_heads = _whole(shape, "ssm.group_count"), _whole(shape, "ssm.time_step_rank")
    heads = values.reshape(k_heads, v_heads // k_heads, len(values) // v_heads, *values.shape[1:])
    return heads.swapaxes(0, 1).reshape(values.shape)


def tiled_decay(values: Values, shape: ModelShape) -> Values:
    return tiled(decay(values, shape), shape)


def tiled_tail(values: Values, shape: ModelShape) -> Values:
    """The rows behind queries and keys."""
    first = 2 * _whole(shape, "ssm.group_count") * _whole(shape, "ssm.state_size")
    return np.concatenate([values[:first], tiled(values[first:], shape)])


def tiled_taps(values: Values, shape: ModelShape) -> Values:
    return tiled_tail(without_middle(values, shape), shape)


def tiled_columns(values: Values, shape: ModelShape) -> Values:
    k_heads, v_heads = _whole(shape, "ssm.group_count"), _whole(shape, "ssm.time_step_rank")
    width = _whole(shape, "ssm.inner_size") // v_heads
    heads = values.reshape(-1, k_heads, v_heads // k_heads, width)
    return heads.swapaxes(1, 2).reshape(values.shape)


def _whole(shape: ModelShape, key: str) -> int:
    value = shape.attrs[f"{shape.architecture}.{key}"]
    assert isinstance(value, int)
    return value
