"""DeepSeek V2, V3, R1, Kimi K2, Moonlight, GLM-4.7-Flash (GGUF `deepseek2`): latent attention, leading dense layers,
shared experts; V2 scores by softmax and takes the best of groups, V3 by sigmoid with a prior and the two best of each
group.

Source: the architectures of `DeepseekV2ForCausalLM`, `DeepseekV3ForCausalLM` and `Glm4MoeLiteForCausalLM` in
transformers.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from motley.models.attention import LatentAttention
from motley.models.config import Config, Score, read_config, vocab_size
from motley.models.feed_forward import feed_forward
from motley.models.layers import Layer
from motley.models.loader import Loader
from motley.models.rope import yarn_mscale


def config(metadata: Mapping[str, Any]) -> Config:
    c = read_config(metadata, "deepseek2", rope="interleaved", normalize=False, score=_score(metadata))
    assert c.heads.rope is not None
    head_dim = c.keys.whole("attention.key_length_mla", c.heads.head_dim)
    rope = replace(c.heads.rope, start=head_dim - c.heads.rope.dim, magnitude=1.0)  # the scores are scaled in its place
    scale = head_dim**-0.5 * yarn_mscale(c.keys) ** 2
    return replace(c, heads=replace(c.heads, head_dim=head_dim, rope=rope, scale=scale))


def layer(config: Config, load: Loader, index: int) -> Layer:
    return Layer(LatentAttention(config, load, index), feed_forward(config, load, index))


def _score(metadata: Mapping[str, Any]) -> Score:
    """Files of GLM-4.7-Flash, known by their layers and vocabulary, do not say that they score by sigmoid."""
    glm = metadata.get("deepseek2.block_count") in (47, 48) and vocab_size(metadata, "deepseek2") == 154880
    return "sigmoid" if glm else "softmax"
