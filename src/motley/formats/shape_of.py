"""The shape of an opened checkpoint: exact, from the tensors that are there.

For the families Motley runs, the metadata's dimensions must agree with the tensors, one by one; for any other GGUF the
roles are read off the tensor names. What disagrees or is missing becomes a FormatError that names the key or tensor.
"""

import re
from collections.abc import Mapping
from typing import Any

from motley.errors import FormatError, UnsupportedError, UsageError
from motley.formats.keys import Keys
from motley.formats.metadata import get_str, shown
from motley.formats.mixers import mixers_of, window_of
from motley.formats.tensor import AssembledTensor, Checkpoint, QuantTensor
from motley.shape.attrs import attrs_of
from motley.shape.dims import ARCHITECTURES, Dims
from motley.shape.mix import Facts, Mix
from motley.shape.model import ModelShape, Role, TensorShape
from motley.shape.tensors import tensors_of

_IN_LAYER = re.compile(r"blk\.(\d{1,6})\.(?:nextn\.|indexer\.)?(\w+?)(?:\.(?:weight|bias|scale))?")
_OUTSIDE = {
    "token_embd": Role.EMBED,
    "token_embd_norm": Role.NORM,
    "output": Role.HEAD,
    "output_norm": Role.NORM,
    "rope_freqs": Role.ATTENTION,
}
# First match wins; names as llama.cpp gives them.
_ROLES = (
    (re.compile(r"\w+_norm(_\d)?"), Role.NORM),
    (re.compile(r"ffn_(gate|up|down|gate_up)_exps"), Role.EXPERT),
    (re.compile(r"ffn_(gate|up|down|gate_inp)_shexp"), Role.SHARED_EXPERT),
    (re.compile(r"ffn_gate_inp|exp_probs_b"), Role.ROUTER),
    (re.compile(r"ffn_(gate|up|down)"), Role.DENSE_FFN),
    (re.compile(r"(attn|ssm)_\w+|layer_output_scale"), Role.ATTENTION),
)


