"""From a Hugging Face state dict to GGUF's tensors, by the tables of `hf_names`; and what of a state dict is no part of
the text model."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motley.errors import FormatError
from motley.formats.hf_names import IN_LAYER, OUTSIDE, OWN_OUTSIDE, Source
from motley.shape.model import ModelShape

# How models that see or hear, too, call their text part, and what others call `model`.
_PREFIXES = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("ernie.", "model."),
)
_OTHER_SENSES = re.compile(
    r"(model\.)?(visual|vision_tower|vision_model|multi_modal_projector|mm_projector|embed_vision|audio_tower"
    r"|embed_audio)\..*"
)


def is_text(name: str) -> bool:
    """Whether a parameter is of the text model, not of what sees or hears."""
    return name.startswith("model.layers.") or not _OTHER_SENSES.fullmatch(name)


def plain_name(name: str) -> str:
    """As the tables have it."""
    if name.startswith("model.layers."):
        return name
    for prefix, plain in _PREFIXES:
        if name.startswith(prefix):
            return plain + name.removeprefix(prefix)
    return name


def gguf_tensor(name: str, shape: ModelShape, state: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The values of GGUF tensor `name` from a Hugging Face state dict, in GGUF's layout. Raises FormatError if no
    tensor of `state` holds it."""
    sources = _sources(name, shape.architecture)
    for source in sources:
        if source.name.replace("*", "0") in state:
            return source.layout(_values(source, shape, state), shape)
    looked_for = " and ".join(source.name.replace("*", "0") for source in sources)
    raise FormatError(f"no tensor for {name}: looked for {looked_for}")


def _sources(name: str, architecture: str) -> list[Source]:
    if not name.startswith("blk."):
        return list((OUTSIDE | OWN_OUTSIDE.get(architecture, {})).get(name, ()))
    _, layer, part = name.split(".", 2)
    return [Source(f"model.layers.{layer}.{s.name}", s.layout) for s in IN_LAYER[architecture].get(part, ())]


def _values(source: Source, shape: ModelShape, state: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    if "*" not in source.name:
        return state[source.name]
    return np.stack([state[source.name.replace("*", str(expert))] for expert in range(shape.n_experts)])
