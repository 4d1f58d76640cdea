"""What each layer of a GGUF file keeps of a sequence, from the file's metadata: what Motley keeps, where it runs the
family.

Full attention of one size where the metadata say nothing else, as for most families.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

from motley.errors import FormatError
from motley.formats.metadata import get_float, get_int, shown
from motley.shape.mixer import Mixer
from motley.shape.spec import MixerSpec

LLAMA4_CHUNK = 8192  # its files do not say


class Numbers:
    """Metadata keys of one architecture, which GGUF prefixes with its name."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        self.metadata = metadata
        self.prefix = f"{architecture}."

    def most(self, key: str, *default: Any) -> Any:
        """Of one number, or one a layer."""
        values = self.metadata.get(self.prefix + key)
        if not isinstance(values, list):
            return self.int(key, *default)
        if not all(type(value) is int for value in values):
            raise FormatError(
                f"metadata key {shown(self.prefix + key)} must be a number or one a layer, not {shown(values)}"
            )
        return max(values, default=0)

    def of_layer(self, key: str, layer: Any) -> Any:
        """Of one number, or one a layer."""
        values = self.metadata.get(self.prefix + key)
        if not isinstance(values, list):
            return self.int(key)
        if layer >= len(values):
            raise FormatError(f"metadata key {shown(self.prefix + key)} has {len(values)} numbers, not one a layer")
        return values[layer]

    def int(self, key: str, default: int | None = None) -> int:
        value = get_int(self.metadata, self.prefix + key, *([] if default is None else [default]))
        if not 0 <= value < 1 << 31:
            raise FormatError(
                f"metadata key {shown(self.prefix + key)} is {value}: not a size; convert the model again"
            )
        return value

    def float(self, key: str, default: float | None = None) -> float:
        value = get_float(self.metadata, self.prefix + key, *([] if default is None else [default]))
        if not isfinite(value):
            raise FormatError(f"metadata key {shown(self.prefix + key)} is {value}; convert the model again")
        return value


def mixers_of(numbers: Numbers, n_layers: int, d_model: int) -> tuple[Mixer, ...]:
    """One a layer, or none at all: `ModelShape` then takes full attention. Raises FormatError for a key that is odd."""
    architecture = numbers.prefix[:-1]
    heads = numbers.most("attention.head_count")
    if rank := numbers.int("attention.kv_lora_rank", 0):
        rope = numbers.int("rope.dimension_count", 0)
        nope = max(numbers.int("attention.key_length_mla", numbers.int("attention.key_length", rope)) - rope, 0)
        value = numbers.int("attention.value_length_mla", numbers.int("attention.value_length", nope))
        latent = Mixer.latent(heads, rank, rope, nope, value)
        return (replace(latent, width=latent.width + rank),) * n_layers  # in two orders: to score by, and to sum up
    if numbers.int("ssm.group_count", 0):
        return tuple(_delta_or_full(numbers, i, heads, d_model) for i in range(n_layers))
    if architecture == "gemma4":
        return tuple(_gemma4(numbers, i, n_layers) for i in range(n_layers))
    window = numbers.int("attention.sliding_window", LLAMA4_CHUNK if architecture == "llama4" else 0)
    windowed = {"gpt-oss": lambda i: i % 2 == 0, "llama4": lambda i: (i + 1) % 4 != 0}.get(architecture)
    if windowed is None or not window:
        return ()
    full = Mixer.full(heads, numbers.most("attention.head_count_kv", heads), _width(numbers, "key", d_model, heads))
    return tuple(full.windowed(window) if windowed(i) else full for i in range(n_layers))


def _width(numbers: Numbers, what: str, d_model: int, heads: int) -> int:
    return numbers.int(f"attention.{what}_length", d_model // max(heads, 1))


def _delta_or_full(numbers: Numbers, layer: int, heads: int, d_model: int) -> Mixer:
    recurrent = numbers.metadata.get(numbers.prefix + "attention.recurrent_layers")
    every = max(numbers.int("full_attention_interval", 4), 1)
    if recurrent[layer] if isinstance(recurrent, list) and layer < len(recurrent) else (layer + 1) % every:
        v_heads, inner = numbers.int("ssm.time_step_rank"), numbers.int("ssm.inner_size")
        spec = MixerSpec(
            "deltanet",
            k_heads=numbers.int("ssm.group_count"),
            v_heads=v_heads,
            k_dim=numbers.int("ssm.state_size"),
            v_dim=inner // max(v_heads, 1),
            conv=numbers.int("ssm.conv_kernel"),
        )
        return spec.mixer(d_model)
    return Mixer.full(heads, numbers.most("attention.head_count_kv", heads), _width(numbers, "key", d_model, heads))


def _gemma4(numbers: Numbers, layer: int, n_layers: int) -> Mixer:
    heads, kv = (numbers.of_layer(f"attention.head_count{end}", layer) for end in ("", "_kv"))
    pattern = numbers.metadata.get(numbers.prefix + "attention.sliding_window_pattern")
    if not isinstance(pattern, list) or len(pattern) < n_layers:
        raise FormatError(
            f"metadata key {numbers.prefix}attention.sliding_window_pattern must say it of {n_layers} layers"
        )
    if pattern[layer]:
        window = numbers.int("attention.sliding_window")
        return Mixer.full(heads, kv, numbers.int("attention.key_length_swa")).windowed(window)
    return Mixer.full(heads, kv, numbers.int("attention.key_length"))
