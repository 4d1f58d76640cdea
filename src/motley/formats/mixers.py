"""What each layer of a GGUF file keeps of a sequence, from the file's metadata, and which layers differ from others: as
Motley runs the family, where it does.

Full attention of one size where the metadata say nothing else, as for most families.
"""

from motley.formats.keys import Keys
from motley.shape.attrs import LLAMA4_CHUNK
from motley.shape.mixer import Mixer
from motley.shape.spec import MixerSpec


def window_of(keys: Keys, layer: int) -> int:
    """The latest positions that the layer attends to, or for Llama 4 the length of its chunks; 0: everything."""
    if keys.architecture == "gpt-oss":
        return 0 if layer % 2 else keys.whole("attention.sliding_window")
    if keys.architecture == "llama4":
        return keys.whole("attention.sliding_window", LLAMA4_CHUNK) if (layer + 1) % 4 else 0
    if keys.architecture == "gemma4":
        windowed = keys.flag_of_layer("attention.sliding_window_pattern", layer)
        return keys.whole("attention.sliding_window") if windowed else 0
    return 0


def is_recurrent(keys: Keys, layer: int) -> bool:
    """Of a model with gated delta rules: whether this layer is one."""
    if keys.has("attention.recurrent_layers"):
        return keys.flag_of_layer("attention.recurrent_layers", layer)
    return (layer + 1) % max(keys.whole("full_attention_interval", 4), 1) != 0


def mixers_of(keys: Keys, n_layers: int, d_model: int) -> tuple[Mixer, ...]:
    """One a layer. Raises FormatError for a key that is odd."""
    if keys.whole("attention.kv_lora_rank", 0):
        return (_latent(keys),) * n_layers
    return tuple(_attention(keys, layer, d_model) for layer in range(n_layers))


def _latent(keys: Keys) -> Mixer:
    rank, rope = keys.whole("attention.kv_lora_rank"), keys.whole("rope.dimension_count", 0)
    nope = max(keys.whole("attention.key_length_mla", keys.whole("attention.key_length", rope)) - rope, 0)
    value = keys.whole("attention.value_length_mla", keys.whole("attention.value_length", nope))
    return Mixer.latent(keys.most("attention.head_count"), rank, rope, nope, value)


def _attention(keys: Keys, layer: int, d_model: int) -> Mixer:
    if keys.whole("ssm.group_count", 0) and is_recurrent(keys, layer):
        v_heads = keys.whole("ssm.time_step_rank")
        return MixerSpec(
            "deltanet",
            k_heads=keys.whole("ssm.group_count"),
            v_heads=v_heads,
            k_dim=keys.whole("ssm.state_size"),
            v_dim=keys.whole("ssm.inner_size") // max(v_heads, 1),
            conv=keys.whole("ssm.conv_kernel"),
        ).mixer(d_model)
    heads = keys.of_layer("attention.head_count", layer)
    kv_heads = keys.of_layer("attention.head_count_kv", layer, heads)
    key = keys.whole("attention.key_length", d_model // max(heads, 1))
    value = keys.whole("attention.value_length", key)
    if not (window := window_of(keys, layer)):
        return Mixer.full(heads, kv_heads, key, value)
    key = keys.whole("attention.key_length_swa", key)
    return Mixer.full(heads, kv_heads, key, keys.whole("attention.value_length_swa", key)).windowed(window)