def shape_of(checkpoint: Checkpoint) -> ModelShape:
    """Raises FormatError (a key or tensor is missing or disagrees) or UnsupportedError (a tensor of unknown role)."""
    metadata, tensors = checkpoint.metadata, checkpoint.tensors
    architecture = checkpoint.architecture
    keys = Keys(metadata, architecture)
    n_mtp = keys.whole("nextn_predict_layers", 0)
    embedding = _tensor(tensors, "token_embd.weight", 2)
    n_heads = keys.most("attention.head_count")
    n_experts = keys.whole("expert_count", 0)
    d_model = keys.whole("embedding_length")
    dims: dict[str, Any] = {
        "name": get_str(metadata, "general.name", architecture)[:200],
        "architecture": architecture,
        "n_layers": max(keys.whole("block_count") - n_mtp, 0),
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": _kv_heads(keys, n_heads),
        "head_dim": keys.whole(
            "attention.key_length_mla", keys.whole("attention.key_length", d_model // max(n_heads, 1))
        ),
        "n_experts": n_experts,
        "n_experts_used": keys.whole("expert_used_count") if n_experts else 0,
        "d_expert": _expert_width(tensors, keys) if n_experts else 0,
        "vocab_size": embedding.dims[0],
        "context": keys.whole("context_length"),
        "source": f"GGUF {checkpoint.hash}",
    }
    every = [_tensor_shape(tensor) for tensor in tensors.values()]
    further = range(dims["n_layers"], dims["n_layers"] + n_mtp)
    found = tuple(t for t in every if t.layer not in further)
    _check_layers(found, dims["n_layers"])
    attrs = {key: value for key, value in metadata.items() if key.startswith(f"{architecture}.")}
    if architecture in ARCHITECTURES and n_experts:
        attrs = {**_check_family(dims, keys, tensors), **attrs}
    mtp = tuple(t for t in every if t.layer in further)
    mixers = mixers_of(keys, dims["n_layers"], dims["d_model"])
    assembled = any(isinstance(tensors[t.name], AssembledTensor) for t in found if t.name.endswith("_exps.weight"))
    return ModelShape(**dims, tensors=found, attrs=attrs, mixers=mixers, mtp=mtp, assembled=assembled)


def _kv_heads(keys: Keys, n_heads: int) -> int:
    """Of layers that attend to everything, where others differ (Gemma 4)."""
    if keys.architecture == "gemma4":
        full = [i for i in range(keys.whole("block_count")) if not window_of(keys, i)]
        return keys.of_layer("attention.head_count_kv", full[0] if full else 0)
    return keys.most("attention.head_count_kv", n_heads)


def _tensor(tensors: Mapping[str, QuantTensor], name: str, n_dims: int) -> QuantTensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise FormatError(f"tensor {shown(name)} is missing; convert the model again with a current converter")
    if len(tensor.dims) != n_dims:
        raise FormatError(f"tensor {shown(name)} has dimensions {list(tensor.dims)}, not {n_dims} of them")
    return tensor


def _expert_width(tensors: Mapping[str, QuantTensor], keys: Keys) -> int:
    """F, from the first layer that has experts; a model cut to its leading dense layers has none."""
    if keys.whole("leading_dense_block_count", 0) >= keys.whole("block_count"):
        return keys.whole("expert_feed_forward_length")
    for name in tensors:
        if name.endswith(".ffn_up_exps.weight"):
            return _tensor(tensors, name, 3).dims[1]  # [E, F, D]
        if name.endswith(".ffn_gate_up_exps.weight"):
            return _tensor(tensors, name, 3).dims[1] // 2
    return _tensor(tensors, "blk.0.ffn_up_exps.weight", 3).dims[1]  # raises: it is missing


def _check_family(dims: Mapping[str, Any], keys: Keys, tensors: Mapping[str, QuantTensor]) -> Mapping[str, object]:
    """Every tensor that the family needs is there with its dimensions; the family's metadata, defaults filled in."""
    try:
        expected = Dims(
            **dims,
            d_dense=keys.whole("feed_forward_length", dims["d_expert"]),
            rms_eps=keys.real("attention.layer_norm_rms_epsilon"),
            rope_theta=keys.real("rope.freq_base", 1e4),  # llama.cpp's default
            tied_embeddings="output.weight" not in tensors,
        )
    except UsageError as error:
        raise FormatError(f"the metadata do not describe a model: {error}") from None
    for want in tensors_of(expected.spec(), Mix("f32", Facts(expected.n_layers))):
        got = _tensor(tensors, want.name, len(want.dims))
        if got.dims != want.dims:
            raise FormatError(
                f"tensor {want.name!r} has dimensions {list(got.dims)}, but the metadata of this "
                f"{expected.architecture} say {list(want.dims)}"
            )
    return attrs_of(expected.spec())


def _tensor_shape(tensor: QuantTensor) -> TensorShape:
    role, layer = role_of(tensor.name)
    return TensorShape(tensor.name, tensor.dims, tensor.quant, role, layer)


def role_of(name: str) -> tuple[Role, int | None]:
    """(role, layer) of a GGUF tensor name; UnsupportedError where the name says nothing to Motley."""
    outside = _OUTSIDE.get(name.removesuffix(".weight").removesuffix(".bias"))
    if outside is not None:
        return outside, None
    match = _IN_LAYER.fullmatch(name)
    if match:
        for pattern, role in _ROLES:
            if pattern.fullmatch(match[2]):
                return role, int(match[1])
    raise UnsupportedError(f"tensor {shown(name)} has no role that Motley knows, so its cost cannot be placed")


def _check_layers(tensors: tuple[TensorShape, ...], n_layers: int) -> None:
    """Every layer has tensors, so that nothing below counts to a block_count that a hostile file made up."""
    layers = {tensor.layer for tensor in tensors if tensor.layer is not None}
    extra = max(layers, default=-1)
    if extra >= n_layers:
        raise FormatError(f"tensors of layer {extra} are there, but the metadata say block_count {n_layers}")
    missing = n_layers - len(layers)
    if missing:
        first = next(layer for layer in range(n_layers) if layer not in layers)
        raise FormatError(f"layer {first} has no tensors ({missing} of {n_layers} layers are missing)")
